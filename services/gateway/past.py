"""Time travel: a plan or a job as the read models had it at a moment, folded from the logs again.

The folds are the projector's own (`schemas.folds`), so are the joins (`schemas.joins`). The one
reading of logs by the gateway: only the streams of that plan or job, read-only, bounded in rows
and seconds. What no event tells (progress) is not there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from schemas import registry
from schemas.envelope import Recorded
from schemas.folds.folded import Folded
from schemas.folds.jobs import SERVICES
from schemas.ids import family_of, key_of, parts_of, stream_id
from schemas.job_ids import is_job_id
from schemas.joins import job_now, plan_now
from schemas.language import import_all
from schemas.recovery_groups import GroupCleanupStarted, GroupMemberAsked
from schemas.replicator import RunStarted
from schemas.rules import is_name
from schemas.units import format_moment
from schemas.views import Job, Vm
from services.gateway.problems import Invalid, NotFound
from shared.clock import Clock
from shared.errors import Refused
from shared.eventlog.past import (
    Cut,
    Logs,
    PastReader,
    Stretch,
    TooMuchHistory,
    reading_past,
    stream_of,
    streams_under,
)

ROWS_MAX: Final = 1_000_000
"""Events of one answer, some 10 s of folding: 100 VMs on a grid of 15 minutes for 52 days."""

TIMEOUT_S: Final = 30.0
AT_ONCE_MAX: Final = 2
"""Answers being folded at once: each has a connection of the gateway's few for as long."""

JOB_PARTS: Final = 3
"""Parts of the id of a job with children: family, plan, and what tells it from others."""

_PLANS: Final = "scheduler"


class Past:
    """Reads documents as they were."""

    def __init__(self, logs: Logs, *, clock: Clock, rows_max: int = ROWS_MAX) -> None:
        import_all()
        self._logs = logs
        self._clock = clock
        self._rows_max = rows_max
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def plan(self, name: str, at: dt.datetime, *, vm: str = "") -> dict[str, Any]:
        """A plan and its VMs, or the one that is named: state and RPO are then that VM's.

        Raises NotFound, Invalid for the future, TooMuchHistory.
        """
        self._check(at)
        folded, cut = Folded(("plans", "vms")), Cut(at)
        if not is_name(name):
            raise _not_then("plan", name, at, cut, remedy="see GET /v1/plans")
        if vm and not is_name(vm):
            raise _not_then("VM", vm, at, cut, remedy=f"see `vm_names` of plan {name}")
        async with self._reader() as reader:
            await reader.fold(stream_of(_PLANS, stream_id("plan", name)), folded, cut)
            found = folded.tables["plans"].get(name)
            if found is None:
                raise _not_then("plan", name, at, cut, remedy="see GET /v1/plans")
            await self._fold_vms(reader, name, vm, folded, cut)
        members: list[Vm] = list(folded.tables["vms"].values())
        if vm and not members:
            raise _not_then("VM", vm, at, cut, remedy=f"see `vm_names` of plan {name}")
        return _plain(plan_now(found, members, now=at))

    async def _fold_vms(
        self, reader: PastReader, plan: str, vm: str, folded: Folded, cut: Cut
    ) -> None:
        if vm:
            one = stream_of(_PLANS, stream_id("protected-vm", plan, vm))
            await reader.fold(one, folded, cut)
            return
        try:
            await reader.fold(streams_under(_PLANS, f"protected-vm:{plan}:"), folded, cut)
        except TooMuchHistory as much:
            raise TooMuchHistory(
                f"the VMs of plan {plan} have a longer past than is folded for one answer: "
                f"{much.message}",
                remedy="ask for an earlier moment or for one VM: "
                f"`seawall plan show {plan} --at TIME --vm NAME`, vm=NAME",
            ) from much

    async def job(self, job: str, at: dt.datetime) -> dict[str, Any]:
        """A job with its children. Raises NotFound, Invalid for the future, TooMuchHistory."""
        self._check(at)
        folded, cut = Folded(("jobs", "job_requests")), Cut(at)
        jobs: dict[str, Job] = folded.tables["jobs"]
        if not is_job_id(job):
            raise _not_then("job", job, at, cut, remedy="see GET /v1/jobs")
        async with self._reader() as reader:
            for stretch in await _own_streams(reader, job):
                await reader.fold(stretch, folded, cut)
            if job not in jobs:
                # Decided, perhaps, and not begun: the scheduler's word stands for it.
                plan = stream_of(_PLANS, stream_id("plan", key_of(job)))
                await reader.fold(plan, folded, Cut(at))
            found = jobs.get(job) or folded.tables["job_requests"].get(job)
            if found is None:
                raise _not_then("job", job, at, cut, remedy="see GET /v1/jobs")
            for stretch in await _child_streams(reader, job):
                await reader.fold(stretch, folded, cut)
        children = [each for each in jobs.values() if each.parent_id == job]
        return _plain(job_now(found, children=children, now=at))

    def _check(self, at: dt.datetime) -> None:
        now = self._clock.now()
        if at > now:
            raise Invalid(
                f"at: {format_moment(at)} is in the future: it is {format_moment(now)}",
                remedy="ask for a moment that has passed",
            )

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[PastReader]:
        async with self._turns:
            try:
                async with (
                    asyncio.timeout(TIMEOUT_S),
                    reading_past(self._logs, rows_max=self._rows_max) as reader,
                ):
                    yield reader
            except TimeoutError as late:
                raise TooMuchHistory(
                    f"the events were not folded within {TIMEOUT_S:g} s",
                    remedy="ask for an earlier moment, for a job, or list the events themselves",
                ) from late
            except registry.UnknownType as unknown:
                raise Refused(
                    f"a newer build wrote events of this: {unknown}",
                    remedy="run that build, or a newer one",
                    code="newer-log",
                ) from unknown


class _Members:
    """The iterations of a run, from its own events."""

    def __init__(self, run: str) -> None:
        self._run = run
        started = registry.name_of(RunStarted)
        self.passed_over = [name for name in registry.names() if name != started]
        self.iterations: tuple[str, ...] = ()

    def take(self, rows: Iterable[Recorded]) -> None:
        """Keep what the run's start names."""
        for row in rows:
            started: RunStarted = registry.decode(row.type, row.schema_version, row.data)
            _, plan, tick = parts_of(self._run)
            named = tuple(stream_id("iteration", plan, vm, tick) for vm in started.vms)
            self.iterations = started.iterations or named


class _Named:
    """The events of one type in a stream: those by which a job names its children."""

    def __init__(self, event: type[msgspec.Struct]) -> None:
        kept = registry.name_of(event)
        self.passed_over = [name for name in registry.names() if name != kept]
        self.events: list[Any] = []

    def take(self, rows: Iterable[Recorded]) -> None:
        """Keep them."""
        for row in rows:
            self.events.append(registry.decode(row.type, row.schema_version, row.data))


async def _own_streams(reader: PastReader, job: str) -> list[Stretch]:
    """The stream that a job's document is folded from: its own, or up to one of its dots."""
    source = SERVICES.get(family_of(job))
    if source is None:
        return []
    ends = [place for place, letter in enumerate(job) if letter == "."]
    named = [job, *(job[:end] for end in ends)]
    return [stream_of(source, each) for each in await reader.which_exist(source, named)]


async def _child_streams(reader: PastReader, job: str) -> list[Stretch]:
    """Where jobs whose parent a job is are folded from, other than from its own stream."""
    parts = parts_of(job)
    if len(parts) != JOB_PARTS:
        return []
    family, plan, key = parts
    if family == "recovery":
        return [streams_under("recovery", f"vm-recovery:{plan}:{key}:")]
    if family == "find-clean-point":
        named = (f"recovery:{plan}:{key}-", f"cleanup:{plan}:{key}-")
        return [streams_under("recovery", prefix) for prefix in named]
    if family == "recovery-group":
        asked = _Named(GroupMemberAsked)
        await reader.fold(stream_of("recovery", job), asked, Cut(None))
        return [stream_of("recovery", event.job) for event in asked.events]
    if family == "group-cleanup":
        begun = _Named(GroupCleanupStarted)
        await reader.fold(stream_of("recovery", job), begun, Cut(None))
        plans = {each: None for event in begun.events for each in event.recoveries}
        return [stream_of("recovery", f"cleanup:{each}:{key}") for each in plans]
    if family == "replication-run":
        members = _Members(job)
        await reader.fold(stream_of("replicator", job), members, Cut(None))
        return [stream_of("replicator", each) for each in members.iterations]
    return []


def _not_then(what: str, name: str, at: dt.datetime, cut: Cut, *, remedy: str) -> NotFound:
    """Why there was no such thing at a moment."""
    then = format_moment(at)
    if cut.began_at is None:
        return NotFound(f"no {what} is named {name!r}, now or at {then}", remedy=remedy)
    if cut.began_at > at:
        first = format_moment(cut.began_at)
        return NotFound(
            f"{what} {name!r} was not there at {then}: it begins at {first}",
            remedy="ask for a moment after that",
        )
    return NotFound(f"{what} {name!r} was not there any more at {then}", remedy=remedy)


def _plain(document: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain
