"""The store in memory, for tests and simulation: the same contract as PostgreSQL's, one process.

Owns the same rules, in the same order: a commit checks everything, then changes everything,
without an await between, so a reader never sees half a step. What is kept is immutable. The
clock it is given is the store's clock.
"""

from __future__ import annotations

import bisect
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import asdict, replace

from schemas.envelope import Recorded
from schemas.ids import PARTITIONS
from shared.clock import Clock
from shared.errors import InvariantBroken
from shared.eventlog.port import (
    Asked,
    Conflict,
    CursorMove,
    DueTimer,
    Fenced,
    Loaded,
    NameTaken,
    NewEffect,
    NewRow,
    NewTimer,
    Parked,
    Settled,
    Snapshot,
    Step,
)
from shared.eventlog.steps import (
    Appends,
    Head,
    check_blob,
    count_rows,
    moves_of,
    snapshots_kept,
    stream_versions,
    timers_set,
)


class WorkSink(Protocol):
    """The work queue's share of a commit. It checks everything before it changes anything."""

    def apply_work(
        self,
        service: str,
        *,
        effects: Sequence[NewEffect],
        stream_versions: Mapping[str, int],
        settled: Sequence[Settled],
        cancelled: Sequence[str],
        released_seats: Sequence[tuple[str, str]],
    ) -> None:
        """Apply all or nothing. Raises Fenced for a claim that is not ours any more."""


class MemoryStore:
    """The store of one service. Objects that share one `work` share one work queue."""

    def __init__(
        self, service: str, *, clock: Clock, work: WorkSink | None = None, epoch: int = 1
    ) -> None:
        self._service = service
        self._epoch = epoch
        self._clock = clock
        self._work = work
        self._log: dict[Head, list[Recorded]] = {}
        self._streams: dict[str, list[Recorded]] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._cursors: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._timers: dict[tuple[str, str], DueTimer] = {}
        self._due: list[tuple[dt.datetime, int, tuple[str, str]]] = []
        self._token = 0
        self._names: dict[str, str] = {}
        self._parked: dict[tuple[str, str, int, int], Parked] = {}
        self._blobs: dict[str, bytes] = {}
        self._copies: dict[str, dt.datetime] = {}
        self._leases: dict[int, tuple[str, dt.datetime]] = {}
        self._published: dict[Head, int] = {}

    @property
    def service(self) -> str:
        return self._service

    @property
    def epoch(self) -> int:
        return self._epoch

    async def commit(self, step: Step) -> Mapping[Head, int]:
        """Commit all of `step` or nothing. Raises Conflict, Fenced, NameTaken."""
        appends = count_rows(step.rows)
        moves = moves_of(step)
        timers = timers_set(step)
        self._check_streams(appends, step.read)
        self._check_cursors(moves)
        self._check_timers(step)
        names = self._names_after(step)
        self._check_parked(step)
        self._apply_work(step, appends)
        ends = self._append(step.rows, appends)
        for move in moves:
            self._cursors[_cursor(move)] = (move.epoch, move.after)
        self._change_timers(step, timers)
        self._names = names
        self._keep_snapshots(step.snapshots)
        self._change_parked(step)
        return ends

    # What may forbid the step, in the order in which PostgreSQL finds it.

    def _check_streams(self, appends: Appends, read: Sequence[tuple[str, int]]) -> None:
        moved = [
            stream
            for stream, (before, _) in appends.streams.items()
            if len(self._streams.get(stream, ())) != before
        ]
        if moved:
            raise Conflict(moved)
        stale = [s for s, version in read if len(self._streams.get(s, ())) != version]
        if stale:
            raise Conflict(stale)

    def _check_cursors(self, moves: Sequence[CursorMove]) -> None:
        lost = [
            "/".join(map(str, _cursor(move)))
            for move in moves
            if self._cursors.get(_cursor(move), (move.epoch, 0)) != (move.epoch, move.before)
        ]
        if lost:
            raise Fenced("cursor", lost)

    def _check_timers(self, step: Step) -> None:
        seen: set[int] = set()
        lost: list[str] = []
        for fired in step.fired:
            held = self._timers.get((fired.stream, fired.name))
            if held is None or held.token != fired.token or fired.token in seen:
                lost.append(f"{fired.stream}/{fired.name}")
            seen.add(fired.token)
        if lost:
            raise Fenced("timer", lost)

    def _names_after(self, step: Step) -> dict[str, str]:
        if not step.reserved and not step.released:
            return self._names
        names = dict(self._names)
        for name, stream in step.released:
            if names.get(name) == stream:
                del names[name]
        for name, stream in sorted(step.reserved):
            holder = names.setdefault(name, stream)
            if holder != stream:
                raise NameTaken(name, holder)
        return names

    def _check_parked(self, step: Step) -> None:
        keys = [_message(parked) for parked in step.unparked]
        if not self._parked.keys() >= set(keys) or len(set(keys)) != len(keys):
            raise Fenced("parked message", ["/".join(map(str, key)) for key in keys])

    # What the step changes.

    def _apply_work(self, step: Step, appends: Appends) -> None:
        if not (step.effects or step.settled or step.cancelled_effects or step.released_seats):
            return
        if self._work is None:
            raise InvariantBroken(f"the store of {self._service} was given no work queue")
        self._work.apply_work(
            self._service,
            effects=step.effects,
            stream_versions=stream_versions(appends),
            settled=step.settled,
            cancelled=step.cancelled_effects,
            released_seats=step.released_seats,
        )

    def _append(self, rows: Sequence[NewRow], appends: Appends) -> dict[Head, int]:
        for row in rows:
            log = self._log.setdefault((row.topic, row.partition), [])
            recorded = self._recorded(row, len(log) + 1)
            log.append(recorded)
            if row.version:
                self._streams.setdefault(row.stream, []).append(recorded)
        return {head: len(self._log[head]) for head in appends.heads}

    def _recorded(self, row: NewRow, seq: int) -> Recorded:
        return Recorded(
            source=self._service,
            epoch=self._epoch,
            topic=row.topic,
            partition=row.partition,
            seq=seq,
            stream=row.stream,
            version=row.version,
            type=row.type,
            schema_version=row.schema_version,
            data=row.data,
            meta=row.meta,
        )

    def _change_timers(self, step: Step, timers: Sequence[NewTimer]) -> None:
        for fired in step.fired:
            self._drop_timer((fired.stream, fired.name))
        for key in step.cancelled_timers:
            self._drop_timer(key)
        for timer in timers:
            key = (timer.stream, timer.name)
            self._drop_timer(key)
            self._token += 1
            self._timers[key] = _due_timer(timer, self._token)
            bisect.insort(self._due, (timer.due, self._token, key))

    def _drop_timer(self, key: tuple[str, str]) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            del self._due[bisect.bisect_left(self._due, (timer.due, timer.token, key))]

    def _keep_snapshots(self, snapshots: Iterable[Snapshot]) -> None:
        for new in snapshots_kept(snapshots):
            held = self._snapshots.get(new.stream)
            if held is None or new.version >= held.version or new.schema != held.schema:
                self._snapshots[new.stream] = new

    def _change_parked(self, step: Step) -> None:
        for parked in step.unparked:
            del self._parked[_message(parked)]
        for parked in step.parked:
            held = self._parked.get(_message(parked))
            asked = held.asked if held is not None else ""
            self._parked[_message(parked)] = replace(parked, asked=asked)

    # Reading.

    async def load(self, streams: Mapping[str, int]) -> Mapping[str, Loaded]:
        """As PostgreSQL's: version 0 uses the snapshot, below 0 asks for every event."""
        return {stream: self._load(stream, after) for stream, after in streams.items()}

    def _load(self, stream: str, after: int) -> Loaded:
        snapshot = self._snapshots.get(stream) if after == 0 else None
        begin = snapshot.version if snapshot is not None else max(after, 0)
        return Loaded(snapshot, tuple(self._streams.get(stream, ())[begin:]))

    async def heads(self, topics: Iterable[str]) -> Mapping[Head, int]:
        """The last seq per (topic, partition); one never written to is absent."""
        wanted = set(topics)
        return {head: len(rows) for head, rows in self._log.items() if head[0] in wanted}

    async def read(
        self, topic: str, after: Mapping[int, int], *, count_max: int
    ) -> Sequence[Recorded]:
        """At most `count_max` rows past `after`: partitions in the order of `after`."""
        found: list[Recorded] = []
        for partition, seq in after.items():
            rows = self._log.get((topic, partition))
            if rows is not None and len(rows) > seq:
                found.extend(rows[seq : seq + count_max - len(found)])
        return tuple(found)

    async def cursors(self) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        return dict(self._cursors)

    async def due_timers(self, partitions: Sequence[int], *, count_max: int) -> Sequence[DueTimer]:
        """The earliest timers due by the clock, ordered by due."""
        wanted, now = set(partitions), self._clock.now()
        found: list[DueTimer] = []
        for due, _, key in self._due:
            if due > now or len(found) >= count_max:
                break
            if self._timers[key].partition in wanted:
                found.append(self._timers[key])
        return tuple(found)

    async def next_timer_in_s(self, partitions: Sequence[int]) -> float | None:
        """Seconds until the next timer by the clock, 0 if one is due."""
        wanted = set(partitions)
        for due, _, key in self._due:
            if self._timers[key].partition in wanted:
                return max(0.0, (due - self._clock.now()).total_seconds())
        return None

    async def parked(self) -> Sequence[Parked]:
        return tuple(self._parked[key] for key in sorted(self._parked))

    async def ask_parked(self, parked: Sequence[Parked], *, asked: Asked) -> int:
        found = [key for each in parked if (key := _message(each)) in self._parked]
        self._parked |= {key: replace(self._parked[key], asked=asked) for key in found}
        return len(found)

    async def put_blob(self, content: bytes) -> str:
        check_blob(content)
        sha256 = hashlib.sha256(content).hexdigest()
        self._blobs[sha256] = bytes(content)
        return sha256

    async def get_blob(self, sha256: str) -> bytes | None:
        return self._blobs.get(sha256)

    # How far the log was published.

    async def published(self) -> Mapping[Head, int]:
        return dict(self._published)

    async def mark_published(self, moves: Mapping[Head, tuple[int, int]]) -> None:
        for head, (before, _) in sorted(moves.items()):
            if self._published.get(head, 0) != before:
                raise Fenced("mark", [f"{head[0]}/{head[1]}"])
        self._published |= {head: after for head, (_, after) in moves.items()}

    async def publish_again(self, topic: str, partition: int, seq: int) -> None:
        head = (topic, partition)
        if self._published.get(head, 0) >= seq:
            self._published[head] = seq - 1

    # Who works on which partition.

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        now = self._clock.now()
        until = now + dt.timedelta(seconds=lease_s)
        self._copies = {copy: end for copy, end in self._copies.items() if end > now}
        self._copies[copy_id] = until
        self._leases = {p: lease for p, lease in self._leases.items() if lease[1] > now}
        live = sorted(self._copies)
        target = PARTITIONS // len(live) + (live.index(copy_id) < PARTITIONS % len(live))
        mine = sorted(p for p, (copy, _) in self._leases.items() if copy == copy_id)
        for partition in mine[target:]:
            del self._leases[partition]
        free = [p for p in range(PARTITIONS) if p not in self._leases]
        held = mine[:target] + free[: max(0, target - len(mine))]
        for partition in held:
            self._leases[partition] = (copy_id, until)
        return frozenset(held)

    async def leave(self, *, copy_id: str) -> None:
        self._copies.pop(copy_id, None)
        self._leases = {p: lease for p, lease in self._leases.items() if lease[0] != copy_id}


def _cursor(move: CursorMove) -> tuple[str, str, int]:
    return move.source, move.topic, move.partition


def _due_timer(timer: NewTimer, token: int) -> DueTimer:
    return DueTimer(**asdict(timer), token=token)


def _message(parked: Parked) -> tuple[str, str, int, int]:
    return parked.source, parked.topic, parked.partition, parked.seq
