"""HyperFL-LPM (arXiv 2412.07187): HyperFL on the adapters of a large pretrained backbone.

The backbone is frozen and the same at every site; the hypernetwork generates only the adapters.
Training is HyperFL's own.
"""

from __future__ import annotations

import torch

from shared.federation.hyperparameters import HyperFLLPMPlan
from shared.federation.plans import TrainingPlan
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import DEFAULT_RESOURCES, SiteResources
from worker.methods.on_backbone import build_backbone


class HyperFLLPM(HyperFL):
    """Shares the hypernetwork of the adapters; in bfloat16 on CUDA.

    Private are embedding and head as HyperFL's, a ResNet's hidden layer being part of the head,
    and the adapters' batch statistics.
    """

    def __init__(
        self, plan: TrainingPlan, device: torch.device, resources: SiteResources = DEFAULT_RESOURCES
    ) -> None:
        """Load the backbone, and check it.

        Raises:
            ModelError: it cannot be used, or its weights are not the federation's.
            pydantic.ValidationError: the plan's hyperparameters are not this method's.
        """
        settings = HyperFLLPMPlan.model_validate(plan.hyperparameters)
        super().__init__(
            plan,
            device,
            resources,
            settings=settings,
            extractor=build_backbone(plan, settings, resources, with_adapters=True),
            mixed_precision=device.type == "cuda",
        )
