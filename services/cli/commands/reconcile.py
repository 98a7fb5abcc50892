"""`seawall log reconcile`: what the logs believe against what the sites hold, after a restore.

Reads only. The services may run, but a restored log is best reconciled before they are started:
nothing has been taken up again then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.cli.direct import on_database
from services.cli.output import Format, machine, out, table
from services.cli.progress import ProgressLine
from services.cli.run import DONE, FAILED, Output
from shared.databases import Databases, one_each

if TYPE_CHECKING:
    from services.cli.reconcile.compare import Difference
    from shared.eventlog.past import Logs
    from shared.postgres import Pool

READ: Final = ("scheduler", "replicator", "recovery")
"""Services whose logs and work are read."""

AGAIN_S: Final = 2.0
"""Between the two looks that a difference must outlast: sites and logs are not read at once."""


def reconcile(output: Output = Format.TABLE) -> None:
    """Compare the logs with what the sites hold; exit code 5 where they differ. Never writes."""

    async def work(databases: Databases) -> int:
        from schemas.language import import_all

        import_all()
        async with one_each(databases, READ, _pool) as logs:
            with ProgressLine() as line:
                line.say("reading the logs and listing the sites")
                found = await differences(logs)
        if not machine(report(found), output):
            show(found)
        return FAILED if found else DONE

    on_database(work)


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[Pool]:
    from shared.postgres import open_pool

    pool = await open_pool(url, READ[0], size_max=2, read_only=True)
    try:
        yield pool
    finally:
        await pool.close()


async def differences(logs: Logs, *, again_s: float = AGAIN_S) -> list[Difference]:
    """The differences that two looks agree on. What is under way changes between them."""
    first = await _look(logs)
    if not first:
        return []
    await asyncio.sleep(again_s)
    stood = {_identity(each) for each in first}
    return [each for each in await _look(logs) if _identity(each) in stood]


async def _look(logs: Logs) -> list[Difference]:
    from services.cli.reconcile.beliefs import read_installation, read_work
    from services.cli.reconcile.compare import compare, jobs_of
    from services.cli.reconcile.holdings import list_sites

    installation = await read_installation(logs)
    held = await list_sites(installation)
    work = await read_work(logs, jobs_of(installation, held))
    return compare(installation, work, held)


def _identity(difference: Difference) -> tuple[str, ...]:
    return (difference.site, difference.code, difference.kind, difference.object_id,
            difference.plan, difference.vm)  # fmt: skip


def report(found: Sequence[Difference]) -> dict[str, Any]:
    """The document of a comparison."""
    return {"same": not found, "items": msgspec.to_builtins(found), "next": None}


def show(found: Sequence[Difference]) -> None:
    """A table of the differences, and under it what follows from each kind."""
    rows = [
        (each.site, each.code, each.kind, each.object_id, each.plan, each.vm, each.job)
        for each in found
    ]
    columns = ("SITE", "DIFFERENCE", "KIND", "OBJECT", "PLAN", "VM", "JOB")
    table(columns, rows, empty="the logs and the sites agree")
    for each in found:
        name = " ".join(filter(None, (each.kind, each.object_id or each.vm)))
        who = "Seawall" if each.by == "seawall" else "you"
        out.print(f"{each.site} {name}: {each.found}", markup=False, soft_wrap=True)
        out.print(f"  {who}: {each.follows}", markup=False, soft_wrap=True)
