"""A federation of public data, trained in memory, whose first client is audited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.federation.specification import FederationSpecification
from worker.audit.replay import play_round
from worker.audit.subject import Subject, check_audited, divide_public
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Participant
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
    check_audited(specification)
    training = specification.training
    datasets = DatasetCache()
    base: dict[str, Any] = {"dataset": dataset, "data_dir": data_dir, "seed": seed}

    def data_of(**more: Any) -> Any:
        source = DataSource.model_validate(base | more)
        return datasets.client_data(source, training.image_shape, training.num_classes)

    method = build_method(training, _CPU)
    clients: list[Participant] = []
    for index in range(num_clients):
        own = seed * 1_000_003 + index
        data = data_of(partition=partition, num_clients=num_clients, client_index=index)
        private = method.initial_private(own)
        clients.append(Participant(f"client-{index}", data, private, own, number=index))
    prior, candidates = divide_public(data_of().test, clients[0].data.train, seed)
    subject = Subject(
        specification=specification,
        weights=specification.parameters.initial_values(),
        client=clients[0],
        others=clients[1:],
        prior=prior,
        candidates=candidates,
        policy=policy,
        round_number=1,
        origin=f"a demo federation of {num_clients} clients that divide {dataset}, after "
        f"{rounds} rounds; the others are real clients",
    )
    for number in range(1, rounds + 1):
        subject = play_round(subject).after
        on_round(number)
    return subject
