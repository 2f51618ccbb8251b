"""Training on several devices at once: each trains a part of a round's clients."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from shared.arrays import NamedArrays
from shared.rest.declines import DeclineKind
from worker.methods.interface import (
    Participant,
    TrainingFailedError,
    TrainingResult,
    Trains,
)

_LOOK_AGAIN_SECONDS = 0.1


class SpreadTraining:
    """The same method, made once for each device, and used for nothing else meanwhile.

    A result depends on its client alone, as :meth:`Trains.train` promises, so it does not matter
    which device a client gets, up to the rounding of sums.
    """

    def __init__(self, methods: Sequence[Trains]) -> None:
        self._methods = methods

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        """See :class:`Trains`. A device waits when its result has not been taken yet."""
        parts = divided(group, len(self._methods))
        given_up, asking = threading.Event(), threading.Lock()
        results: queue.Queue[TrainingResult | BaseException | None] = queue.Queue(len(parts))

        def put(item: TrainingResult | BaseException | None) -> None:
            while not given_up.is_set():
                try:
                    return results.put(item, timeout=_LOOK_AGAIN_SECONDS)
                except queue.Full:
                    continue

        def stops() -> bool:
            with asking:  # who is asked counts the steps
                return given_up.is_set() or should_stop()

        def work(method: Trains, part: Sequence[Participant]) -> None:
            try:
                for result in method.train(part, weights, round_number, stops):
                    put(result)
                put(None)
            except BaseException as error:
                put(error)

        threads = [
            threading.Thread(target=work, args=pair, name=f"training-{number}", daemon=True)
            for number, pair in enumerate(zip(self._methods, parts, strict=False))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _taken(results, len(threads))
        finally:
            given_up.set()
            for thread in threads:
                thread.join()


def _taken(
    results: queue.Queue[TrainingResult | BaseException | None], number: int
) -> Iterator[TrainingResult]:
    """Results until ``number`` devices are done; then the clients that failed on any of them."""
    reasons: dict[str, str] = {}
    kinds: dict[str, DeclineKind] = {}
    while number:
        item = results.get()
        if isinstance(item, TrainingResult):
            yield item
            continue
        number -= 1
        if isinstance(item, TrainingFailedError):
            reasons |= item.reasons
            kinds |= item.kinds
        elif item is not None:
            raise item
    if reasons:
        raise TrainingFailedError(reasons, kinds)


def divided(group: Sequence[Participant], number: int) -> list[list[Participant]]:
    """At most ``number`` parts of about as many training examples, each in the group's order."""
    places = sorted(range(len(group)), key=lambda place: -len(group[place].data.train))
    parts: list[list[int]] = [[] for _ in range(min(number, len(group)))]
    loads = [0] * len(parts)
    for place in places:
        least = loads.index(min(loads))
        parts[least].append(place)
        loads[least] += len(group[place].data.train)
    return [[group[place] for place in sorted(part)] for part in parts]
