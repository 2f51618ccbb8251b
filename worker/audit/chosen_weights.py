"""What a coordinator finds that publishes weights of its own choice: traps for single images.

Who was found is judged by images that nobody trained on. An image counts as found where a candidate
is nearer to it than every public image. As many of the strangers count so by chance as of the
clients' own; what is more is not chance.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shared.federation.sharing import OUTPUT_BIAS
from worker.attacks.extractor_change import network_layout, read_extractor_change
from worker.attacks.hypernetwork_inversion import images_of as images_of_inputs
from worker.attacks.measures import binomial_tail, psnr_matrix
from worker.attacks.observation import Observation
from worker.attacks.trap_weights import sprung_inputs, with_traps
from worker.audit.attacked_round import Case, begin_row
from worker.audit.effort import Effort
from worker.audit.image_leakage import Picture
from worker.audit.replay import Replay, Upload
from worker.audit.subject import Subject, hides_examples, images_of
from worker.errors import WorkerError
from worker.methods import build_method
from worker.methods.hypernetwork.weights import OUTPUT_WEIGHT
from worker.methods.interface import SiteResources
from worker.site_policy import SitePolicy

Json = dict[str, Any]
Float64 = npt.NDArray[np.float64]
RECOVERED, NOTHING = "recovered", "gains nothing"
_SIGNIFICANCE = 0.025
_SHOWN = 6


def with_trap_weights(subject: Subject, num_examples: int) -> Subject:
    """The subject at weights that a coordinator chose for a sum of so many examples.

    Where W is shared it is 0, so that all clients have the same extractor.
    """
    weights = dict(subject.weights)
    if OUTPUT_WEIGHT in weights:
        weights[OUTPUT_WEIGHT] = np.zeros_like(weights[OUTPUT_WEIGHT])
    nothing = {name: np.zeros_like(one) for name, one in weights.items()}
    plan, allowed = subject.specification.training, subject.allowed_imports
    observation = Observation(plan, weights, nothing, 1, allowed)
    network, layout = subject.network, network_layout(observation)
    trapped = with_traps(
        network,
        read_extractor_change(observation).before,
        images_of(subject.prior),
        num_examples,
    )
    linear = {f"{network.linear}.{one}" if network.linear else one for one in ("weight", "bias")}
    parts = layout.split(torch.from_numpy(weights[OUTPUT_BIAS]))
    chosen = [(trapped if one.name in linear else parts)[one.name] for one in layout.tensors]
    weights[OUTPUT_BIAS] = torch.cat([one.flatten() for one in chosen]).numpy()
    return replace(subject, weights=weights)


def measure_chosen(
    subject: Subject, effort: Effort, case: Case, cohort: int
) -> tuple[Json, Picture | None]:
    """One row: how many images of the clients of a cohort come out of one round with traps.

    Raises:
        WorkerError: the subject cannot be audited.
    """
    started = time.perf_counter()
    plan = Replay(subject).plan(epochs=case.epochs)
    row = begin_row(subject, case, plan, cohort)
    count, steps = row["images"], row["steps"]
    chosen = with_trap_weights(subject, count * cohort)
    lied = Replay(chosen).of_clients_with(case.images)
    try:
        uploads = lied.uploads_of_cohort(plan, count, cohort, 0)
    except WorkerError as refused:
        return row | {"refused": str(refused)}, None
    seen = lied.seen(uploads, plan)
    if not hides_examples(plan):
        seen = seen.without_decay(steps)
    candidates = _candidates(subject, seen, effort)
    found, picture = _compare(subject, candidates, uploads)
    before, after = _accuracy(subject), _accuracy(chosen)
    row["policy"] = row["policy"] or refusal_of_weights(subject.policy, before, after)
    row |= found | {
        "accuracy": before,
        "accuracy_chosen": after,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return row, picture


def refusal_of_weights(policy: SitePolicy, before: float, after: float) -> str | None:
    """The policy's line that refuses weights at which a client's accuracy is ``after``; or None."""
    drop = policy.maximum_accuracy_drop
    return f"maximum_accuracy_drop = {drop}" if drop is not None and before - after > drop else None


def _accuracy(subject: Subject) -> float:
    """Of the client's model on its test split, as a worker measures it before it trains."""
    resources = SiteResources(allowed_imports=subject.allowed_imports)
    method = build_method(subject.specification.training, torch.device("cpu"), resources)
    return method.evaluate(subject.client, subject.weights)["accuracy"]


def _candidates(subject: Subject, seen: Observation, effort: Effort) -> torch.Tensor:
    network, pixel_range = subject.network, subject.pixel_range
    change = read_extractor_change(seen)
    inputs = sprung_inputs(network.linear_gradient(change.gradient))
    if not len(inputs):
        return torch.zeros(0, *network.image_shape)
    prior = pixel_range.pixels(images_of(subject.prior))
    given = torch.from_numpy(inputs).float()
    return images_of_inputs(
        network, change.before, given, pixel_range, prior, iterations=effort.iterations
    )


def _compare(
    subject: Subject, candidates: torch.Tensor, uploads: list[Upload]
) -> tuple[Json, Picture | None]:
    pixel_range = subject.pixel_range
    public = pixel_range.pixels(images_of(subject.prior))
    strangers = pixel_range.pixels(images_of(subject.candidates))
    images = torch.cat([pixel_range.pixels(images_of(one.examples)) for one in uploads])
    labels = torch.cat([one.examples.labels for one in uploads])
    row: Json = {
        "images_sought": len(images),
        "candidates": len(candidates),
        "strangers": len(strangers),
        "found": 0,
        "strangers_found": 0,
        "by_chance": 1.0,
        "says": NOTHING,
    }
    if not len(candidates):
        return row, None
    own, by_chance = (_nearest(candidates, each, public) for each in (images, strangers))
    row["found"] = int((own.attack > own.similar).sum())
    row["strangers_found"] = int((by_chance.attack > by_chance.similar).sum())
    share = len(images) / (len(images) + len(strangers))
    chance = binomial_tail(row["found"], row["found"] + row["strangers_found"], share)
    row["by_chance"] = chance
    row["says"] = RECOVERED if row["found"] and chance < _SIGNIFICANCE else NOTHING
    order = np.argsort(own.similar - own.attack)[:_SHOWN].copy()
    row["psnr"] = float(own.attack[order].mean())
    row["similar"] = float(own.similar[order].mean())
    means = [subject.prior.labels == label for label in labels[own.places[order]]]
    guess = torch.stack([public[one if one.any() else slice(None)].mean(0) for one in means])
    shown = images[own.places[order]]
    return row, Picture(
        [shown, candidates[own.by[order]], guess, public[psnr_matrix(public, shown).argmax(0)]]
    )


@dataclass(frozen=True, eq=False)
class _Nearest:
    """The images that are nearest to a candidate each, without repetition.

    Attributes:
        places: of the images (m,).
        by: of the candidate nearest to each (m,).
        attack: its PSNR (m,).
        similar: PSNR of the public image nearest to each (m,).
    """

    places: torch.Tensor
    by: torch.Tensor
    attack: Float64
    similar: Float64


def _nearest(candidates: torch.Tensor, images: torch.Tensor, public: torch.Tensor) -> _Nearest:
    reached = psnr_matrix(candidates, images)
    places = torch.from_numpy(np.unique(reached.argmax(dim=1).numpy()))
    best = reached[:, places].max(dim=0)
    similar = psnr_matrix(public, images[places]).max(dim=0).values
    return _Nearest(places, best.indices, best.values.numpy(), similar.numpy())
