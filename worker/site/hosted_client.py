"""A client that this worker hosts: its identity, its data, its private state."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import structlog
import torch

from shared.federation.specification import FederationSpecification
from shared.secure_sum.cards import Card
from worker.data.client_data import ClientData
from worker.data.row_scaling import RowScaling
from worker.errors import PrivateStateError
from worker.methods.interface import Method, Participant
from worker.remote.coordinator import Coordinator
from worker.secure_sum.member import Member
from worker.settings import ClientConfig
from worker.site import best_version, history, private_state
from worker.site.best_version import BestVersion, KeptVersion, load_best, read_best, save_best
from worker.site.enrolled_client import EnrolledClient
from worker.site.history import HistoryRow
from worker.site.kept_scaling import load_scaling, save_scaling
from worker.site.parts import Datasets
from worker.site.peers import load_peers, save_peers
from worker.site.private_state import PrivateState
from worker.site.round_ledger import RoundLedger, load_ledger, save_ledger

SEED_BITS = 128
"""Of a private seed that no configuration gives; a stream's key has as many."""

_log = structlog.get_logger()


class HostedClient(EnrolledClient):
    """A client with its examples, which a worker trains."""

    def __init__(
        self,
        config: ClientConfig,
        api: Coordinator,
        data: ClientData,
        state: PrivateState,
        member: Member | None = None,
    ) -> None:
        super().__init__(config, api, state, member)
        self.source = config.data
        """Where its examples come from."""
        self.data = data

    def participant(self, number: int | None = None) -> Participant:
        """The client as a training method sees it; ``number`` is its task's."""
        private = {
            name: torch.from_numpy(array.copy()) for name, array in self.state.tensors.items()
        }
        return Participant(self.name, self.data, private, self.state.seed, number)

    def is_untrained(self, method: Method) -> bool:
        """Whether it has private tensors and all are as a new client's: no round changed them."""
        initial = method.initial_private(self.state.seed)
        return bool(initial) and all(
            np.array_equal(self.state.tensors[name], tensor.numpy(), equal_nan=True)
            for name, tensor in initial.items()
        )

    def best(self) -> BestVersion | None:
        """What was best on its validation split; None if nothing was measured yet.

        Raises:
            PrivateStateError: it cannot be read, or is another federation's.
        """
        if (about := read_best(self._folder)) is not None:
            self._check_owner(about)
        return about

    def load_best(self) -> KeptVersion | None:
        """The same with its tensors; raises as :meth:`best`."""
        if (kept := load_best(self._folder)) is not None:
            self._check_owner(kept.about)
        return kept

    def keep(self, best: KeptVersion) -> None:
        """Makes this the client's best version."""
        save_best(self._folder, best)

    def _check_owner(self, about: BestVersion) -> None:
        state = self.state
        best_version.check_owner(
            self._folder,
            about,
            federation=state.federation,
            specification_digest=state.specification_digest,
            client=self.name,
        )

    def remember(self, row: HistoryRow) -> None:
        """Adds a round to the client's history."""
        history.add(self._folder, row)

    def remembered(self) -> list[HistoryRow]:
        """Its rounds so far, oldest first.

        Raises:
            PrivateStateError: they cannot be read.
        """
        return history.read(self._folder)

    def trained_rounds(self) -> RoundLedger:
        """The rounds that it has trained.

        Raises:
            PrivateStateError: they cannot be read.
        """
        return load_ledger(self._folder)

    def count_round(self, ledger: RoundLedger) -> None:
        """Remembers a round that it is about to train."""
        save_ledger(self._folder, ledger)

    def meet(self, cards: Sequence[Card]) -> None:
        """Looks at a cohort's cards, and remembers those of clients that are new.

        Raises:
            PeerChanged: one shows another card than before.
        """
        if self.member is None:
            return
        before = load_peers(self._folder)
        peers = before.meet(card for card in cards if card.client != self.name)
        if peers != before:
            save_peers(self._folder, peers)
        self.member = replace(self.member, trusted=peers.trusted)


def load_client(
    config: ClientConfig,
    api: Coordinator,
    specification: FederationSpecification,
    specification_digest: str,
    method: Method,
    datasets: Datasets,
) -> HostedClient:
    """The client with its data and its private state, which is created where there is none.

    Raises:
        DataError: the data cannot be used.
        PrivateStateError: the state cannot be used; it is left untouched.
    """
    training = specification.training
    data = datasets.client_data(
        config.data,
        training.image_shape,
        training.num_classes,
        training.class_names,
        training.features,
    )
    _say_what_is_missing(config.name, data)
    owner = {
        "federation": specification.name,
        "specification_digest": specification_digest,
        "client": config.name,
    }
    state = private_state.load(config.state_dir, **owner)
    scaling = data.train.scaling
    if state is None:
        state = _new_state(config, specification.name, specification_digest, method)
        if isinstance(scaling, RowScaling):  # first: where there is a state, there is this
            save_scaling(config.state_dir, scaling, **owner)
        private_state.save(config.state_dir, state)
    elif isinstance(scaling, RowScaling):
        data = data.scaled_by(load_scaling(config.state_dir, scaling, **owner))
    client = HostedClient(config, api, data, state)
    client.best()  # what cannot be used is said before a round is trained
    try:
        method.check_private(client.participant().private)
    except ValueError as error:
        raise PrivateStateError(f"{config.state_dir}: {error}") from error
    return client


def _say_what_is_missing(client: str, data: ClientData) -> None:
    """Classes without an example are fine, and files that are no images too; silence is not."""
    if data.left_out:
        said = ", ".join(f"{count} {kind}" for kind, count in data.left_out.items())
        _log.warning("files left out", client=client, files=said)
    for split, examples in data.splits.items():
        counts = torch.bincount(examples.labels, minlength=len(examples.class_names))
        without = [
            name for name, count in zip(examples.class_names, counts, strict=True) if not count
        ]
        if without:
            _log.info(
                "classes without examples",
                client=client,
                split=split,
                number=len(without),
                classes=", ".join(without),
            )


def _new_state(
    config: ClientConfig, federation: str, specification_digest: str, method: Method
) -> PrivateState:
    seed = secrets.randbits(SEED_BITS) if config.seed is None else config.seed
    state = PrivateState(
        federation=federation,
        specification_digest=specification_digest,
        client=config.name,
        seed=seed,
        tensors={},
    )
    private = method.initial_private(seed)
    return replace(state, tensors={name: tensor.numpy() for name, tensor in private.items()})
