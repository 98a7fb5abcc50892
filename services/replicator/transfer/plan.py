"""Turns a page of extents into the steps of a transfer: pieces of chunks, and holes.

Pure and lazy: a page of 65,536 extents costs one step at a time. Decides what is read and what
becomes a hole; does not decide whether content is equal or zero, which only reading shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec

from services.replicator.transfer.errors import BadExtents
from services.replicator.transfer.records import TransferSettings
from shared.platforms.ports import Extent, Extents, Generation


class Step(msgspec.Struct, frozen=True, gc=False):
    """One piece of work: a range inside one chunk, or a hole of any length."""

    offset: int
    length: int
    hole: bool

    @property
    def end(self) -> int:
        return self.offset + self.length


class Unlisted(Enum):
    """What a range that no extent names, or that an extent calls a hole, must become."""

    SAME = "same"
    """Unlisted ranges are unchanged; holes that are listed are punched."""
    ZERO = "zero"
    """All that is not data must be zero, and may not be so yet."""
    BLANK = "blank"
    """All that is not data must be zero and already is."""


class Approach(msgspec.Struct, frozen=True, kw_only=True):
    """How a page is treated: what its gaps mean, and whether equal content is looked for."""

    unlisted: Unlisted
    compare: bool
    reason: str = ""


def approach(page: Extents, *, since: str | None, generation: Generation) -> Approach:
    """Decide how to treat `page`, which was asked for with `since`."""
    if generation.blank:
        return Approach(unlisted=Unlisted.BLANK, compare=False)
    if since is not None and page.complete:
        return Approach(unlisted=Unlisted.SAME, compare=False)
    reason = page.reason or "everything is looked at: there is no mark to start from"
    return Approach(unlisted=Unlisted.ZERO, compare=True, reason=reason)


def data_bytes(page: Extents, *, start: int = 0) -> int:
    """Bytes of `page` at or after `start` that a transfer has to look at."""
    return sum(
        max(0, extent.length - max(0, start - extent.offset))
        for extent in page.extents
        if not extent.hole
    )


def steps(
    page: Extents, *, start: int, end: int, unlisted: Unlisted, settings: TransferSettings
) -> Iterator[Step]:
    """Steps that make `[start, end)` of the target like the source, in offset order.

    They never overlap. Data steps stay inside one aligned chunk. Extents are clipped to the
    range, and gaps up to `merge_gap_bytes` are read with their neighbours.
    Raises BadExtents when extents overlap, go backwards, are empty or leave the disk.
    """
    for run in _runs(page, start=start, end=end, unlisted=unlisted, gap=settings.merge_gap_bytes):
        size = settings.zero_bytes_max if run.hole else settings.chunk_bytes
        offset, run_end = run.offset, run.offset + run.length
        while offset < run_end:
            upto = min(run_end, (offset // size + 1) * size)
            yield Step(offset, upto - offset, run.hole)
            offset = upto


def _runs(
    page: Extents, *, start: int, end: int, unlisted: Unlisted, gap: int
) -> Iterator[Extent]:
    """Merge extents into runs of data and of holes to be made, in order."""
    covered = start
    run_start = run_end = start
    for extent in _clipped(page, start=start, end=end):
        if extent.hole:
            if unlisted is Unlisted.SAME:
                if run_end > run_start:
                    yield Extent(run_start, run_end - run_start)
                run_start = run_end = extent.offset + extent.length
                yield extent
            continue
        if run_end > run_start and extent.offset - run_end <= gap:
            run_end = extent.offset + extent.length
            continue
        if run_end > run_start:
            yield Extent(run_start, run_end - run_start)
            covered = run_end
        if unlisted is Unlisted.ZERO and extent.offset > covered:
            yield Extent(covered, extent.offset - covered, True)
        run_start, run_end = extent.offset, extent.offset + extent.length
    if run_end > run_start:
        yield Extent(run_start, run_end - run_start)
        covered = run_end
    if unlisted is Unlisted.ZERO and end > covered:
        yield Extent(covered, end - covered, True)


def _clipped(page: Extents, *, start: int, end: int) -> Iterator[Extent]:
    """The page's extents inside `[start, end)`, checked."""
    previous_end = 0
    for extent in page.extents:
        extent_end = extent.offset + extent.length
        if extent.length <= 0 or extent.offset < previous_end or extent_end > end:
            raise BadExtents(
                f"extent {extent.offset}+{extent.length} follows {previous_end} in a list up to "
                f"{end}",
                remedy="Reset the VM's copy; if it comes back, the platform's list is wrong.",
            )
        previous_end = extent_end
        if extent_end <= start:
            continue
        if extent.offset >= start:
            yield extent
        else:
            yield Extent(start, extent_end - start, extent.hole)
