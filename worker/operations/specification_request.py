"""What a person says of a federation that is to be specified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.protection_plan import ProtectionPlan
from shared.federation.specification import EncodingPlan, RoundPolicy


@dataclass(frozen=True)
class SpecificationRequest:
    """A federation in words; :func:`worker.operations.specification.specify` makes it whole.

    Attributes:
        name: the federation's name.
        method: a known method, or an import path.
        model: a known model, or an import path.
        round_policy: rounds, cohort, quorum, deadline, caps.
        seed: of the first shared weights.
        dataset: where classes and image shape come from if they are not given.
        data_dir: the data set's folder.
        num_classes: of the classifier; not needed where names or a data set say it.
        classes: names of the classes: a file with one in each line, or a list with commas.
        classes_from: a folder of images whose class folders give the names.
        image_shape: ``CxHxW``.
        features: of rows: a file with one in each line, or a list with commas; ``name``, or
            ``name=a|b|c`` with categories.
        num_features: of rows whose features nobody names.
        preset: named hyperparameters.
        settings: hyperparameters as ``key=value``; they replace the preset's.
        aggregation: the rule that combines updates.
        encoding: how updates are written.
        protection: of single updates from the coordinator.
        privacy: settings of the plan of differential privacy, its noise left out; None for none.
        backbone_weights: ``hub``, ``random`` or the path of a file.
        examples_per_client: training examples of a client, for methods with a privacy budget.
    """

    name: str
    method: str
    model: str
    round_policy: RoundPolicy
    seed: int
    dataset: str | None = None
    data_dir: Path | None = None
    num_classes: int | None = None
    classes: str | None = None
    classes_from: Path | None = None
    image_shape: str | None = None
    features: str | None = None
    num_features: int | None = None
    preset: str | None = None
    settings: Sequence[str] = ()
    aggregation: AggregationPlan = field(default_factory=AggregationPlan)
    encoding: EncodingPlan = field(default_factory=EncodingPlan)
    protection: ProtectionPlan | None = None
    privacy: Mapping[str, Any] | None = None
    backbone_weights: str | None = None
    examples_per_client: int | None = None
