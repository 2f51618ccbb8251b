"""Does the work of one round for the clients that hold it: train or evaluate, save, upload.

Torch runs in a thread of its own while heartbeats go on. Each client's result is saved with its
pending update before it is sent, and sent until it is answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

import structlog

from shared.arrays import NamedArrays
from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from worker.errors import PolicyRefused, Refused, WeightsError
from worker.methods.interface import Method, TrainingFailedError, TrainingInterrupted, Trains
from worker.metrics import WorkerMetrics
from worker.remote.patience import Patience, Sleep
from worker.remote.weights_cache import WeightsCache
from worker.rounds.heartbeats import Leases, heartbeats
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.progress import EventView, RoundProgress
from worker.rounds.site_record import SiteRecord
from worker.rounds.sitting_out import break_down, give_up, refuse_by_policy
from worker.rounds.update_sender import UpdateSender
from worker.rounds.update_writer import UpdateWriter
from worker.site.private_state import PrivateState

Outcome = tuple[HeldTask, PrivateState | PolicyRefused]
"""Of a client's part: its next private state, or why nothing of it is kept or sent."""

_log = structlog.get_logger()


def _following(results: Iterator[Outcome]) -> Outcome | None:
    return next(results, None)


class RoundWork:
    """Works on tasks of one round; made once for a worker and used round after round.

    ``sleep`` waits between two heartbeats. ``trainer`` trains, if that is another than ``method``,
    which does all else meanwhile.
    """

    def __init__(
        self,
        writer: UpdateWriter,
        method: Method,
        cache: WeightsCache,
        patience: Patience,
        stop: threading.Event,
        gate: PolicyGate,
        metrics: WorkerMetrics,
        sleep: Sleep = asyncio.sleep,
        progress: RoundProgress | None = None,
        trainer: Trains | None = None,
    ) -> None:
        self._progress = progress or RoundProgress(EventView())
        self._metrics = metrics
        self._gate = gate
        self._record = SiteRecord(method, gate)
        self._writer = writer
        self._method = method
        self._trainer = trainer or method
        self._cache = cache
        self._patience = patience
        self._sender = UpdateSender(patience, metrics)
        self._stop = stop
        self._sleep = sleep
        self._missing_digest = ""
        self._torch_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training")

    async def do(self, held: Sequence[HeldTask]) -> bool:
        """Does all tasks, which are of the same round, in order of client name.

        Returns:
            Whether the weights were to be had that the tasks name. They are not where rounds went
            on meanwhile, or where the coordinator went back to an earlier backup: the next poll
            says from which weights to start then.

        Raises:
            TrainingInterrupted: the worker is being stopped.
            WeightsError: the same weights were asked for again, and again others came.
            PrivateStateError: the coordinator knows of a newer private state than a client has.
            Refused, Unreachable: the work cannot go on.
        """
        ordered = sorted(held, key=lambda one: one.client.name)
        log = _log.bind(round=ordered[0].task.round_number, kind=ordered[0].task.kind.value)
        uploads: list[asyncio.Task[None]] = []
        undone: list[HeldTask] = []
        held_leases = [(one.client.api, one.task) for one in ordered]
        async with heartbeats(held_leases, self._sleep) as leases:
            try:
                for one in [one for one in ordered if one.client.has_pending_for(one.task)]:
                    log.info("pending update sent again", client=one.client.name)
                    uploads.append(asyncio.create_task(self._sender.upload(one, leases)))
                fresh = [one for one in ordered if not one.client.has_pending_for(one.task)]
                undone += fresh
                await asyncio.gather(*(self._sender.settle(one) for one in fresh))
                fresh = [one for one in fresh if not one.client.is_shut_out]
                ready = await self._writer.prepare(await self._admit(fresh))
                leases.drop(*(one.client.name for one in fresh if one not in ready))
                fresh = ready
                if fresh:
                    log.info("work begins", clients=len(fresh))
                    async for one, state in self._results(fresh, leases):
                        with self._metrics.phase("saving", client=one.client.name):
                            await asyncio.to_thread(one.client.save, state)
                        undone.remove(one)
                        uploads.append(asyncio.create_task(self._sender.upload(one, leases)))
                await asyncio.gather(*uploads)
            except TrainingFailedError as failed:
                for one in [one for one in ordered if one.client.name in failed.reasons]:
                    leases.drop(one.client.name)
                    name = one.client.name
                    await give_up(one, failed.kinds[name], failed.reasons[name], self._patience)
                await asyncio.gather(*uploads)
            except Refused as refusal:
                if not refusal.is_a(ProblemType.VERSION_REMOVED, ProblemType.NOT_FOUND):
                    raise
                log.warning("weights no longer kept, work dropped", detail=refusal.problem.detail)
                await asyncio.gather(*uploads)
                return False
            except WeightsError as error:
                digest = ordered[0].task.base_digest
                if digest == self._missing_digest:
                    raise
                self._missing_digest = digest
                log.warning("weights are others now, work dropped", detail=str(error))
                await asyncio.gather(*uploads)
                return False
            except Exception as error:
                await break_down(undone, error, self._patience)
                raise
            finally:
                for upload in uploads:
                    upload.cancel()
        self._metrics.rounds.labels(ordered[0].task.kind.value).inc()
        log.info("work done", clients=len(ordered))
        return True

    async def _admit(self, fresh: Sequence[HeldTask]) -> list[HeldTask]:
        """Those whom the site's policy lets train in this round; an evaluation is not counted."""
        admitted = []
        for one in fresh:
            try:
                if one.task.kind is TaskKind.TRAIN:
                    await asyncio.to_thread(self._gate.admit, one)
                admitted.append(one)
            except PolicyRefused as refusal:
                await refuse_by_policy(one, refusal, self._patience)
        return admitted

    async def _results(
        self, fresh: Sequence[HeldTask], leases: Leases
    ) -> AsyncIterator[tuple[HeldTask, PrivateState]]:
        """Each client's next private state, as soon as its part is done; none that is unwanted."""
        first = fresh[0]
        with self._metrics.phase("download", version=first.task.base_version):
            weights = await self._cache.get(
                first.client.api, first.task.base_version, first.task.base_digest
            )
        results = (
            self._train(fresh, weights, leases)
            if first.task.kind is TaskKind.TRAIN
            else self._evaluate(fresh, weights)
        )
        loop = asyncio.get_running_loop()
        while True:
            try:
                item = await loop.run_in_executor(
                    self._torch_thread, copy_context().run, _following, results
                )
            except TrainingInterrupted:
                if self._stop.is_set():
                    raise
                _log.warning("round is over, training ended", round=first.task.round_number)
                return
            if item is None:
                return
            one, outcome = item
            if isinstance(outcome, PolicyRefused):
                leases.drop(one.client.name)
                await refuse_by_policy(one, outcome, self._patience)
            else:
                yield one, outcome

    def _train(
        self, fresh: Sequence[HeldTask], weights: NamedArrays, leases: Leases
    ) -> Iterator[Outcome]:
        by_name = {one.client.name: one for one in fresh}
        results = self._trainer.train(
            [one.client.participant(one.task.client_number) for one in fresh],
            weights,
            fresh[0].task.round_number,
            lambda: self._ends_after_step(leases),
        )
        with self._progress.of_round(fresh[0].task.round_number, [*by_name]):
            while True:
                with self._metrics.phase("training"):
                    result = next(results, None)
                if result is None:
                    return
                one = by_name[result.participant]
                self._progress.measured(result.metrics.get("loss_after"))
                try:
                    self._gate.check_result(one, result.metrics)
                except PolicyRefused as refusal:
                    yield one, refusal
                    continue
                shown = replace(result, metrics=self._gate.shown(result.metrics))
                with self._metrics.phase("encoding", client=one.client.name):
                    state = self._writer.trained(one, shown, weights)
                with self._metrics.phase("evaluation", client=one.client.name):
                    self._record.keep(one, state, result.metrics, weights)
                yield one, state

    def _evaluate(self, fresh: Sequence[HeldTask], weights: NamedArrays) -> Iterator[Outcome]:
        for one in fresh:
            with self._metrics.phase("evaluation", client=one.client.name):
                metrics = self._method.evaluate(one.client.participant(), weights)
                state = self._writer.evaluated(one, self._gate.shown(metrics))
                self._record.keep(one, state, metrics, weights)
            yield one, state

    def _ends_after_step(self, leases: Leases) -> bool:
        """Methods ask before each batch whether to stop."""
        self._metrics.steps.inc()
        self._progress.step()
        return self._stop.is_set() or not leases.is_wanted

    def close(self) -> None:
        """Ends the training thread after its current step."""
        self._torch_thread.shutdown(wait=True, cancel_futures=True)
