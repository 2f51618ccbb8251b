"""What the newest weights are worth to each hosted client, found out without uploading anything."""

from __future__ import annotations

import asyncio
from typing import Any

from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import open_site
from worker.site.parts import STANDARD_PARTS, SiteParts


async def evaluate_clients(
    config: WorkerConfig,
    settings: WorkerSettings,
    parts: SiteParts = STANDARD_PARTS,
    *,
    untrained: bool = False,
) -> list[dict[str, Any]]:
    """For each client: its name, the version, and the metrics of its personalised model.

    Args:
        config: of the worker that hosts the clients.
        settings: of the worker.
        parts: what the site is put together from.
        untrained: whether clients are evaluated too that have trained nothing.

    Raises:
        ConfigError: clients have trained nothing; names them.
    """
    async with open_site(config, settings, parts) as site:
        if not untrained:
            site.check_trained()
        version, weights = await site.newest_weights()
        rows = []
        for client in site.clients:
            metrics = await asyncio.to_thread(site.method.evaluate, client.participant(), weights)
            rows.append(
                {
                    "client": client.name,
                    "weights_version": version,
                    "accuracy": metrics["accuracy"],
                    "loss": metrics["loss"],
                    "num_test_examples": int(metrics["num_test_examples"]),
                }
            )
        return rows
