"""Builds the projector: the read models, a store of its own for leases, nothing of platforms.

`rebuild` stands here because the command line may import nothing else of a service.
"""

from __future__ import annotations

import os

from services.projector.postgres import SCHEMA, SQL_FOLDER, PostgresReadModel
from services.projector.project import Projector
from services.projector.rebuild import Rebuilt, rebuild
from shared.migrations import STORE_FILES, migrate_schema
from shared.process import Process
from shared.progress import ReadModelProgress
from shared.telemetry.lines import tell_projected

__all__ = ["SCHEMA", "Rebuilt", "build", "rebuild"]

_LEASES = "projector"


async def build(process: Process) -> Projector:
    """The projector of this process."""
    dsn = process.databases.of(_LEASES)
    await migrate_schema(dsn, SCHEMA, folder=SQL_FOLDER)
    await migrate_schema(dsn, _LEASES, folder=STORE_FILES)
    pool = await process.pool(_LEASES, schema=SCHEMA)
    bus, reading = await process.bus("projector", pool)
    projector = Projector(
        PostgresReadModel(pool),
        bus=bus,
        leases=await process.store(_LEASES),
        clock=process.clock,
        news=process.news(_LEASES),
        copy_id=f"projector-{os.getpid()}-{id(pool):x}",
        lease_s=process.settings.lease_s,
    )
    projector.tell = tell_projected
    if reading is not None:
        projector.beside(reading)
    if process.fabric is not None:
        # One copy is enough, and the partitions say which.
        told = process.fabric.progress_reader(
            ReadModelProgress(pool).tell, wanted=lambda: 0 in projector.share.owned()
        )
        projector.beside(told.run)
    projector.beside(process.lag_of(projector.name, projector.lag))
    process.health.add(projector.name, projector.problem)
    process.metrics.partitions.labels(service=projector.name).set_function(
        lambda: len(projector.share.owned())
    )
    return projector
