"""What the methods with differential privacy have in common: budget, noise, the private step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch.nn.functional import cross_entropy

from shared.arrays import digest_arrays
from shared.federation.hyperparameters import PPSGDPlan, PrivateModelPlan, steps_per_epoch
from shared.federation.plans import TrainingPlan
from shared.privacy_accountant import (
    PrivacyBudget,
    PrivacyBudgetError,
    check_noise_multiplier,
    least_noise_multiplier,
)
from shared.rest.declines import DeclineKind
from worker.data.client_data import Batch
from worker.methods.interface import PrivateTensors, SiteResources
from worker.methods.local_round.base_method import CannotTrain
from worker.methods.local_round.client import HEAD_PREFIX
from worker.methods.local_round.random_streams import client_generator
from worker.methods.local_round.sgd import Descent, SGDSettings, head_settings_of, settings_of
from worker.methods.privacy.clipped_gradients import (
    ClippedGradients,
    add_noise,
    check_examples_are_separate,
)
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import ModelMethod
from worker.models.registry import FeatureExtractor

HeadStep = Callable[[torch.Tensor, torch.Tensor], None]
STEPS, NUM_EXAMPLES = "privacy.steps", "privacy.num_examples"


class PrivateModelMethod(ModelMethod):
    """A :class:`ModelMethod` whose shared tensors are trained only by private steps.

    A step takes each example with the sample rate's probability (Poisson sampling, which the
    accountant assumes), clips each example's gradient, adds noise σ·clip_norm to the sum and
    divides by the expected batch. The plan agrees on sample rate and σ for all clients, or they
    follow from the client's n and the steps of all planned rounds; a client for which either breaks
    the budget does not train, nor one whose own rate would be more than 1. The private
    tensors ``privacy.steps`` and ``privacy.num_examples`` hold the steps taken and the n they were
    accounted for; a client that would exceed its budget does not train. Steps count from the
    moment an update is made, whether or not its round is committed.

    Metrics beside the common ones: ``epsilon``, ``delta``, ``noise_multiplier`` (σ),
    ``sample_rate`` and ``private_steps`` so far. There is no ``train_loss``, which would be said
    without noise.

    ε does not cover: the number of examples, accuracy and loss on the test split (said as they
    are), and where the head is private what an extractor's gradient tells through it, since the
    head is trained on the same examples without noise.
    """

    def build_extractor(self, plan: TrainingPlan, resources: SiteResources) -> FeatureExtractor:
        """The network. Raises ModelError if it cannot be used, or mixes a batch's examples."""
        extractor = super().build_extractor(plan, resources)
        check_examples_are_separate(extractor.module)
        return extractor

    def initial_extra(self) -> PrivateTensors:
        """See :class:`ModelMethod`."""
        return {name: torch.zeros((), dtype=torch.int64) for name in (STEPS, NUM_EXAMPLES)}


class PrivateExtractorMethod(PrivateModelMethod):
    """For methods whose head is each client's own, and trained without noise."""

    _plan: PPSGDPlan

    def personal_settings(self) -> SGDSettings:
        """The head's; only the head is a client's own."""
        return head_settings_of(self._plan)


class PrivateSteps:
    """One client's private steps of one round, on some of its parameters, in place."""

    def __init__(
        self, client: ModelClient, parameters: Mapping[str, torch.Tensor], plan: PrivateModelPlan
    ) -> None:
        """Begin the round.

        Raises:
            CannotTrain: the budget does not allow for another round, was made for other data, or
                cannot be kept to.
        """
        self._sample_rate = _sample_rate(plan, client.num_examples)
        steps_per_round = plan.epochs * (
            client.batches_per_epoch(plan.batch_size)
            if plan.sample_rate is None
            else steps_per_epoch(plan.sample_rate)
        )
        num_planned = plan.rounds * steps_per_round
        self._num_before = int(client.private[STEPS])
        self._num_in_round = steps_per_round
        known = int(client.private[NUM_EXAMPLES])
        if known not in (0, client.num_examples):
            raise CannotTrain(
                f"its privacy budget was made for {known} training examples, not for "
                f"{client.num_examples}",
                DeclineKind.PRIVACY,
            )
        if self._num_before + steps_per_round > num_planned:
            raise CannotTrain(
                f"its privacy budget is spent: {self._num_before} of {num_planned} steps are taken",
                DeclineKind.PRIVACY,
            )
        self._client, self._parameters, self._plan = client, parameters, plan
        self._expected_batch = self._sample_rate * client.num_examples
        try:
            self._sigma = _noise_multiplier(plan, self._sample_rate, num_planned)
        except PrivacyBudgetError as error:
            raise CannotTrain(str(error), DeclineKind.PRIVACY) from error
        self._trains_head = any(name.startswith(HEAD_PREFIX) for name in parameters)
        function = client.logits if self._trains_head else client.features
        self._clipped = ClippedGradients(function, parameters, plan.clip_norm)
        self._descent = Descent(parameters, settings_of(plan))
        # By steps taken, which are saved before anything is sent, and by round and weights: neither
        # a round that is trained again nor a private state that was put back to an earlier day
        # repeats a sent update's samples or noise, which the accountant takes to be independent.
        base = digest_arrays({name: one.cpu().numpy() for name, one in parameters.items()})
        moment = f"after {self._num_before} steps from {base}"
        self._sampling, self._noise = (
            client_generator(client.seed, f"privacy {purpose} {moment}", client.round_number)
            for purpose in ("samples", "noise")
        )
        client.metrics |= {
            "epsilon": plan.epsilon,
            "delta": plan.delta,
            "noise_multiplier": self._sigma,
            "sample_rate": self._sample_rate,
            "private_steps": float(self._num_before + steps_per_round),
        }

    def batches(self) -> Iterator[Batch | None]:
        """A round's samples; None for one that nobody is in, which takes its step all the same."""
        for _ in range(self._num_in_round):
            yield self._client.sampled_batch(self._sample_rate, self._sampling)

    def take(self, batch: Batch | None, train_head: HeadStep | None = None) -> None:
        """One private step: all that the shared tensors learn of ``batch``.

        Args:
            batch: as :meth:`batches` gives it.
            train_head: where the head is private, trains it in place on the batch's features and
                labels, before the step.
        """
        if batch is None:
            sums = {name: torch.zeros_like(one) for name, one in self._parameters.items()}
        else:
            images, labels = batch
            with self._client.training_mode():
                run = self._clipped.run(images)
            if train_head is not None:
                train_head(run.outputs.detach(), labels)
            logits = run.outputs if self._trains_head else self._client.head.logits(run.outputs)
            sums = run.clipped_sum(cross_entropy(logits, labels, reduction="none"))
        noisy = add_noise(sums, self._sigma * self._plan.clip_norm, self._noise)
        self._descent.step({name: one / self._expected_batch for name, one in noisy.items()})

    def remembered(self) -> PrivateTensors:
        """What the client must not forget once the round is done."""
        return {
            STEPS: torch.tensor(self._num_before + self._num_in_round),
            NUM_EXAMPLES: torch.tensor(self._client.num_examples),
        }


def _sample_rate(plan: PrivateModelPlan, num_examples: int) -> float:
    """As agreed, or one batch's share. Raises CannotTrain if it does not fit the client."""
    rate = plan.sample_rate or plan.batch_size / num_examples
    if rate > 1:
        raise CannotTrain(
            f"batch_size {plan.batch_size} with {num_examples} training examples is a sample rate "
            f"of {rate:.4g}, which is more than 1",
            DeclineKind.PRIVACY,
        )
    return rate


def _noise_multiplier(plan: PrivateModelPlan, sample_rate: float, num_steps: int) -> float:
    """σ as agreed, if it keeps to the budget; the least that does, if none is agreed.

    Raises:
        PrivacyBudgetError: the agreed noise is not enough, or none is.
    """
    budget = PrivacyBudget(plan.epsilon, plan.delta, sample_rate, num_steps)
    if plan.noise_multiplier is None:
        return least_noise_multiplier(budget)
    check_noise_multiplier(plan.noise_multiplier, budget)
    return plan.noise_multiplier
