"""One glance at a running job: the job, its parts, its plan's VMs, and the queue before it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.cli.client import ENDED, ApiError, Client

QUEUE_EVERY_S = 2.0
"""The queue is read on the services' own database: not at every look."""

QUEUE_LIMIT = "1000"


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What `/v1/queue` said: work by the job it belongs to, and the budgets."""

    work: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    budgets: Sequence[Mapping[str, Any]] = ()


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands at `now`. `parts` are its children, `delays` boot delays by VM in
    seconds. `silent_s`: for so long the control plane has not answered, and this is old."""

    job: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]] = ()
    delays: Mapping[str, float] = {}
    queue: Queue = Queue()
    now: dt.datetime
    silent_s: float = 0.0


class Eyes:
    """Looks at one job again and again; what changes seldom is not asked for each time."""

    def __init__(self, client: Client, job: str) -> None:
        self._client = client
        self._job = job
        self._delays: dict[str, float] | None = None
        self._queue = Queue()
        self._queue_at: dt.datetime | None = None

    async def look(self) -> Look:
        """The job now. Raises ApiError where there is none, and Unreachable."""
        job = await self._client.job(self._job)
        parts: Sequence[Mapping[str, Any]] = ()
        if job["children"]:
            page = await self._client.everything("/v1/jobs", parent_id=self._job)
            parts = page["items"]
        now = dt.datetime.now(dt.UTC)
        if job["state"] not in ENDED:
            await self._read_delays(job, parts)
            await self._read_queue(job, now)
        return Look(
            job=job,
            parts=parts,
            delays=self._delays or {},
            queue=self._queue if job["state"] not in ENDED else Queue(),
            now=now,
        )

    async def _read_delays(
        self, job: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Boot delays do not change while a recovery runs: they are asked for once."""
        if self._delays is not None or not any(part.get("boot_order") for part in parts):
            return
        self._delays = {}
        try:
            page = await self._client.everything("/v1/vms", plan=job["plan"])
        except ApiError:
            return  # who may see the job and not the plan sees it without its delays
        self._delays = {vm["name"]: vm.get("boot_delay_s") or 0.0 for vm in page["items"]}

    async def _read_queue(self, job: Mapping[str, Any], now: dt.datetime) -> None:
        last = self._queue_at
        if last is not None and (now - last).total_seconds() < QUEUE_EVERY_S:
            return
        self._queue_at = now
        try:
            page = await self._client.get("/v1/queue", limit=QUEUE_LIMIT)
        except ApiError:
            return  # nothing is known of it, and the job is shown all the same
        self._queue = queue_of(page, plan=job["plan"])


def queue_of(page: Mapping[str, Any], *, plan: str) -> Queue:
    """A page of the queue, a plan's own work by job. An effect's id begins with its stream."""
    work: dict[str, list[Mapping[str, Any]]] = {}
    for item in page["items"]:
        if item["plan"] == plan:
            work.setdefault(item["effect_id"].partition("/")[0], []).append(item)
    return Queue(work=work, budgets=page["budgets"])
