"""Copies one disk of an open snapshot into a staged generation: the replicator's data path.

Owns the order of a transfer: adopt and check what an interrupted one left, then page by page of
extents through the lanes, marks on the way, flush at the end. Does not open or close snapshots,
does not open, finalize or discard generations, and does not retry: its caller does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count, takewhile
from typing import Final

import msgspec

from services.replicator.transfer.brake import Brake
from services.replicator.transfer.calls import SiteCalls
from services.replicator.transfer.errors import BadExtents, SizeDiffers
from services.replicator.transfer.frontier import Frontier
from services.replicator.transfer.lanes import Lanes, Work
from services.replicator.transfer.marker import Marker
from services.replicator.transfer.pace import Pace
from services.replicator.transfer.pieces import Offload, Pieces, on_a_thread
from services.replicator.transfer.plan import approach, data_bytes, steps
from services.replicator.transfer.records import (
    Mark,
    Progress,
    TransferRequest,
    TransferResult,
    TransferSettings,
)
from services.replicator.transfer.tally import Tally
from services.replicator.transfer.window import Window
from shared.platforms.ports import Call, Extents, Source, Target

DEFAULT_SETTINGS: Final = TransferSettings()
# Adopting copies inside the target: its time-out grows with the range, by the slowest disk that
# still makes sense.
_ADOPT_BYTES_PER_S_MIN: Final = 20_000_000


async def copy_disk(
    source: Source,
    target: Target,
    *,
    request: TransferRequest,
    progress: Callable[[Progress], None],
    checkpoint_mark: Callable[[Mark], Awaitable[None]],
    source_pace: Pace | None = None,
    target_pace: Pace | None = None,
    settings: TransferSettings = DEFAULT_SETTINGS,
    offload: Offload = on_a_thread,
) -> TransferResult:
    """Make the generation's content that of the snapshot's disk, verified and flushed.

    `progress` is called at most every `progress_interval_s` and once at the end.
    `checkpoint_mark` stores a resume position every `mark_bytes`; the transfer goes on meanwhile,
    and goes on when it fails with Transient (counted as `marks_missed`). One pace per site is
    shared by all its disks. At most `window_bytes_max` of buffers are in use.

    When cancelled, ends within `stop_wait_s` unless a platform call does not return; no write
    is begun afterwards. Raises what the platform raised, but waits out throttling up to
    `throttle_wait_s_max` per call; VerifyFailed, BadExtents and SizeDiffers are its own.
    After an error the generation is incomplete: discard it, or keep it while its mark may serve.
    """
    brake, (window, crew) = Brake(), _windows(settings)

    def calls(pace: Pace | None, call: Call) -> SiteCalls:
        return SiteCalls(
            call=call,
            scope=request.generation.generation_id,
            pace=pace,
            windows=(window, crew),
            brake=brake,
            wait_s_max=settings.throttle_wait_s_max,
        )

    transfer = _Transfer(
        source=source,
        target=target,
        source_calls=calls(source_pace, request.source_call),
        target_calls=calls(target_pace, request.target_call),
        request=request,
        settings=settings,
        brake=brake,
        window=window,
        crew=crew,
        offload=offload,
        store_mark=checkpoint_mark,
        tally=Tally(
            disk=request.disk,
            bytes_total=request.generation.size,
            report=progress,
            interval_s=settings.progress_interval_s,
            now_s=asyncio.get_running_loop().time(),
        ),
    )
    return await transfer.run()


class _Transfer:
    """One call of `copy_disk`."""

    def __init__(
        self,
        *,
        source: Source,
        target: Target,
        source_calls: SiteCalls,
        target_calls: SiteCalls,
        request: TransferRequest,
        settings: TransferSettings,
        brake: Brake,
        window: Window,
        crew: Window,
        offload: Offload,
        store_mark: Callable[[Mark], Awaitable[None]],
        tally: Tally,
    ) -> None:
        self._source, self._target = source, target
        self._source_calls, self._target_calls = source_calls, target_calls
        self._request, self._settings = request, settings
        self._brake, self._window, self._crew = brake, window, crew
        self._offload, self._tally = offload, tally
        self._size = _agreed_size(request)
        self._since, self._reason = _usable_since(request)
        self._compared = False
        self._changes_known_s: float | None = None
        self._frontier = Frontier()
        # Flushes and pages may be asked for twice at one offset; their keys must still differ.
        self._number = count()
        self._clock = asyncio.get_running_loop().time
        self._marker = Marker(
            snapshot_id=request.snapshot.snapshot_id,
            generation_id=request.generation.generation_id,
            flush=self._flush,
            store=store_mark,
            every_bytes=settings.mark_bytes,
            store_timeout_s=settings.call_timeout_s,
            brake=brake,
        )

    async def run(self) -> TransferResult:
        began_s = self._clock()
        start = await self._adopted()
        await self._walk(start, self._size, checking=False)
        await self._flush()
        self._tally.bytes_total = self._tally.bytes_done
        self._tally.tell(self._clock(), last=True)
        return self._result(began_s=began_s)

    async def _adopted(self) -> int:
        """Adopt what the request's mark stands for; return where the transfer has to begin."""
        mark, generation = self._request.resume, self._request.generation
        if mark is None or mark.snapshot_id != self._request.snapshot.snapshot_id:
            return 0
        adopted = await self._target_calls.ask(
            "adopt",
            f"a{mark.offset}",
            lambda call: self._target.adopt(
                call, generation=generation, earlier_id=mark.generation_id, below=mark.offset
            ),
            timeout_s=self._settings.flush_timeout_s + mark.offset / _ADOPT_BYTES_PER_S_MIN,
        )
        if not adopted:
            self._distrust("the interrupted transfer's generation could not be taken over")
            return 0
        await self._walk(0, mark.offset, checking=True)
        if self._frontier.chain.hex() == mark.chain:
            return mark.offset
        self._distrust("what was taken over differs from its intermediate mark")
        return 0

    def _distrust(self, reason: str) -> None:
        """Nothing is promised about the generation's content any more: compare all of it."""
        self._since = None
        self._reason = reason
        generation = msgspec.structs.replace(self._request.generation, blank=False)
        self._request = msgspec.structs.replace(self._request, generation=generation)
        self._frontier = Frontier()
        self._tally.bytes_adopted = 0

    async def _walk(self, start: int, stop: int, *, checking: bool) -> None:
        """Take the steps that begin in `[start, stop)`, one page of extents after the other."""
        at = start
        while at < stop:
            page = await self._page(at)
            page_end = self._size if page.next_offset is None else page.next_offset
            if page_end == self._size:
                self._changes_known_s = self._clock()
            if not at < page_end <= self._size:
                raise BadExtents(
                    f"a page of extents from {at} ends at {page_end} of {self._size}",
                    remedy="The platform's list is wrong; reset the VM's copy to go round it.",
                )
            self._tally.bytes_total = (
                self._tally.bytes_done + data_bytes(page, start=at) + self._size - page_end
            )
            await self._through_lanes(page, at, page_end, stop=stop, checking=checking)
            at = page_end

    async def _through_lanes(
        self, page: Extents, start: int, end: int, *, stop: int, checking: bool
    ) -> None:
        how = approach(page, since=self._since, generation=self._request.generation)
        if how.compare and not self._compared:
            self._compared = True
            self._reason = self._reason or how.reason
        lanes = Lanes(
            window=self._window,
            crew=self._crew,
            frontier=self._frontier,
            brake=self._brake,
            buffer_bytes=min(self._settings.chunk_bytes, self._size),
            work=self._work(checking=checking, compare=how.compare),
            passed=self._passed if not checking else self._checked,
        )
        todo = steps(page, start=start, end=end, unlisted=how.unlisted, settings=self._settings)
        await lanes.run(
            takewhile(lambda step: step.offset < stop, todo),
            stop_wait_s=self._settings.stop_wait_s,
        )

    def _work(self, *, checking: bool, compare: bool) -> Work:
        pieces = Pieces(
            request=self._request,
            source=self._source,
            target=self._target,
            source_calls=self._source_calls,
            target_calls=self._target_calls,
            timeout_s=self._settings.call_timeout_s,
            windows=(self._window, self._crew),
            tally=self._tally,
            offload=self._offload,
        )
        if checking:
            return pieces.check
        return pieces.compare if compare else pieces.copy

    def _checked(self, _group: asyncio.TaskGroup) -> None:
        self._tally.tell(self._clock())

    def _passed(self, group: asyncio.TaskGroup) -> None:
        self._tally.tell(self._clock())
        self._marker.passed(group, self._frontier, bytes_done=self._tally.bytes_read)

    async def _page(self, start: int) -> Extents:
        return await self._source_calls.ask(
            "extents",
            f"e{next(self._number)}",
            lambda call: self._source.extents(
                call,
                snapshot=self._request.snapshot,
                disk=self._request.disk,
                since=self._since,
                start=start,
            ),
            timeout_s=self._settings.call_timeout_s,
        )

    async def _flush(self) -> None:
        await self._target_calls.ask(
            "flush",
            f"f{next(self._number)}",
            lambda call: self._target.flush(call, generation=self._request.generation),
            timeout_s=self._settings.flush_timeout_s,
        )

    def _result(self, *, began_s: float) -> TransferResult:
        tally, source_calls, target_calls = self._tally, self._source_calls, self._target_calls
        seconds = self._clock() - began_s
        known_s, verified_s = self._changes_known_s, tally.verified_from_s
        return TransferResult(
            disk=self._request.disk,
            generation_id=self._request.generation.generation_id,
            mark=self._marker.mark(offset=self._size, chain=self._frontier.chain),
            bytes_read=tally.bytes_read,
            bytes_written=tally.bytes_written,
            bytes_zero=tally.bytes_zero,
            bytes_same=tally.bytes_same,
            bytes_adopted=tally.bytes_adopted,
            marks=self._marker.stored,
            marks_missed=self._marker.missed,
            throttled=source_calls.throttled + target_calls.throttled,
            throttled_s=source_calls.throttled_s + target_calls.throttled_s,
            seconds=seconds,
            window_bytes=self._window.chunks * self._settings.chunk_bytes,
            crew=self._crew.chunks,
            compared=self._compared,
            reason=self._reason if self._compared else "",
            # A mark at the disk's end leaves no page to ask for.
            changes_known_s=0.0 if known_s is None else known_s - began_s,
            verified_from_s=None if verified_s is None else verified_s - began_s,
        )


def _agreed_size(request: TransferRequest) -> int:
    """Size of the disk in bytes, the same at both ends."""
    sizes = [disk.size for disk in request.snapshot.disks if disk.name == request.disk]
    if sizes != [request.generation.size]:
        raise SizeDiffers(
            f"disk {request.disk}: snapshot {sizes or 'without it'}, staged generation "
            f"{request.generation.size} bytes",
            remedy="The disk was resized or removed: start a resync of the VM.",
        )
    return request.generation.size


def _usable_since(request: TransferRequest) -> tuple[str | None, str]:
    """The mark to ask changes since, and why not the given one. None: look at everything."""
    since, generation = request.since, request.generation
    if since is None or generation.blank:
        return None, ""
    if generation.base_mark and generation.base_mark != since:
        return None, f"the copy stands at {generation.base_mark}, not at {since}"
    return since, ""


def _windows(settings: TransferSettings) -> tuple[Window, Window]:
    """Window and crew of a transfer, in chunks."""
    chunk_bytes = settings.chunk_bytes
    most = max(1, settings.window_bytes_max // chunk_bytes)
    window = Window(
        start=max(1, settings.window_bytes // chunk_bytes),
        least=max(1, settings.window_bytes_min // chunk_bytes),
        most=most,
    )
    return window, Window(
        start=min(settings.crew, most), least=min(settings.crew_min, most), most=most
    )
