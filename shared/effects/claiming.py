"""One claim inside its transaction: open, read heads, choose, write; and what is remembered.

The order is decided in `select.py`, the writing in sql/0003_pre_claim.sql.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from shared.codec import decode_meta
from shared.effects.port import Claimed, ClaimResult, Lease
from shared.effects.select import (
    DEPTH_MAX,
    NOTHING,
    RESERVE_S,
    Group,
    Head,
    Heads,
    Lane,
    Patience,
    Reading,
    Selection,
    choose_lanes,
    groups_of,
    select,
)
from shared.errors import InvariantBroken
from shared.eventlog.port import Fenced

_DEEPER_MAX: Final = 3
_DEPTH_MIN: Final = 2
_PROBE_EVERY_S: Final = 0.1
_NEXT_MIN_S: Final = 0.01

_OPEN: Final = "select * from work_claim_open($1, $2, $3)"
LANES: Final = "select * from work_lanes($1)"
_HEADS: Final = "select * from work_claim_heads($1, $2, $3, $4, $5, $6, $7, $8)"
_WRITE: Final = (
    "select * from work_claim_write"
    "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
)


class Moved(Exception):
    """Effects changed between reading and writing: these ids are locked by a step."""

    def __init__(self, effect_ids: Collection[str]) -> None:
        self.effect_ids = tuple(effect_ids)


class _View(msgspec.Struct):
    """What one claim has read: its lanes' heads and who sits where."""

    heads: Sequence[Heads]
    held: Mapping[str, frozenset[int]]
    turns: Mapping[Group, int]


class Memory:
    """What one process remembers between claims: lanes, patience, how deep it had to read."""

    def __init__(self, quick_return_kinds: Collection[str]) -> None:
        self._quick = frozenset(quick_return_kinds)
        self._lanes: dict[int, Lane] = {}
        self._patience = Patience()
        self._deeper = 1
        self._probed_at = 0.0
        self._waiting: dict[int, Heads] = {}

    @property
    def lanes(self) -> Mapping[int, Lane]:
        return self._lanes

    def learn(self, rows: Sequence[asyncpg.Record]) -> None:
        """Remember lanes: what they say of themselves never changes."""
        for row in rows:
            budgets = row["budgets"] or ()
            self._lanes[row["lane_id"]] = Lane(
                lane_id=row["lane_id"],
                service=row["service"],
                kind=row["kind"],
                work_class=row["work_class"],
                priority=row["priority"],
                plan=row["plan"],
                interval_s=row["interval_s"],
                budgets=tuple(budgets),
                seats=frozenset(
                    budget
                    for budget, mode in zip(budgets, row["modes"] or (), strict=True)
                    if mode == "seat"
                ),
            )

    def claimed(self, row: asyncpg.Record, lease: Lease) -> Claimed:
        return Claimed(
            effect_id=row["effect_id"],
            stream=row["stream"],
            partition=row["partition"],
            kind=self._lanes[row["lane_id"]].kind,
            type=row["type"],
            schema_version=row["schema_version"],
            data=row["data"],
            meta=decode_meta(row["meta"]),
            attempt=row["attempt"],
            lease_no=lease.number,
            stream_version=row["stream_version"],
            cancelled=row["cancelled"],
            claim_no=row["claim_no"],
        )

    def is_quick(self, kind: str) -> bool:
        return kind in self._quick

    def note(self, selection: Selection) -> list[int]:
        return self._patience.note(selection)

    def to_probe(
        self, blocked: Sequence[Lane], reserved: Collection[int], now: float
    ) -> list[Lane]:
        """Which blocked lanes to look into: all at most every 100 ms, because 300 of them cost a
        millisecond; between, only those that hold a reservation."""
        if abs(now - self._probed_at) >= _PROBE_EVERY_S:
            self._probed_at = now
            self._waiting = {}
            return list(blocked)
        return [lane for lane in blocked if lane.lane_id in reserved]

    def waiting(self, blocked: Sequence[Lane], read: Mapping[int, Heads]) -> list[Heads]:
        """The heads of blocked lanes: those read now, else as they were at the last look."""
        self._waiting.update(read)
        known = self._waiting
        return [known[lane.lane_id] for lane in blocked if lane.lane_id in known]

    def depth(self, reading_count: int, count_max: int) -> int:
        """How deep to read each lane: enough for an uneven spread, seldom too little."""
        mean = count_max / max(reading_count, 1)
        spread = math.ceil(mean + 2.5 * math.sqrt(mean))
        return min(max(spread, _DEPTH_MIN) * self._deeper, DEPTH_MAX)

    def deepen(self, *, enough: bool) -> None:
        self._deeper = max(1, self._deeper - 1) if enough else min(self._deeper * 2, 64)


class Claim:
    """One claim of a worker; `open` and `run` in one transaction, again after `Moved`."""

    def __init__(self, memory: Memory, lease: Lease, kinds: list[str], count_max: int) -> None:
        self._memory = memory
        self._lease = lease
        self._kinds = kinds
        self._count_max = count_max
        self._skip: tuple[str, ...] = ()

    def skip(self, effect_ids: Collection[str]) -> None:
        """Do not try these again: a step has them locked."""
        self._skip += tuple(effect_ids)

    async def open(self, connection: PoolConnectionProxy) -> asyncpg.Record:
        """Take the claim lock and see how everything stands. Raises Fenced."""
        opened = await _row(connection, _OPEN, self._lease.number, self._kinds, self._count_max)
        if opened["o_service"] is None:
            raise Fenced("lease", [self._lease.worker])
        return opened

    async def run(self, connection: PoolConnectionProxy, opened: asyncpg.Record) -> ClaimResult:
        lanes = await self._lanes_of(connection, opened)
        reserved = frozenset(opened["o_reserved"] or ())
        cancelled = [id_ for id_ in opened["o_cancelled"] or () if id_ not in self._skip]
        count_max = self._count_max - len(cancelled)
        selection = await self._select(connection, opened, lanes, reserved, count_max)
        reserve = self._memory.note(selection)
        effects: tuple[Claimed, ...] = ()
        if cancelled or selection.granted or reserve:
            rows = await connection.fetch(
                _WRITE, *self._writing(opened["o_now"], selection, cancelled, reserve, reserved)
            )
            effects = self._granted(rows, cancelled, [id_ for id_, _ in selection.granted])
        waits = [opened["o_next_s"], RESERVE_S if reserved or reserve else None]
        next_in_s = min((wait for wait in waits if wait is not None), default=None)
        return ClaimResult(
            effects=effects,
            next_in_s=None if next_in_s is None else max(next_in_s, _NEXT_MIN_S),
            more=bool(effects) and (selection.cut or bool(selection.seats)),
        )

    async def _lanes_of(
        self, connection: PoolConnectionProxy, opened: asyncpg.Record
    ) -> list[Lane]:
        known = self._memory.lanes
        active = opened["o_lanes"] or ()
        missing = [lane_id for lane_id in active if lane_id not in known]
        if missing:
            self._memory.learn(await connection.fetch(LANES, missing))
        return [known[lane_id] for lane_id in active]

    async def _select(
        self,
        connection: PoolConnectionProxy,
        opened: asyncpg.Record,
        lanes: list[Lane],
        reserved: frozenset[int],
        count_max: int,
    ) -> Selection:
        """Read and choose; read deeper when the order ended for want of reading."""
        now, service = opened["o_now"], opened["o_service"]
        rooms = dict(_pairs(opened["o_budgets"], opened["o_rooms"]))
        reading = choose_lanes(
            lanes, rooms, service=service, kinds=self._kinds,
            shadows=frozenset(_pairs(opened["o_shadow_services"], opened["o_shadow_kinds"])),
        )  # fmt: skip
        if not reading.lanes and not reading.seat_lanes:
            return NOTHING
        probed = self._memory.to_probe(reading.blocked, reserved, now)
        depth = self._memory.depth(len(reading.lanes), count_max)
        groups = groups_of(reading)
        selection = NOTHING
        for _ in range(_DEEPER_MAX):
            depths = {lane.lane_id: min(depth, most) for lane, most in reading.lanes}
            depths |= {lane.lane_id: 1 for lane in probed}
            view = await self._read(connection, reading, service, depths, groups)
            selection = select(
                view.heads, rooms, held=view.held, turns=view.turns, reserved=reserved,
                now=now, count_max=count_max,
            )  # fmt: skip
            enough = not selection.cut or 2 * len(selection.granted) >= count_max
            self._memory.deepen(enough=enough)
            if enough or depth == DEPTH_MAX:
                break
            depth = min(depth * 4, DEPTH_MAX)
        return selection

    async def _read(
        self,
        connection: PoolConnectionProxy,
        reading: Reading,
        service: str,
        depths: dict[int, int],
        groups: list[Group],
    ) -> _View:
        seated = bool(reading.seat_lanes) or any(lane.seats for lane, _ in reading.lanes)
        row = await _row(
            connection, _HEADS,
            list(depths), list(depths.values()),
            [lane.lane_id for lane in reading.seat_lanes], seated, self._skip,
            *([group[column] for group in groups] for column in range(3)),
        )  # fmt: skip
        heads = _grouped(row["o_lanes"], row["o_dues"], row["o_ids"], row["o_streams"])
        sitting = _grouped(
            row["o_seat_lanes"], row["o_seat_dues"], row["o_seat_ids"], row["o_seat_streams"]
        )
        found = {
            lane_id: self._heads(lane_id, service, items, len(items) < depths[lane_id])
            for lane_id, items in heads.items()
        }
        blocked = {lane.lane_id for lane in reading.blocked}
        waiting = {lane_id: found.pop(lane_id) for lane_id in blocked & found.keys()}
        held: dict[str, frozenset[int]] = {}
        for budget, stream in _pairs(row["o_held_budgets"], row["o_held_streams"]):
            held[stream] = held.get(stream, frozenset()) | {budget}
        return _View(
            [
                *found.values(),
                *(self._heads(id_, service, items, True) for id_, items in sitting.items()),
                *self._memory.waiting(reading.blocked, waiting),
            ],
            held,
            dict(_pairs(groups, row["o_turns"])),
        )

    def _heads(self, lane_id: int, service: str, items: list[Head], whole: bool) -> Heads:
        lane = self._memory.lanes[lane_id]
        return Heads(lane, lane.service == service and lane.kind in self._kinds, items, whole)

    def _writing(
        self,
        now: float,
        selection: Selection,
        cancelled: list[str],
        reserve: list[int],
        reserved: frozenset[int],
    ) -> tuple[Any, ...]:
        """The arguments of `work_claim_write`; null for what there is none of."""
        turns = list(selection.turns)
        granted = [lane for _, lane in selection.granted]
        return (
            self._lease.number, now,
            [*cancelled, *(effect_id for effect_id, _ in selection.granted)],
            [lane.lane_id for lane in granted if self._memory.is_quick(lane.kind)],
            list(selection.units) or None, list(selection.units.values()) or None,
            [budget for budget, _ in selection.seats] or None,
            [stream for _, stream in selection.seats] or None,
            *([group[column] for group in turns] or None for column in range(3)),
            list(selection.turns.values()) or None,
            reserve or None, RESERVE_S,
            sorted(reserved & {lane.lane_id for lane in granted}) or None,
        )  # fmt: skip

    def _granted(
        self, rows: list[asyncpg.Record], cancelled: list[str], granted: list[str]
    ) -> tuple[Claimed, ...]:
        """The claimed effects in the order of the grant. Raises Moved unless all are there; one
        that was cancelled meanwhile has spent budgets it does not hold."""
        by_id = {row["effect_id"]: row for row in rows}
        moved = [id_ for id_ in cancelled if id_ not in by_id]
        moved += [id_ for id_ in granted if id_ not in by_id or by_id[id_]["cancelled"]]
        if moved:
            raise Moved(moved)
        return tuple(
            self._memory.claimed(by_id[effect_id], self._lease)
            for effect_id in (*cancelled, *granted)
        )


async def _row(connection: PoolConnectionProxy, statement: str, *args: object) -> asyncpg.Record:
    row = await connection.fetchrow(statement, *args)
    if row is None:
        raise InvariantBroken(f"no row from {statement!r}")
    return row


def _pairs(left: Sequence[Any] | None, right: Sequence[Any] | None) -> list[tuple[Any, Any]]:
    """Two columns as rows; an empty aggregate is null."""
    return list(zip(left or (), right or (), strict=True))


def _grouped(
    lanes: Sequence[int] | None,
    dues: Sequence[float],
    ids: Sequence[str],
    streams: Sequence[str | None],
) -> dict[int, list[Head]]:
    grouped: dict[int, list[Head]] = {}
    if lanes is not None:
        for lane, due, effect_id, stream in zip(lanes, dues, ids, streams, strict=True):
            grouped.setdefault(lane, []).append(Head(due, effect_id, stream or ""))
    return grouped
