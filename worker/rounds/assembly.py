"""What does the work of rounds at a site, put together."""

from __future__ import annotations

import threading

from worker.metrics import WorkerMetrics
from worker.rounds.masked_writer import MaskedWriter
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.progress import EventView, ProgressView, RoundProgress
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter, UpdateWriter
from worker.site.opening import Site
from worker.site_policy import SitePolicy


def round_work(
    site: Site,
    policy: SitePolicy,
    stop: threading.Event,
    metrics: WorkerMetrics,
    view: ProgressView | None,
) -> tuple[RoundWork, PolicyGate]:
    """The work on rounds of a site's federation, and what its policy lets into it.

    ``view`` shows how far training is; None: events in the log. Whoever gets the work closes it.
    """
    writer: UpdateWriter = PlainWriter(site.specification)
    if site.specification.protection is not None:
        writer = MaskedWriter(
            site.specification, site.patience, shows_own_metrics=policy.own_metrics
        )
    gate = PolicyGate(policy, site.specification.training)
    work = RoundWork(
        writer,
        site.method,
        site.cache,
        site.patience,
        stop,
        gate,
        metrics,
        progress=RoundProgress(view or EventView()),
        trainer=site.trainer,
    )
    return work, gate
