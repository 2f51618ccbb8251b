"""What a site's page shows, from files at the site alone."""

from __future__ import annotations

from typing import Any

from worker.settings import WorkerConfig
from worker.site import history
from worker.site.best_version import read_best

SHOWN_ROUNDS = 50


def page_contents(config: WorkerConfig) -> dict[str, Any]:
    """For the template: the federation, its clients with their newest rounds, and the policy.

    Raises:
        PrivateStateError: what a client has kept cannot be read.
    """
    clients = []
    for client in config.clients:
        rows = history.read(client.state_dir)
        clients.append(
            {
                "name": client.name,
                "rounds": rows[: -SHOWN_ROUNDS - 1 : -1],
                "num_rounds": len(rows),
                "newest": rows[-1] if rows else None,
                "best": read_best(client.state_dir),
            }
        )
    return {
        "federation": config.federation,
        "coordinator": config.coordinator_url,
        "clients": clients,
        "policy": config.policy.model_dump(mode="json"),
    }
