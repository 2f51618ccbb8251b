"""A federation of public data, trained in memory, whose first client is audited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from shared.tensors.encodings import encoding_for
from shared.tensors.low_rank import FactoredDelta
from worker.audit.subject import Subject, divide_public
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Method, Participant
from worker.site_policy import SitePolicy

_CPU = torch.device("cpu")


def demo_subject(
    specification: FederationSpecification,
    *,
    dataset: str,
    data_dir: Path | None,
    partition: str,
    num_clients: int,
    rounds: int,
    seed: int,
    policy: SitePolicy,
    on_round: Callable[[int], None] = lambda _: None,
) -> Subject:
    """The subject after some rounds of all clients; the next round is audited.

    Public images are the data set's test images.

    Args:
        specification: of the federation.
        dataset: name of the data set.
        data_dir: its folder.
        partition: how clients divide it.
        num_clients: how many.
        rounds: of training before the audited one.
        seed: of all draws.
        policy: of the audited site.
        on_round: called with each round's number when it has ended.

    Raises:
        WorkerError: the data cannot be used, or training failed.
    """
    training = specification.training
    datasets = DatasetCache()
    base: dict[str, Any] = {"dataset": dataset, "data_dir": data_dir, "seed": seed}

    def data_of(**more: Any) -> Any:
        source = DataSource.model_validate(base | more)
        return datasets.client_data(source, training.image_shape, training.num_classes)

    method = build_method(training, _CPU)
    clients = []
    for index in range(num_clients):
        own = seed * 1_000_003 + index
        data = data_of(partition=partition, num_clients=num_clients, client_index=index)
        clients.append(Participant(f"client-{index}", data, method.initial_private(own), own))
    weights = specification.parameters.initial_values()
    for number in range(1, rounds + 1):
        weights, clients = _round(specification, method, weights, clients, number)
        on_round(number)
    prior, candidates = divide_public(data_of().test, clients[0].data.train, seed)
    return Subject(
        specification=specification,
        weights=weights,
        client=clients[0],
        others=clients[1:],
        prior=prior,
        candidates=candidates,
        policy=policy,
        round_number=rounds + 1,
        origin=f"a demo federation of {num_clients} clients that divide {dataset}, after "
        f"{rounds} rounds; the others are real clients",
    )


def _round(
    specification: FederationSpecification,
    method: Method,
    weights: dict[str, Array],
    clients: list[Participant],
    number: int,
) -> tuple[dict[str, Array], list[Participant]]:
    """Weights and clients after a round whose updates are averaged as they are sent."""
    encoding = encoding_for(specification.encoding)
    total = {name: np.zeros(array.shape) for name, array in weights.items()}
    examples, after = 0, {client.name: client for client in clients}
    for result in method.train(clients, weights, number, lambda: False):
        wire = encoding.encode(result.deltas, {}, weights, specification.parameters).wire
        for name, change in encoding.decode(wire, specification.parameters).items():
            dense = change.dense(weights[name]) if isinstance(change, FactoredDelta) else change
            total[name] += result.num_examples * dense
        examples += result.num_examples
        after[result.participant] = replace(after[result.participant], private=result.private)
    mean = {
        name: (array + total[name] / examples).astype(np.float32) for name, array in weights.items()
    }
    return mean, list(after.values())
