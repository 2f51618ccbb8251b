"""Whether a cohort's sum comes apart into its clients' parts, for several sizes and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.federation.sharing import OUTPUT_BIAS
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.steered_trunk import steer_trunk
from worker.attacks.sum_unmixing import best_cosines, columns_of, unmix_blind, unmix_known
from worker.audit.effort import Effort
from worker.audit.replay import Replay, Upload
from worker.audit.subject import Subject
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.weights import hidden_features
from worker.methods.interface import Participant, SiteResources

Json = dict[str, Any]
Float64 = npt.NDArray[np.float64]
TOLERANCE = 0.05
"""By how much in cosine a part may be found better than the sum shows it."""


def measure_cohorts(subject: Subject, replay: Replay, effort: Effort, seed: int = 0) -> list[Json]:
    """One row for each size of cohort that there are clients for.

    ``sum`` is the |cosine| of a client's part with the sum itself, which everybody sees;
    ``blind`` and ``known`` that of the nearest candidate; each as mean and worst over the clients
    of all draws. ``steered`` is that of the nearest column where the coordinator chose the trunk
    for the first draw's clients, and ``steered_sum`` that of the sum then.

    Raises:
        WorkerError: the method refuses a round.
    """
    members = [subject.client, *subject.others][: max(effort.cohorts)]
    plan = replay.plan()
    uploads = [replay.upload(member, plan, member.data.train) for member in members]
    parts = [_part(replay, one) for one in uploads]
    features = [_features(subject, replay, one) for one in uploads]
    generator = np.random.default_rng(seed)
    rows = []
    for size in effort.cohorts:
        if size > len(members):
            continue
        found: dict[str, list[Float64]] = {}
        num_draws = effort.draws if size < len(members) else 1
        for draw in range(num_draws):
            # The audited client is of each cohort.
            others = generator.choice(len(members) - 1, size - 1, replace=False) + 1
            chosen = [0, *(int(one) for one in others)]
            columns = columns_of(replay.seen([uploads[one] for one in chosen], plan))
            truth = [parts[one] for one in chosen]
            found.setdefault("sum", []).append(best_cosines(columns[:, -1:].T, truth))
            if columns.shape[1] == 1:
                continue
            found.setdefault("blind", []).append(
                best_cosines(unmix_blind(columns, size, draw), truth)
            )
            known = np.array([features[one] for one in chosen])
            found.setdefault("known", []).append(best_cosines(unmix_known(columns, known), truth))
            if draw == 0:
                steered = _steered(subject, [members[one] for one in chosen], uploads, chosen)
                found["steered_sum"], found["steered"] = ([one] for one in steered)
        rows.append(_row(size, num_draws, found))
    return rows


def _row(size: int, num_draws: int, found: dict[str, list[Float64]]) -> Json:
    row: Json = {"cohort": size, "draws": num_draws}
    for name, draws in found.items():
        values = np.concatenate(draws)
        row[name] = {"mean": float(values.mean()), "worst": float(values.max())}
    pairs = (("blind", "sum"), ("known", "sum"), ("steered", "steered_sum"))
    row["comes_apart"] = any(
        row[name][which] > row[shown][which] + TOLERANCE
        for name, shown in pairs
        if name in row
        for which in ("mean", "worst")
    )
    return row


def comes_apart(rows: Sequence[Json]) -> list[int]:
    """Sizes of cohorts whose sum came apart."""
    return [row["cohort"] for row in rows if row["comes_apart"]]


def _steered(
    subject: Subject, members: Sequence[Participant], uploads: Sequence[Upload], of: Sequence[int]
) -> tuple[Float64, Float64]:
    """Cosines of the clients' parts with the sum, and with a column, at a trunk made for them."""
    replay = Replay(subject)
    plan = replay.plan()
    seen = [read_extractor_change(replay.seen([uploads[one]], plan)).embedding for one in of]
    known = np.array([one.double().numpy() for one in seen if one is not None])
    if len(known) < len(members):
        return np.zeros(len(members)), np.zeros(len(members))
    lied = Replay(replace(subject, weights=steer_trunk(subject.weights, known)))
    own = [lied.upload(member, plan, member.data.train) for member in members]
    columns = columns_of(lied.seen(own, plan))
    truth = [_part(lied, one) for one in own]
    return best_cosines(columns[:, -1:].T, truth), best_cosines(columns[:, :-1].T, truth)


def _part(replay: Replay, upload: Upload) -> Float64:
    learned = replay.seen([upload], replay.plan()).learned(OUTPUT_BIAS)
    return learned.astype(np.float64)


def _features(subject: Subject, replay: Replay, upload: Upload) -> Float64:
    """(f, 1) of a client whose update was seen in the clear; (1,) where b alone is shared."""
    plan = replay.plan()
    observation = replay.seen([upload], plan)
    embedding = read_extractor_change(observation).embedding
    if embedding is None:
        return np.ones(1)
    resources = SiteResources(allowed_imports=subject.allowed_imports)
    weights = HyperFL(plan, embedding.device, resources).read(subject.weights)
    scale = float(plan.hyperparameters["feature_scale"])
    features = hidden_features(weights.trunk_weight, weights.trunk_bias, embedding, scale)
    return np.append(features.double().numpy(), 1.0)
