"""FedBN (Li et al., ICLR 2021): share everything but batch normalisation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.federation.plans import TrainingPlan
from worker.errors import ModelError
from worker.methods.fedavg import FedAvg
from worker.methods.interface import SiteResources
from worker.models.registry import FeatureExtractor


class FedBN(FedAvg):
    """FedAvg's local round, with scale, shift and statistics of batch normalisation private."""

    def build_extractor(self, plan: TrainingPlan, resources: SiteResources) -> FeatureExtractor:
        """The network. Raises ModelError if it cannot be used, or would be shared whole."""
        extractor = super().build_extractor(plan, resources)
        if not self.kept_back(extractor.module):
            raise ModelError(
                f"model {plan.model!r} has no batch normalisation that is trained, so that fedbn "
                "would share all of it: use fedavg"
            )
        return extractor

    def kept_back(self, module: nn.Module) -> frozenset[str]:
        """See :class:`worker.methods.whole_model.method.ModelMethod`."""
        return frozenset(
            f"{place}.{name}" if place else name
            for place, layer in module.named_modules()
            if isinstance(layer, _BatchNorm)
            for name, parameter in layer.named_parameters(recurse=False)
            if parameter.requires_grad
        )
