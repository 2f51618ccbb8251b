"""Kills a child process at a named point, once. Python runs this when its folder is on PYTHONPATH.

``CRASH_POINT`` names a point of ``POINTS``, as ``NAME:COUNT`` for a later time than
the first that it is passed; ``CRASH_MARKER`` is a file that says that it has happened.
A function is wrapped as soon as its module has been imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Point:
    """Before or after the ``count``-th call of a function or method."""

    module: str
    function: str
    is_after: bool = False
    count: int = 1
    condition: Callable[..., bool] = lambda *_, **__: True
    """Of the function's arguments, once it has returned if ``is_after``."""


_ANSWER_SECONDS = 60.0


def _is_claim(_session: Any, _round_id: int, transition: Any, *_: Any, **__: Any) -> bool:
    return bool(transition.target == "aggregating")


def _has_answer_unread(connection: Any, *, request: Any) -> bool:
    """Waits until an upload's answer lies in the socket, from which nothing of it was read."""
    if request.method != b"PUT":
        return False
    socket = connection._network_stream.get_extra_info("socket")
    if not select.select([socket], [], [], _ANSWER_SECONDS)[0]:
        raise TimeoutError("the coordinator did not answer an upload")
    return True


POINTS = {
    "round-opened-uncommitted": Point(
        "coordinator.round_moves", "RoundMoves._open_round", is_after=True
    ),
    "round-opened": Point("coordinator.driver", "Driver._advance", is_after=True),
    "lease-granted-uncommitted": Point("coordinator.store.assignments", "lease", is_after=True),
    "lease-granted": Point("coordinator.tasks", "_lease", is_after=True),
    "update-half-received": Point(
        "coordinator.blobs",
        "BlobWriter.append",
        is_after=True,
        condition=lambda writer, _piece: writer._num_chunks == 1,
    ),
    "update-received": Point("coordinator.updates", "_record"),
    "update-recorded-uncommitted": Point("coordinator.store.assignments", "submit", is_after=True),
    "update-recorded": Point("coordinator.updates", "_record", is_after=True),
    "aggregation-claimed-uncommitted": Point(
        "coordinator.store.rounds", "move", is_after=True, condition=_is_claim
    ),
    "aggregation-claimed": Point(
        "coordinator.aggregation_lease", "AggregationLease.claim", is_after=True
    ),
    "weights-written": Point("coordinator.driver", "Driver._commit"),
    "weights-published-uncommitted": Point("coordinator.round_moves", "_publish", is_after=True),
    "round-committed": Point("coordinator.driver", "Driver._commit", is_after=True),
    # Once for each piece: the first is on disk, the second is not.
    "weights-half-downloaded": Point("worker.client", "naming", count=2),
    "weights-downloaded": Point("worker.client", "CoordinatorClient.fetch_weights", is_after=True),
    # The first version is built from the seed.
    "weights-obtained": Point("worker.weights_cache", "WeightsCache.get", is_after=True, count=2),
    "mid-training": Point("worker.methods.lock_step", "HypernetworkGroup.step", count=5),
    "trained": Point("worker.hosted_client", "HostedClient.save"),
    "state-saved": Point("worker.hosted_client", "HostedClient.save", is_after=True),
    "update-unanswered": Point(
        "httpcore._async.http11",
        "AsyncHTTP11Connection._receive_response_headers",
        condition=_has_answer_unread,
    ),
    "update-confirmed": Point(
        "worker.hosted_client", "HostedClient.confirm_pending", is_after=True
    ),
}


def _die(marker: str) -> None:
    """Ends the process as a power failure would, unless it did so before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(function: Callable[..., Any], point: Point, marker: str) -> Callable[..., Any]:
    calls = 0

    def note(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        if point.condition(*arguments, **named):
            calls += 1
            if calls == point.count:
                _die(marker)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            if not point.is_after:
                note(*arguments, **named)
            result = await function(*arguments, **named)
            if point.is_after:
                note(*arguments, **named)
            return result

    else:

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if not point.is_after:
                note(*arguments, **named)
            result = function(*arguments, **named)
            if point.is_after:
                note(*arguments, **named)
            return result

    return wrapped


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, point: Point, marker: str) -> None:
        self._loader, self._point, self._marker = loader, point, marker

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        *path, name = self._point.function.split(".")
        owner: Any = functools.reduce(getattr, path, module)
        setattr(owner, name, _wrap(getattr(owner, name), self._point, self._marker))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, point: Point, marker: str) -> None:
        self._point, self._marker = point, marker

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._point.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._point, self._marker)
        return spec


if _given := os.environ.get("CRASH_POINT"):
    _name, _, _count = _given.partition(":")
    _point = replace(POINTS[_name], count=int(_count)) if _count else POINTS[_name]
    sys.meta_path.insert(0, _Finder(_point, os.environ["CRASH_MARKER"]))
