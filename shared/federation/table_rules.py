"""What a federation whose clients write into a shared table cannot have, each with the reason."""

from __future__ import annotations

from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.plans import TrainingPlan, shares_table


def check_table(
    training: TrainingPlan,
    aggregation: AggregationPlan,
    encoding: str,
    on_excess: str | None,
    *,
    is_summed: bool,
) -> None:
    """Raises ValueError if a known method shares a table, and the federation would break it.

    ``is_summed`` says whether updates are summed under masks; ``on_excess`` is None where no
    ``max_update_norm`` is set.
    """
    if not shares_table(training.method):
        return
    method = f"method {training.method}"
    if is_summed:
        raise ValueError(
            f"{method} has a row of each client in what is shared, which a secure sum would show "
            "all the same: leave out protection"
        )
    if training.privacy is not None:
        raise ValueError(
            f"{method} has a row of each client in what is shared, which noise for a mean would "
            "cover: leave out privacy"
        )
    if aggregation.rule != "mean":
        raise ValueError(
            f"{method} has a row of each client in what is shared, and aggregation "
            f"{aggregation.rule} leaves none of a row that one client sends: use mean"
        )
    if encoding != "dense":
        raise ValueError(
            f"encoding {encoding} rounds the rows of {method}, and rests of earlier rounds would "
            "stay in them: use dense"
        )
    if on_excess == "clip":
        raise ValueError(
            f"a clipped update of {method} would leave rests of earlier rounds in its rows: use "
            "on_excess reject, or leave out max_update_norm"
        )
