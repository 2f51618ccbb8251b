"""HyperFL-LPM (arXiv 2412.07187): HyperFL on the adapters of a large pretrained backbone.

The backbone is frozen and the same at every site; the hypernetwork generates the adapters alone.
Training is HyperFL's own.
"""

from __future__ import annotations

from pathlib import Path

import torch

from shared.plans import HyperFLLPMPlan, TrainingPlan
from worker.methods.hyperfl import MAX_FACTOR_BYTES, HyperFL
from worker.models.backbone_weights import load_adapted_backbone


def build_hyperfl_lpm(
    plan: TrainingPlan,
    device: torch.device,
    *,
    max_factor_bytes: int = MAX_FACTOR_BYTES,
    backbone_weights_file: Path | None = None,
) -> HyperFL:
    """The method, for one training plan, on ``device``; in bfloat16 where that is CUDA.

    Args:
        plan: of the federation; its model names the backbone, its settings pin the weights.
        device: to train on.
        max_factor_bytes: see :class:`HyperFL`.
        backbone_weights_file: this site's copy of the backbone's weights.

    Raises:
        ModelError: the backbone cannot be used, or its weights are not the federation's.
        pydantic.ValidationError: the plan's hyperparameters are not this method's.
    """
    settings = HyperFLLPMPlan.model_validate(plan.hyperparameters)
    extractor = load_adapted_backbone(
        plan.model,
        plan.image_shape,
        source=settings.backbone_weights,
        expected_digest=settings.backbone_digest,
        file=backbone_weights_file,
    )
    return HyperFL(
        plan,
        device,
        max_factor_bytes=max_factor_bytes,
        settings=settings,
        extractor=extractor,
        mixed_precision=device.type == "cuda",
    )
