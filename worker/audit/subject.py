"""What is audited: a federation at some weights, one of its clients, and images that are public."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from shared.arrays import NamedArrays, digest_arrays, digest_bytes
from shared.federation.plans import TrainingPlan
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.specification import FederationSpecification, document_digest
from shared.privacy_accountant import least_noise_multiplier
from worker.attacks.image_search import PixelRange
from worker.attacks.network import Network
from worker.data.client_data import Examples
from worker.errors import AuditError
from worker.methods.interface import Participant
from worker.methods.registry import METHODS
from worker.models.allowed_imports import NOTHING, AllowedImports
from worker.site_policy import SitePolicy

_CPU = torch.device("cpu")
_FEWEST_PUBLIC = 20
_MOST_PUBLIC = 2000


@dataclass(frozen=True, eq=False)
class Subject:
    """A federation, seen from one client.

    Attributes:
        specification: of the federation.
        weights: that the audited round starts from, float32 by name.
        client: whose updates are attacked.
        others: the rest of the cohort; where a site has no others, stand-ins.
        prior: public images that attacks may use.
        candidates: public images that they do not see: for baselines, ranks and non-members.
        policy: of the site.
        round_number: of the audited round.
        origin: of data and weights, one sentence for the report.
        allowed_imports: code that the specification may name.
    """

    specification: FederationSpecification
    weights: NamedArrays
    client: Participant
    others: Sequence[Participant]
    prior: Examples
    candidates: Examples
    policy: SitePolicy
    round_number: int
    origin: str
    allowed_imports: AllowedImports = NOTHING

    @property
    def network(self) -> Network:
        """The network under attack. Raises AuditError as :func:`check_audited`."""
        check_audited(self.specification)
        return Network(self.specification.training, self.allowed_imports)

    @property
    def privacy(self) -> PrivacyPlan | None:
        """The federation's plan of differential privacy."""
        return self.specification.training.privacy

    @property
    def pixel_range(self) -> PixelRange:
        """Of the client's images."""
        return PixelRange(*self.client.data.train.normalisation)

    @property
    def digest(self) -> str:
        """Of what decides a measurement: specification, weights, client, round, policy."""
        parts = (
            document_digest(self.specification.document),
            digest_arrays(self.weights),
            self.client.name,
            str(self.round_number),
            self.policy.model_dump_json(),
        )
        return digest_bytes("\n".join(parts).encode())


def check_audited(specification: FederationSpecification) -> None:
    """Raises AuditError if updates of the federation are ones that no attack here takes."""
    training = specification.training
    method = METHODS.get(training.method)
    if method is None or not specification.parameters.tensors:
        raise AuditError(
            f"updates of method {training.method} cannot be audited: what they show is not "
            "known, or nothing is shared"
        )
    if len(training.image_shape) == 1:
        raise AuditError(
            "the federation takes rows of features, and the attacks here look for images: what its "
            "updates show is not measured"
        )
    if "backbone_digest" in training.hyperparameters:
        raise AuditError(
            f"method {training.method} trains on a frozen backbone, for which there are no "
            "attacks here"
        )
    if training.method == "hyperfl-plus":
        raise AuditError(
            "updates of method hyperfl-plus are changes of the factors of Kronecker products, and "
            "the attacks here do not read a client's extractor from those; it can be computed all "
            "the same"
        )


def hides_examples(plan: TrainingPlan) -> bool:
    """Whether a round of the plan is one step on clipped gradients of single examples."""
    return plan.privacy is not None and plan.privacy.unit == "example"


def with_epsilon(subject: Subject, epsilon: float) -> Subject:
    """The subject in a federation of another budget, with the least noise that keeps to it.

    Raises:
        ValueError: the federation has no budget.
        PrivacyBudgetError: no noise keeps to it.
    """
    training = subject.specification.training
    if subject.privacy is None:
        raise ValueError("the federation has no privacy budget")
    plan = subject.privacy.model_copy(update={"epsilon": epsilon})
    plan = plan.model_copy(update={"noise_multiplier": least_noise_multiplier(plan.budget)})
    changed = training.model_copy(update={"privacy": plan})
    specification = subject.specification.model_copy(update={"training": changed})
    return replace(subject, specification=specification)


def with_small_clients(subject: Subject, num_examples: int) -> Subject:
    """The subject in a federation whose clients have so few examples.

    What is summed without noise is scaled by a weight of so many, not by a larger one, by which
    the sum's rounding would cover what small clients send. With noise the scale changes nothing.
    """
    specification = subject.specification
    cap = specification.round_policy.max_examples_weight
    if cap is None or cap <= num_examples or subject.privacy is not None:
        return subject
    policy = specification.round_policy.model_copy(update={"max_examples_weight": num_examples})
    return replace(subject, specification=specification.model_copy(update={"round_policy": policy}))


def divide_public(public: Examples, train: Examples, seed: int) -> tuple[Examples, Examples]:
    """Public images in two halves, one for attacks and one that they do not see.

    An image that the client trains on is left out of both.

    Raises:
        AuditError: there are too few.
    """
    own = {image.numpy().tobytes() for image in images_of(train)}
    strange = torch.tensor(
        [place for place, one in enumerate(images_of(public)) if one.numpy().tobytes() not in own],
        dtype=torch.int64,
    )
    if len(strange) < _FEWEST_PUBLIC:
        raise AuditError(
            f"an audit needs at least {_FEWEST_PUBLIC} test images that are not training images "
            f"too, to compare with; there are {len(strange)}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = strange[torch.randperm(len(strange), generator=generator)][:_MOST_PUBLIC]
    half = len(order) // 2
    return public.only(order[:half]), public.only(order[half:])


def images_of(examples: Examples) -> torch.Tensor:
    """All of them, normalised (n, C, H, W), never augmented."""
    images, _ = examples.batch(torch.arange(len(examples)), _CPU)
    return images
