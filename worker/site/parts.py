"""What a site is put together from: its way to the coordinator, methods, data sets and waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from shared.federation.features import Feature
from shared.federation.plans import TrainingPlan
from worker.data.client_data import ClientData
from worker.data.images import ImageShape, Statistics
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Method, SiteResources
from worker.remote.connection import Transport
from worker.remote.patience import Sleep


class Datasets(Protocol):
    """Where hosted clients' data come from."""

    def client_data(
        self,
        source: DataSource,
        image_shape: ImageShape,
        num_classes: int,
        class_names: tuple[str, ...] | None = None,
        features: tuple[Feature, ...] | None = None,
    ) -> ClientData:
        """See :meth:`worker.data.loading.DatasetCache.client_data`."""

    def try_out(self, source: DataSource) -> object:
        """See :meth:`worker.data.loading.DatasetCache.try_out`."""


@dataclass(frozen=True)
class SiteParts:
    """The defaults are what a site's own commands use.

    Attributes:
        transport: what carries the requests; None opens sockets.
        build_method: makes the federation's method, for a device and within a site's bounds.
        datasets: makes what loads data, with fixed pixel statistics (or None) and the bytes of
            memory that it may take.
        sleep: waits that many seconds, between two requests of the same kind.
        on_retry: see :class:`worker.remote.patience.Patience`.
    """

    transport: Transport | None = None
    build_method: Callable[[TrainingPlan, torch.device, SiteResources], Method] = build_method
    datasets: Callable[[Statistics | None, int], Datasets] = DatasetCache
    sleep: Sleep = asyncio.sleep
    on_retry: Callable[[str], None] = lambda _doing: None


STANDARD_PARTS = SiteParts()
