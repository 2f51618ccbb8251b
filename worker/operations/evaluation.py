"""What a version is worth to each hosted client, found out without uploading anything."""

from __future__ import annotations

import asyncio
from typing import Any

from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import open_site
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.versions import Which, choose_version


async def evaluate_clients(
    config: WorkerConfig,
    settings: WorkerSettings,
    parts: SiteParts = STANDARD_PARTS,
    *,
    which: Which = "final",
    untrained: bool = False,
) -> list[dict[str, Any]]:
    """For each client: its name, the version, and the metrics of its personalised model.

    Args:
        config: of the worker that hosts the clients.
        settings: of the worker.
        parts: what the site is put together from.
        which: version of the clients' models.
        untrained: whether clients are evaluated too that have trained nothing.

    Raises:
        ConfigError: clients have trained nothing, which names them; or one has no such version.
    """
    async with open_site(config, settings, parts) as site:
        if not untrained and which != "best":
            site.check_trained()
        rows = []
        for client in site.clients:
            chosen = await choose_version(site, client, which)
            metrics = await asyncio.to_thread(
                site.method.evaluate, chosen.participant, chosen.weights
            )
            rows.append(
                {
                    "client": client.name,
                    "weights_version": chosen.version,
                    "accuracy": metrics["accuracy"],
                    "loss": metrics["loss"],
                    "num_test_examples": int(metrics["num_test_examples"]),
                }
            )
        return rows
