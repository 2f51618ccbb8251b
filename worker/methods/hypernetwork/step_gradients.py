"""∂L/∂θ of the clients that take a step together: one after the other, or as one computation."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.func import grad_and_value, vmap

from worker.data.client_data import Batch
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.methods.local_round.head import Head
from worker.models.frozen import FrozenBackbone
from worker.models.registry import FeatureExtractor

_FEWEST_CLIENTS = 4
"""With fewer, the Python of one computation takes as long as that of one after the other."""
_MOST_PARAMETERS_ON_CPU = 1 << 15
_MOST_ELEMENTS = 1 << 23
"""Most elements of inputs that are computed with at once: 214 batches of 50 images of 1×28×28."""


def pays_batched(module: nn.Module, device: torch.device) -> bool:
    """Whether one computation for all clients is expected to be faster on ``device``.

    A GPU has idle cores while it works for one client. A core has none: there it pays where the
    Python between small operations takes most of the time, as in a small multilayer perceptron.
    With convolutions it takes 1.3 to 1.7 times as long there (docs/performance.md).
    """
    if device.type == "cuda":
        return True
    size = 0
    for layer in module.modules():
        of_layer = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        if of_layer and not isinstance(layer, nn.Linear):
            return False
        size += of_layer
    return size <= _MOST_PARAMETERS_ON_CPU


class StepGradients:
    """The gradients of a group's steps.

    As one computation they differ from those one after the other by the rounding of sums alone:
    each client draws for itself, and what is not finite stays its own.

    Attributes:
        batched: whether groups are one computation where they are large enough.
    """

    def __init__(
        self, extractor: FunctionalExtractor, template: FeatureExtractor, device: torch.device
    ) -> None:
        """Choose by the device and the module, which is tried once.

        Args:
            extractor: on the device, made of ``template``.
            template: the module, and what its images are like.
            device: to compute on.
        """
        self._extractor = extractor
        self._of_all = vmap(grad_and_value(self._loss))
        self.batched = pays_batched(template.module, device) and self._can(template, device)

    def write(
        self, clients: Sequence[HyperFLClient], thetas: torch.Tensor, gradients: torch.Tensor
    ) -> None:
        """Write ∂L/∂θ of each client's next batch at θ (n, P) into ``gradients`` (n, P)."""
        if not self.batched or len(clients) < _FEWEST_CLIENTS:
            for client, theta, gradient in zip(clients, thetas, gradients, strict=True):
                gradient.copy_(client.gradient(theta))
            return
        batches = [client.next_batch() for client in clients]
        for members in _of_one_size(batches):
            some = [clients[index] for index in members]
            inputs, labels = (
                torch.stack(parts)
                for parts in zip(*(batches[index] for index in members), strict=True)
            )
            size = labels.shape[1]
            masks = torch.stack([client.dropout_mask(size, thetas.dtype) for client in some])
            tensors = [client.gradient_head.tensors for client in some]
            heads = {name: torch.stack([one[name] for one in tensors]) for name in tensors[0]}
            # Where all have as many examples, nothing need be picked out.
            rows = slice(None) if len(members) == len(clients) else members
            gradients[rows], losses = self._of_all(thetas[rows], heads, inputs, labels, masks)
            for client, loss in zip(some, losses, strict=True):
                client.count_step(loss, size)

    def _loss(
        self,
        theta: torch.Tensor,
        head: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        features = self._extractor.masked_training_features(theta, inputs, mask)
        return Head(head).loss(features, labels)

    def _can(self, template: FeatureExtractor, device: torch.device) -> bool:
        """Whether one computation gives what each client by itself does.

        Not where training changes buffers or a module draws itself: these are each client's own.
        Not on a frozen backbone, which keeps a GPU busy with one client, and takes its memory. And
        not where torch.func.vmap refuses an operation, or would do it client by client.
        """
        module = template.module
        if isinstance(module, FrozenBackbone) or own_buffers(module):
            return False
        count, size = 2, 2
        sizes = [parameter.numel() for parameter in module.parameters() if parameter.requires_grad]
        head = {"head.weight": torch.zeros(count, 1, template.feature_width, device=device)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self._of_all(
                    torch.zeros(count, sum(sizes), device=device),
                    head | {"head.bias": torch.zeros(count, 1, device=device)},
                    torch.zeros(count, size, *template.image_shape, device=device),
                    torch.zeros(count, size, dtype=torch.int64, device=device),
                    torch.ones(count, size, template.feature_width, device=device),
                )
        except (Exception, SystemExit):  # A user's module may raise whatever it likes.
            return False
        return True


def _of_one_size(batches: Sequence[Batch]) -> Iterator[list[int]]:
    """Positions of batches of as many examples, together no larger than one computation takes."""
    of_size: defaultdict[int, list[int]] = defaultdict(list)
    for index, (_, labels) in enumerate(batches):
        of_size[len(labels)].append(index)
    for positions in of_size.values():
        inputs, _ = batches[positions[0]]
        at_once = max(1, _MOST_ELEMENTS // inputs.numel())
        for start in range(0, len(positions), at_once):
            yield positions[start : start + at_once]
