"""A step as the arguments of `commit_step`: one array per column, null for a part that is empty.

Pure. What takes locks is sorted. The order here is the order of the function's parameters in
`sql/0002_pre_commit.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import astuple

from schemas.envelope import Meta
from schemas.registry import encode
from shared.codec import encode_meta, needs_key
from shared.eventlog.port import NewEffect, NewRow, NewTimer, Step
from shared.eventlog.steps import (
    Appends,
    moves_of,
    parked_rows,
    snapshots_kept,
    stream_versions,
    timers_set,
)

Columns = list[Any]


def commit_arguments(service: str, step: Step, appends: Appends) -> Columns:
    """The arguments of `commit_step` for a step whose rows have been counted."""
    arguments: Columns = [
        service,
        *_appends(step.rows, appends),
        *_table(step.read, 2),
        *_structs(moves_of(step), (0, 1, 2, 3, 4, 5)),
        *_table(sorted((t.stream, t.name, t.token) for t in step.fired), 3),
        *_table(sorted(step.cancelled_timers), 2),
        *_timers(timers_set(step)),
        *_table(sorted(step.released), 2),
        *_table(sorted(step.reserved), 2),
        *_structs(snapshots_kept(step.snapshots), (0, 1, 2, 3)),
        *_structs(step.unparked, (0, 1, 2, 3)),
        *_structs(parked_rows(step.parked), (0, 1, 2, 3, 4, 5, 6)),
    ]
    work = [
        *_effects(step.effects, stream_versions(appends)),
        *_settled(step),
        *_table(((effect_id,) for effect_id in step.cancelled_effects), 1),
        *_table(step.released_seats, 2),
    ]
    return [*arguments, any(column is not None for column in work), *work]


def _table(rows: Iterable[Sequence[Any]], width: int) -> Columns:
    """Rows turned into columns."""
    columns: Columns = list(zip(*rows, strict=True))
    return columns or [None] * width


def _structs(items: Sequence[Any], fields: Sequence[int]) -> Columns:
    """Structs turned into columns, by the places of the wanted fields."""
    columns = _table(map(astuple, items), max(fields) + 1)
    return [columns[field] for field in fields]


def _appends(rows: Sequence[NewRow], appends: Appends) -> Columns:
    if not rows:
        return [None] * 16
    begins: list[tuple[str, int]] = []
    moves: list[tuple[str, int, int]] = []
    for stream, (before, after) in appends.streams.items():
        if before:
            moves.append((stream, before, after))
        else:
            begins.append((stream, after))
    index = {head: place for place, head in enumerate(appends.heads, start=1)}
    topics, partitions, streams, versions, types, schemas, data, metas = zip(
        *map(astuple, rows), strict=True
    )
    heads = [index[head] for head in zip(topics, partitions, strict=True)]
    return [
        *_table(appends.heads, 2), list(appends.heads.values()),
        *_table(begins, 2), *_table(moves, 3),
        heads, appends.places, streams, versions, types, schemas, data, _metas(metas),
    ]  # fmt: skip


def _metas(metas: Iterable[Meta]) -> list[bytes]:
    """Rows of one decision share one Meta object: encode each object once."""
    encoded: dict[int, bytes] = {}
    documents: list[bytes] = []
    for meta in metas:
        document = encoded.get(id(meta))
        if document is None:
            document = encoded[id(meta)] = encode_meta(meta)
        documents.append(document)
    return documents


def _timers(timers: Sequence[NewTimer]) -> Columns:
    columns = _structs(timers, tuple(range(8)))
    if timers:
        columns[7] = _metas(columns[7])
    return columns


def _effects(effects: Sequence[NewEffect], versions: Mapping[str, int]) -> Columns:
    if not effects:
        return [None] * 16
    columns = _table(map(_effect_row(versions), effects), 15)
    columns.insert(7, _metas(new.meta for new in effects))
    return columns


def _effect_row(versions: Mapping[str, int]) -> Callable[[NewEffect], tuple[Any, ...]]:
    def row(new: NewEffect) -> tuple[Any, ...]:
        effect = new.effect
        name, schema_version, data = encode(effect.payload)
        return (
            f"{new.stream}/{effect.part}", new.stream, new.partition, effect.kind,
            name, schema_version, data, effect.work_class, effect.priority,
            effect.plan, effect.due, effect.not_before, effect.interval_s,
            needs_key(effect.needs), versions.get(new.stream, 0),
        )  # fmt: skip

    return row


def _settled(step: Step) -> Columns:
    """An attempt of -1 says `keep`."""
    return _table(
        (
            (s.effect_id, s.lease_no, s.requeue_at, -1 if s.keep else s.attempt)
            for s in step.settled
        ),
        4,
    )


def pushback_arguments(step: Step) -> Columns:
    """The arguments of `work_pushed_back`; none where no platform refused anything."""
    pushed_back = [
        (s.effect_id, s.pushback.busy, s.pushback.quota, s.pushback.retry_after_s)
        for s in step.settled
        if s.pushback is not None
    ]
    return _table(pushed_back, PUSHBACK_ARGUMENT_COUNT) if pushed_back else []


PUSHBACK_ARGUMENT_COUNT: Final = 4
COMMIT_ARGUMENT_COUNT: Final = len(
    commit_arguments("", Step(), Appends(heads={}, places=(), streams={}))
)
