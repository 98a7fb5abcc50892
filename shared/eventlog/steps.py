"""What a step asks of the log, counted and checked the same way for every store.

Pure. Owns: which heads advance by how much, which stream moves from which version to which, and
which of several settings of one timer counts. Whether the store is where the step expects it
to be is the store's to find out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from schemas.ids import PARTITIONS
from shared.errors import InvariantBroken, Refused
from shared.eventlog.port import CursorMove, NewRow, NewTimer, Parked, Snapshot, Step

BLOB_BYTES_MAX: Final = 16 * 1024 * 1024

Head = tuple[str, int]


class Appends(msgspec.Struct, frozen=True):
    """The rows of a step. `heads` is sorted and gives each head's number of rows.

    `places[i]` is the place of row i among its head's rows, from 1. `streams` gives for each
    stream, sorted, the version it must stand at and the one it gets.
    """

    heads: Mapping[Head, int]
    places: Sequence[int]
    streams: Mapping[str, tuple[int, int]]


def count_rows(rows: Sequence[NewRow]) -> Appends:
    """Count the rows of a step. Raises InvariantBroken if a stream's versions do not follow on."""
    counts: dict[Head, int] = {}
    streams: dict[str, tuple[int, int]] = {}
    places: list[int] = []
    for row in rows:
        head = (row.topic, row.partition)
        place = counts[head] = counts.get(head, 0) + 1
        places.append(place)
        if row.version:
            before, after = streams.get(row.stream) or (row.version - 1, row.version - 1)
            if row.version != after + 1:
                raise InvariantBroken(
                    f"{row.stream}: version {row.version} of {row.type} does not follow {after}"
                )
            streams[row.stream] = (before, row.version)
    for topic, partition in counts:
        check_partition(topic, partition)
    return Appends(dict(sorted(counts.items())), places, dict(sorted(streams.items())))


def check_partition(topic: str, partition: int) -> None:
    """Raises InvariantBroken for a partition that no reader would ever ask for."""
    if not 0 <= partition < PARTITIONS:
        raise InvariantBroken(f"{topic} has no partition {partition}")


def timers_set(step: Step) -> list[NewTimer]:
    """The timers that are set after the step, sorted by (stream, name): the last setting counts.

    A name both set and cancelled in one step is set: a timer too many is ignored by its decider,
    one too few is a job that hangs.
    """
    last = {(timer.stream, timer.name): timer for timer in step.timers}
    return [last[key] for key in sorted(last)]


def snapshots_kept(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """One snapshot per stream, sorted: the last given."""
    last = {snapshot.stream: snapshot for snapshot in snapshots}
    return [last[stream] for stream in sorted(last)]


def parked_rows(parked: Iterable[Parked]) -> list[Parked]:
    """One entry per message set aside, sorted: the last given."""
    last = {(p.source, p.topic, p.partition, p.seq): p for p in parked}
    return [last[key] for key in sorted(last)]


def moves_of(step: Step) -> list[CursorMove]:
    """The moves, sorted. Raises InvariantBroken for two moves of one cursor, or backwards."""
    moves = {(move.source, move.topic, move.partition): move for move in step.cursors}
    if len(moves) != len(step.cursors):
        raise InvariantBroken("a step moves one cursor twice")
    if any(move.after <= move.before for move in step.cursors):
        raise InvariantBroken("a step moves a cursor backwards")
    return [moves[key] for key in sorted(moves)]


def stream_versions(appends: Appends) -> dict[str, int]:
    """The version that each stream has after the step."""
    return {stream: after for stream, (_, after) in appends.streams.items()}


def is_single_row(step: Step) -> bool:
    """Whether the step appends one row and does nothing else."""
    return len(step.rows) == 1 and not (
        step.cursors or step.effects or step.settled or step.fired or step.timers
        or step.snapshots or step.cancelled_timers or step.cancelled_effects
        or step.released_seats or step.reserved or step.released or step.parked or step.unparked
        or step.read
    )  # fmt: skip


def check_blob(content: bytes) -> None:
    """Raises Refused for a blob that is too large to keep."""
    if len(content) > BLOB_BYTES_MAX:
        raise Refused(
            f"a blob of {len(content)} bytes is over the limit of {BLOB_BYTES_MAX}",
            code="blob-too-large",
        )
