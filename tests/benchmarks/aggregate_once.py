"""A process that aggregates a database's open round by a rule and throws the result away.

``python -m tests.benchmarks.aggregate_once DATABASE_URL RULE`` prints, both in JSON, processor
seconds, which other processes of a shared machine lengthen least, and MB.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from coordinator.aggregation.aggregate import aggregate
from coordinator.clock import utc_now
from coordinator.context import Context
from coordinator.database.transactions import Database
from coordinator.metrics import CoordinatorMetrics
from coordinator.settings import CoordinatorSettings
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.store.blobs import BlobStore
from shared.federation.specification import FederationSpecification
from tests.benchmarks.measurements import peak_memory_mb


async def _main(database_url: str, rule: dict[str, Any]) -> dict[str, float]:
    settings = CoordinatorSettings(database_url=database_url)
    database = Database(settings.effective_database_url)
    context = Context(database, BlobStore(database), settings, utc_now, CoordinatorMetrics())
    async with database.reading() as session:
        ((federation_id, _),) = await federation_store.list_running(session)
        federation = await federation_store.get(session, federation_id)
        round_ = await round_store.find_live(session, federation.id)
    assert round_ is not None
    document = json.loads(federation.specification) | {"aggregation": rule}
    federation.specification = FederationSpecification.model_validate(document).model_dump_json()

    started = time.process_time()
    result = await aggregate(context, federation, round_)
    seconds = time.process_time() - started
    assert result.new is not None
    for blob in result.new.blobs:
        await blob.discard()
    await database.close()
    return {"seconds": seconds, "peak_memory_mb": peak_memory_mb(os.getpid())}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))))
