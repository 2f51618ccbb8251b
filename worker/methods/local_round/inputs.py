"""What a client's network is given: its images, or what a frozen beginning makes of them.

A frozen beginning's output depends only on the image. So it is computed once for each image that
is not augmented, and kept on the device as long as the client's examples are in use and memory
allows. On a GPU the images of a network without such a beginning are kept likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import numpy as np
import structlog
import torch

from worker.data.client_data import Batch, Examples

Begin = Callable[[torch.Tensor], torch.Tensor]

_log = structlog.get_logger()


class FeatureCache:
    """The inputs of one network, for whole splits of clients, within a bound."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # None for a split that did not fit.
        self._splits: WeakKeyDictionary[Examples, torch.Tensor | None] = WeakKeyDictionary()

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(kept.nbytes for kept in self._splits.values() if kept is not None)

    def get(
        self, examples: Examples, compute: Callable[[], Iterator[torch.Tensor]]
    ) -> torch.Tensor | None:
        """The inputs (n, ...) of all ``examples`` in order; None if they do not fit.

        Args:
            examples: of one client, never augmented.
            compute: computes them, batch by batch.
        """
        if examples not in self._splits:
            self._splits[examples] = self._computed(len(examples), compute())
        return self._splits[examples]

    def _computed(self, count: int, batches: Iterator[torch.Tensor]) -> torch.Tensor | None:
        kept: torch.Tensor | None = None
        start = 0
        for batch in batches:
            if kept is None:
                needed = count * (batch.nbytes // len(batch))
                used = self.size_bytes
                if used + needed > self._max_bytes:
                    _log.warning(
                        "inputs do not fit in the cache, every batch computes them again",
                        examples=count,
                        needed_bytes=needed,
                        used_bytes=used,
                        max_bytes=self._max_bytes,
                    )
                    return None
                kept = batch.new_empty(count, *batch.shape[1:])
            kept[start : start + len(batch)] = batch
            start += len(batch)
        _log.info("inputs cached", examples=count, used_bytes=self.size_bytes + needed)
        return kept


class Inputs:
    """One split of a client in batches, as the network takes them: inputs (B, ...) and labels (B,).

    Batches hold the same examples in the same order, and draw the same random numbers, whether
    their inputs are kept or computed.
    """

    def __init__(
        self,
        examples: Examples,
        device: torch.device,
        begin: Begin | None,
        cache: FeatureCache,
        computing_batch_size: int,
        stop_if_asked: Callable[[], None],
    ) -> None:
        """Refer to some examples; nothing is computed yet.

        Args:
            examples: of one client.
            device: to compute on.
            begin: what is made of images and kept; None if the network takes images that are not.
            cache: of this network's inputs.
            computing_batch_size: images at once where outputs are computed to be kept.
            stop_if_asked: called before every batch.
        """
        self._examples, self._device, self._begin, self._cache = examples, device, begin, cache
        self._computing_batch_size = computing_batch_size
        self._stop_if_asked = stop_if_asked
        self._labels = examples.labels.to(device)

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, positions: torch.Tensor, order: np.random.Generator | None = None) -> Batch:
        """Some of the examples; see :meth:`worker.data.client_data.Examples.batch`."""
        self._stop_if_asked()
        kept = self._kept(order)
        if kept is not None:
            here = positions.to(self._device)
            return kept[here], self._labels[here]
        images, labels = self._examples.batch(positions, self._device, order)
        return images if self._begin is None else self._begin(images), labels

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All examples in order, never augmented, the last short batch included."""
        for positions in torch.split(self._where_kept(torch.arange(len(self)), None), batch_size):
            yield self.batch(positions)

    def shuffled_batches(self, batch_size: int, order: np.random.Generator) -> Iterator[Batch]:
        """One epoch in an order drawn from the generator, the last short batch included.

        With augmentation on, it is drawn from the same generator, batch by batch.
        """
        shuffled = torch.from_numpy(order.permutation(len(self)))
        for positions in torch.split(self._where_kept(shuffled, order), batch_size):
            yield self.batch(positions, order)

    def _kept(self, order: np.random.Generator | None) -> torch.Tensor | None:
        if self._begin is None or (order is not None and self._examples.is_augmented):
            return None
        return self._cache.get(self._examples, self._all)

    def _where_kept(
        self, positions: torch.Tensor, order: np.random.Generator | None
    ) -> torch.Tensor:
        """A pass's positions where its batches are: copied to the device once, not for each."""
        return positions if self._kept(order) is None else positions.to(self._device)

    def _all(self) -> Iterator[torch.Tensor]:
        if self._begin is None:
            return
        for images, _ in self._examples.batches(self._computing_batch_size, self._device):
            self._stop_if_asked()
            yield self._begin(images)
