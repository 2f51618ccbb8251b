"""Whether sums of many rounds give a client's part away, when cohorts stay and when they change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.federation.sharing import OUTPUT_BIAS
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta
from worker.attacks.sum_differences import differences, least_squares, own_means
from worker.audit.cohort_leakage import TOLERANCE
from worker.audit.replay import play_round
from worker.audit.subject import Subject
from worker.errors import AuditError

Json = dict[str, Any]
Float64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_DROP_OUT_SHARE = 0.05
_ATTACKS = (differences, least_squares)


def measure_rounds(subject: Subject, rounds: int, seed: int = 0) -> list[Json]:
    """A row for each way to make cohorts of the client and the others, over so many rounds.

    ``sum`` is the |cosine| of a client's mean part with the mean of the sums that it was in, which
    everybody sees; ``found`` that of the better attack; each as mean and worst over the clients.

    Raises:
        WorkerError: the method refuses a round.
    """
    generator = np.random.default_rng(seed)
    count = 1 + len(subject.others)
    stays = generator.random((rounds, count)) >= _DROP_OUT_SHARE
    stays[:, 0] |= ~stays.any(1)
    drawn = np.zeros((rounds, count), np.bool_)
    for row in drawn:
        row[generator.choice(count, max(1, count // 2), replace=False)] = True
    cohorts = {
        "the same each time, one in twenty drops out": stays,
        "half of the clients, drawn anew each time": drawn,
    }
    return [
        {"cohorts": name, "rounds": rounds, "clients": count} | _measure(subject, took_part)
        for name, took_part in cohorts.items()
    ]


def comes_apart(row: Json) -> bool:
    """Whether an attack found parts better than the sums show them, by more than the tolerance."""
    return any(row["found"][one] > row["sum"][one] + TOLERANCE for one in ("mean", "worst"))


def _measure(subject: Subject, took_part: Flags) -> Json:
    sums: list[Float64] = []
    parts = np.zeros((took_part.shape[1], 0))
    for flags in took_part:
        subject, total, of_round = _play(subject, np.flatnonzero(flags))
        sums.append(total)
        parts = of_round if not parts.size else parts + of_round
    places = np.flatnonzero(took_part.any(0))
    seen, flags = np.array(sums), took_part[:, places]
    row: Json = {"sum": _cosines(own_means(seen, flags), parts[places])}
    attacks = [_cosines(attack(seen, flags), parts[places]) for attack in _ATTACKS]
    row["found"] = {one: max(each[one] for each in attacks) for one in ("mean", "worst")}
    return row | {"comes_apart": comes_apart(row)}


def _play(subject: Subject, chosen: npt.NDArray[np.intp]) -> tuple[Subject, Float64, Float64]:
    """The subject after a round of the chosen clients, their sum (P,), and each client's part."""
    members = [subject.client, *subject.others]
    first, *others = (members[place] for place in chosen)
    played = play_round(replace(subject, client=first, others=others))
    mean = _flat(played.seen.changes[OUTPUT_BIAS])
    parts = np.zeros((len(members), len(mean)))
    for place, one in zip(chosen, played.uploads, strict=True):
        parts[place] = _flat(one.result.deltas[OUTPUT_BIAS])
    moved = [played.after.client, *played.after.others]
    for place, member in zip(chosen, moved, strict=True):
        members[place] = member
    after = replace(played.after, client=members[0], others=members[1:])
    return after, len(chosen) * mean, parts


def _flat(change: Delta) -> Float64:
    if isinstance(change, FactoredDelta):
        raise AuditError("a sum has no factors")
    return change.astype(np.float64).ravel()


def _cosines(found: Float64, parts: Float64) -> dict[str, float]:
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(parts, axis=1)
    cosines = np.abs((found * parts).sum(1)) / np.maximum(sizes, 1e-30)
    return {"mean": float(cosines.mean()), "worst": float(cosines.max())}
