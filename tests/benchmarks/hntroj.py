"""What a backdoor in the shared hypernetwork does to honest clients, by rule of aggregation.

``python -m tests.benchmarks.hntroj`` prints one JSON object a line. The attack is HNTroj (Lai et
al., "How to backdoor HyperNetwork in personalized federated learning?", 2022) for a hypernetwork of
which clients send changes. Hostile clients take part honestly at first. Then they train on their
images and on copies with a trigger and the target's label, four times as long and with the head
that they have: it is like the honest heads, so that what they send must bring the trigger's
features to the target's. They send the change multiplied by a boost. With a boost of clients /
hostile clients a mean is replaced by their model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.arrays import Array
from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.tensors.encodings import encoding_for
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta
from shared.terminal.logs import configure_logging
from tests.support.memory_rounds import SentUpdate, aggregate_in_memory
from worker.data.client_data import ClientData, Examples
from worker.data.client_split import split_for_client
from worker.data.images import LabelledImages
from worker.data.loading import DatasetCache
from worker.data.scaling import PixelScaling
from worker.data.source import DataSource
from worker.demo.defaults import default_model
from worker.methods import build_method
from worker.methods.interface import Method, Participant
from worker.operations.specification import build_specification, choose_image_shape

TARGET = 0
"""The label that an image with the trigger is to get."""


_HOSTILE_EPOCHS = 20


@dataclass(frozen=True)
class Setting:
    """Which data, and how many clients, hostile ones and rounds."""

    dataset: str
    data_dir: Path | None
    clients: int
    hostile: int
    honest_rounds: int
    attacked_rounds: int
    seed: int


@dataclass(frozen=True)
class State:
    """Of all clients and the coordinator between two rounds.

    ``norms`` are those of the honest clients' last changes.
    """

    weights: dict[str, Array]
    residual: dict[str, Array] | None
    private: list[dict[str, torch.Tensor]]
    left_out: list[dict[str, Delta]]
    norms: list[float] = field(default_factory=list)


def stamped(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, C, H, W) with a white square in the corner, a seventh of the height or 2 pixels."""
    side = max(2, images.shape[2] // 7)
    result = images.clone()
    result[:, :, :side, :side] = 255
    return result


class Attack:
    """Honest and hostile clients of one data set."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        model = default_model(setting.dataset)
        self.shape = choose_image_shape(None, model, setting.dataset)
        self.dataset = DatasetCache().dataset(setting.dataset, setting.data_dir, self.shape)
        self.specification = build_specification(
            "hntroj",
            method="hyperfl",
            model=model,
            image_shape=self.shape,
            num_classes=len(self.dataset.train.class_names),
            hyperparameters={},
            round_policy=RoundPolicy(rounds=100, minimum_updates=setting.clients),
            encoding=EncodingPlan(),
            seed=setting.seed,
        )
        plan = self.specification.training
        self.method: Method = build_method(plan, torch.device("cpu"))
        settings = plan.hyperparameters | {"head_epochs": 0, "epochs": _HOSTILE_EPOCHS}
        hostile_plan = plan.model_copy(update={"hyperparameters": settings})
        self.hostile_method: Method = build_method(hostile_plan, torch.device("cpu"))
        splits = [split_for_client(self._source(i), self.dataset) for i in range(setting.clients)]
        self.honest = [self._data(train, test) for train, test in splits]
        self.poisoned = [self._poisoned(train, test) for train, test in splits]
        self.triggered = [self._triggered(test) for _, test in splits]

    def _source(self, index: int) -> DataSource:
        return DataSource(
            dataset=self.setting.dataset,
            data_dir=self.setting.data_dir,
            partition="iid",
            num_clients=self.setting.clients,
            client_index=index,
        )

    def _examples(self, data: LabelledImages, positions: Array) -> Examples:
        return Examples(
            data,
            torch.from_numpy(positions),
            PixelScaling(self.dataset.mean, self.dataset.std, self.shape),
            augment=False,
        )

    def _data(self, train: Array, test: Array) -> ClientData:
        return ClientData(
            self._examples(self.dataset.train, train), self._examples(self.dataset.test, test)
        )

    def _poisoned(self, train: Array, test: Array) -> ClientData:
        split, own = self.dataset.train, torch.from_numpy(train)
        images = torch.cat([split.images[own], stamped(split.images[own])])
        labels = torch.cat([split.labels[own], torch.full_like(own, TARGET)])
        both = LabelledImages(images, labels, split.class_names)
        everything = self._examples(both, np.arange(len(labels)))
        return ClientData(everything, self._examples(self.dataset.test, test))

    def _triggered(self, test: Array) -> ClientData:
        """A client's test images of other labels, with the trigger and the target's label."""
        split, own = self.dataset.test, torch.from_numpy(test)
        others = own[split.labels[own] != TARGET]
        labels = torch.full_like(others, TARGET)
        data = LabelledImages(stamped(split.images[others]), labels, split.class_names)
        examples = self._examples(data, np.arange(len(labels)))
        return ClientData(examples, examples)

    def start(self) -> State:
        clients = range(self.setting.clients)
        return State(
            self.specification.parameters.initial_values(),
            None,
            [self.method.initial_private(self.setting.seed + i) for i in clients],
            [{} for _ in clients],
        )

    def advance(
        self,
        state: State,
        specification: FederationSpecification,
        number: int,
        hostile: Sequence[int] = (),
        boost: float = 1.0,
    ) -> State:
        """One round; ``state`` is left as it is."""
        data = [self.poisoned[i] if i in hostile else one for i, one in enumerate(self.honest)]
        group = [
            Participant(chr(ord("a") + i), data[i], state.private[i], self.setting.seed + i)
            for i in range(self.setting.clients)
        ]
        results = {}
        for method, members in (
            (self.method, [one for i, one in enumerate(group) if i not in hostile]),
            (self.hostile_method, [group[i] for i in hostile]),
        ):
            for result in method.train(members, state.weights, number, lambda: False):
                results[result.participant] = result
        encoding, parameters = encoding_for(specification.encoding), specification.parameters
        sent, left_out, norms = [], [], []
        for index, participant in enumerate(group):
            result = results[participant.name]
            deltas: dict[str, Any] = dict(result.deltas)
            if index in hostile:
                deltas = {name: boosted(delta, boost) for name, delta in deltas.items()}
            else:
                norms.append(norm(deltas, state.weights))
            encoded = encoding.encode(deltas, state.left_out[index], state.weights, parameters)
            left_out.append(encoded.residual)
            # Claimed examples are a weight, which the boost stands for.
            sent.append(SentUpdate(encoded.wire, "factored", len(self.honest[index].train)))
        new = aggregate_in_memory(specification, state.weights, sent, state.residual, 1 << 20)
        private = [results[one.name].private for one in group]
        return State(new.weights, new.residual, private, left_out, norms)

    def measure(self, state: State, hostile: Sequence[int]) -> dict[str, float]:
        """Mean over honest clients, in percent: right without the trigger, the target's with it."""
        honest = [i for i in range(self.setting.clients) if i not in hostile]
        return {
            name: round(
                100 * float(np.mean([self._accuracy(state, i, data[i]) for i in honest])), 2
            )
            for name, data in (("clean", self.honest), ("success", self.triggered))
        }

    def _accuracy(self, state: State, index: int, data: ClientData) -> float:
        one = Participant("a", data, state.private[index], 0)
        return self.method.evaluate(one, state.weights)["accuracy"]


def boosted(delta: Array | FactoredDelta, boost: float) -> Array | FactoredDelta:
    if isinstance(delta, FactoredDelta):
        scale = float(np.clip(boost * delta.scale, -1.0, 1.0))
        return FactoredDelta(scale, delta.left, np.float32(boost) * delta.right)
    return np.float32(boost) * delta


def norm(deltas: dict[str, Any], base: dict[str, Array]) -> float:
    full = [
        delta.dense(base[name]) if isinstance(delta, FactoredDelta) else delta
        for name, delta in deltas.items()
    ]
    return float(np.sqrt(sum(float(np.square(one.astype(np.float64)).sum()) for one in full)))


def rules(setting: Setting, cap: float) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Names, aggregation and policy."""
    capped = {"max_update_norm": cap}
    share = setting.hostile / setting.clients
    yield "mean", {"rule": "mean"}, {}
    yield "mean, cap", {"rule": "mean"}, capped
    yield "median", {"rule": "median"}, {}
    yield "trimmed-mean", {"rule": "trimmed-mean", "trim_fraction": share}, {}
    yield "multi-krum", {"rule": "multi-krum", "hostile_clients": setting.hostile}, {}


def main(setting: Setting) -> None:
    attack = Attack(setting)
    hostile = range(setting.hostile)
    state = attack.start()
    for number in range(1, setting.honest_rounds + 1):
        state = attack.advance(state, attack.specification, number)
    cap = float(np.median(state.norms))
    say(rule="honest rounds", cap=round(cap, 3), **attack.measure(state, hostile))
    untouched = run(attack, state, attack.specification, (), 1.0)
    say(rule="mean", boost=0, **attack.measure(untouched, hostile))
    for boost in (1.0, setting.clients / setting.hostile):
        for name, aggregation, policy in rules(setting, cap):
            specification = attack.specification.model_copy(
                update={
                    "aggregation": AggregationPlan.model_validate(aggregation),
                    "round_policy": attack.specification.round_policy.model_copy(update=policy),
                }
            )
            after = run(attack, state, specification, hostile, boost)
            say(rule=name, boost=boost, **attack.measure(after, hostile))


def run(
    attack: Attack,
    state: State,
    specification: FederationSpecification,
    hostile: Sequence[int],
    boost: float,
) -> State:
    first = attack.setting.honest_rounds + 1
    for number in range(first, first + attack.setting.attacked_rounds):
        state = attack.advance(state, specification, number, hostile, boost)
    return state


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    configure_logging("error")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--hostile", type=int, default=2)
    parser.add_argument("--honest-rounds", type=int, default=8)
    parser.add_argument("--attacked-rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2022)
    main(Setting(**vars(parser.parse_args())))
