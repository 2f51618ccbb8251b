"""What a federation with differential privacy cannot have at the same time, with the reasons."""

from __future__ import annotations

from shared.federation.plans import KNOWN_METHODS, TrainingPlan, spreads_privacy_budget
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.protection_plan import clients_needed

_PRIVATE_STEPS = ("hyperfl", "hyperfl-lpm")
"""Methods whose round can be one step of clipped gradients."""


def check_privacy(
    privacy: PrivacyPlan,
    training: TrainingPlan,
    *,
    is_summed: bool,
    cohort_size: int | None,
    minimum_updates: int,
    max_update_norm: float | None,
) -> None:
    """Raises ValueError unless a federation can have this plan.

    ``is_summed`` says whether updates are summed under masks.
    """
    _check_method(privacy, training)
    if not is_summed:
        if privacy.noise_clients is not None:
            raise ValueError(
                "training.privacy.noise_clients is for secure sums: alone, each client adds all "
                "the noise"
            )
        return
    if cohort_size is None:
        raise ValueError(
            "noise that is shared in a secure sum is made for a number of clients: "
            "give round_policy.cohort_size"
        )
    needed = clients_needed(cohort_size, minimum_updates)
    if privacy.noise_clients is not None and privacy.noise_clients > needed:
        raise ValueError(
            f"training.privacy.noise_clients is {privacy.noise_clients}, and a sum may be of "
            f"{needed} clients"
        )
    if max_update_norm is not None:
        raise ValueError(
            "max_update_norm would shorten the noise too: training.privacy.clip_norm is the cap"
        )


def _check_method(privacy: PrivacyPlan, training: TrainingPlan) -> None:
    known = KNOWN_METHODS.get(training.method)
    if spreads_privacy_budget(training.method):
        raise ValueError(f"method {training.method} has noise of its own: leave out privacy")
    if known is not None and not known.shares:
        raise ValueError(f"method {training.method} sends nothing: leave out privacy")
    if privacy.unit == "client":
        return
    if training.method not in _PRIVATE_STEPS:
        raise ValueError(
            f"method {training.method} does not bound what one example changes: use "
            f"{' or '.join(_PRIVATE_STEPS)}, or privacy of the unit client"
        )
    if training.hyperparameters.get("training_head") is not None:
        raise ValueError(
            "privacy of examples trains with a public head of its own: leave out "
            "training.hyperparameters.training_head"
        )
    if training.hyperparameters.get("shared_part") != "output-bias":
        raise ValueError(
            "privacy of examples trains the output bias alone: use "
            "training.hyperparameters.shared_part = output-bias"
        )
