"""What lies with the services themselves and in no event: the queue, blobs, what is parked.

Read where it lies, in the database of whoever owns it, by connections that cannot write. They are
made when they are needed: where one of these databases is away, only what is in it cannot be
answered. Nothing here is waited for by a command or a listing of read models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from schemas.envelope import commands_topic
from schemas.ids import family_of
from shared.effects.port import BudgetState, Waiting
from shared.effects.postgres import PostgresWork
from shared.errors import Permanent, Transient
from shared.eventlog.postgres import PostgresStore
from shared.postgres import Pool, translated

OWNERS: Final = ("scheduler", "replicator", "recovery", "notifier")
"""Services that decide commands."""

QUEUE_OWNER: Final = "recovery"
"""The queue of all that call platforms is in the database that they share."""

_WORKING: Final = (
    "SELECT DISTINCT j.job FROM unnest($1::text[], $2::text[], $3::text[]) AS j (job, least, past)"
    " WHERE EXISTS (SELECT FROM effects e WHERE e.effect_id >= j.least AND e.effect_id < j.past)"
)
"""By ranges of effect ids, which begin with their stream's."""


class Owners:
    """Reads of services' own tables, over a reading pool of each whose database is known."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]:
        """Running and ready work, in order."""
        with _not_there_yet(QUEUE_OWNER):
            return await PostgresWork(self._pool(QUEUE_OWNER)).waiting(count_max=count_max)

    async def budgets(self) -> Sequence[BudgetState]:
        """The budgets and what is used of them."""
        with _not_there_yet(QUEUE_OWNER):
            return await PostgresWork(self._pool(QUEUE_OWNER)).budgets()

    async def blob(self, owner: str, sha256: str) -> bytes | None:
        """What a service keeps because it is too long for a fact; None where it is gone."""
        with _not_there_yet(owner):
            store = await PostgresStore.open(self._pool(owner), service=owner)
            return await store.get_blob(sha256)

    async def working(self, jobs: Sequence[str]) -> frozenset[str]:
        """Those of the jobs that have unsettled work of their own or, recoveries, of their VMs."""
        own = [(job, f"{job}/", f"{job}0") for job in jobs]
        vms = [(job, f"vm-{job}:", f"vm-{job};") for job in jobs if family_of(job) == "recovery"]
        ranges = [*own, *vms]
        columns = [[each[place] for each in ranges] for place in range(3)]
        with _not_there_yet(QUEUE_OWNER), translated("look for unsettled work"):
            async with self._pool(QUEUE_OWNER).acquire(timeout=5.0) as connection:
                rows = await connection.fetch(_WORKING, *columns)
        return frozenset(row["job"] for row in rows)

    async def parked(self, owner: str, key: str) -> str:
        """Why messages of the gateway about a plan or site wait at their owner, or "".

        Where the owner's database is not known here, nothing is said to be parked.
        """
        if owner not in self._pools:
            return ""
        with _not_there_yet(owner), translated("read what is parked"):
            async with self._pools[owner].acquire(timeout=5.0) as connection:
                if await connection.fetchval("SELECT to_regclass('parked')") is None:
                    return ""
                reason = await connection.fetchval(
                    "SELECT reason FROM parked WHERE source = 'gateway' AND topic = $1"
                    " AND key = $2 ORDER BY seq LIMIT 1",
                    commands_topic(owner),
                    key,
                )
        return str(reason or "")

    def _pool(self, owner: str) -> Pool:
        if owner not in self._pools:
            raise Transient(
                f"the gateway does not know the database of the {owner}",
                remedy=f"set SEAWALL_DATABASE_URL_{owner.upper()} for the gateway too",
                code="database-unavailable",
            )
        return self._pools[owner]


@contextmanager
def _not_there_yet(owner: str) -> Iterator[None]:
    """A service that was never started has no tables: to be asked again later."""
    try:
        yield
    except Permanent as absent:
        raise Transient(
            absent.message,
            remedy=f"start the {owner}, which makes its tables; or {absent.remedy}",
            code="database-unavailable",
        ) from absent
