"""Training methods: what each shares and how it trains locally.

A built-in method is a class that takes (plan, device, resources) and is a :class:`Method`. It is
added in two places: its name in :data:`worker.methods.registry.METHODS`, and its hyperparameters
and the parts that it shares in :data:`shared.federation.plans.KNOWN_METHODS`, since the coordinator
checks a federation before it creates it, and has no torch.

A method of a user's own is named by import path, is in neither, and checks its own hyperparameters.
What it needs is imported from here: inner modules may move.
"""

from shared.arrays import NamedArrays
from shared.federation.hyperparameters import ModelPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.errors import MethodError
from worker.methods.interface import (
    BuildsPersonalModel,
    GivesLogits,
    Method,
    Participant,
    Personalizes,
    PersonalModel,
    PrivateTensors,
    SiteResources,
    TrainingDivergedError,
    TrainingFailedError,
    TrainingInterrupted,
    TrainingResult,
)
from worker.methods.local_round.base_method import CannotTrain
from worker.methods.local_round.sgd import Descent, gradients_of, settings_of
from worker.methods.registry import build_method
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import ModelMethod

__all__ = [
    "BuildsPersonalModel",
    "CannotTrain",
    "Descent",
    "GivesLogits",
    "Method",
    "MethodError",
    "ModelClient",
    "ModelMethod",
    "ModelPlan",
    "NamedArrays",
    "ParameterSpecification",
    "Participant",
    "PersonalModel",
    "Personalizes",
    "PrivateTensors",
    "SiteResources",
    "TrainingDivergedError",
    "TrainingFailedError",
    "TrainingInterrupted",
    "TrainingPlan",
    "TrainingResult",
    "build_method",
    "gradients_of",
    "settings_of",
]
