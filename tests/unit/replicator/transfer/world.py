"""A source and a target in memory for the data path's tests, with faults that tests switch on.

They keep the promises that `shared/platforms/ports.py` writes down for the calls the data path
makes, and count those calls. Everything else of the ports is absent.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable

import async_solipsism
import xxhash

from services.replicator.transfer import Mark, Progress, TransferRequest, TransferSettings
from shared.errors import Permanent, SeawallError
from shared.platforms.ports import (
    Call,
    DigestName,
    DiskFacts,
    Extent,
    Extents,
    Generation,
    Snapshot,
)

KIB = 1024
CHUNK = 4 * KIB
SETTINGS = TransferSettings(
    chunk_bytes=CHUNK,
    window_bytes=8 * CHUNK,
    window_bytes_min=4 * CHUNK,
    window_bytes_max=16 * CHUNK,
    mark_bytes=10**12,
    merge_gap_bytes=512,
    zero_bytes_max=64 * CHUNK,
)
TAKEN_AT = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


class World:
    """One disk at a source, its generations at a target. Faults are keyed by call name."""

    def __init__(self, content: bytes, *, extents: list[Extent] | None = None) -> None:
        self.content = content
        self.listed = extents if extents is not None else [Extent(0, len(content))]
        self.complete = True
        self.reason = ""
        self.page_extents = 1_000_000
        self.generations: dict[str, bytearray] = {}
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []
        self.bytes_written = 0
        self.flushed: list[str] = []
        self.under_way = 0
        self.under_way_max = 0
        self.latency_s: dict[str, float] = {}
        self.fail: dict[str, Callable[[str], SeawallError | None]] = {}
        self.mangle: Callable[[int, bytes], bytes] = lambda _offset, data: data
        self.asked_since: list[str | None] = []

    def generation(
        self, name: str = "g1", *, base: bytes | None = None, base_mark: str = ""
    ) -> Generation:
        """Open a generation: blank, or with the content of an earlier copy."""
        size = len(self.content)
        self.generations[name] = bytearray(base if base is not None else bytes(size))
        return Generation(
            generation_id=name,
            plan="shop",
            vm="db",
            disk="sda",
            size=size,
            lease=1,
            base_mark=base_mark,
            blank=base is None,
        )

    def request(
        self, generation: Generation, *, since: str | None = None, resume: Mark | None = None
    ) -> TransferRequest:
        return TransferRequest(
            snapshot=Snapshot(
                snapshot_id="snap-1",
                vm="db",
                taken_at=TAKEN_AT,
                mark="m2",
                disks=(DiskFacts(name="sda", size=len(self.content)),),
            ),
            disk="sda",
            generation=generation,
            source_call=Call(key="it-1/transfer/sda"),
            target_call=Call(key="it-1/transfer/sda"),
            since=since,
            resume=resume,
        )

    async def _called(self, name: str, call: Call) -> None:
        self.calls[name] += 1
        self.keys.append(call.key)
        if (check := self.fail.get(name)) is not None and (error := check(call.key)) is not None:
            raise error
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await asyncio.sleep(self.latency_s.get(name, 0.0))
        finally:
            self.under_way -= 1

    # --- Source

    async def extents(
        self, call: Call, *, snapshot: Snapshot, disk: str, since: str | None, start: int = 0
    ) -> Extents:
        await self._called("extents", call)
        self.asked_since.append(since)
        rest = [extent for extent in self.listed if extent.offset + extent.length > start]
        page = rest[: self.page_extents]
        more = len(rest) > len(page)
        return Extents(
            extents=tuple(page),
            complete=self.complete,
            reason=self.reason,
            next_offset=page[-1].offset + page[-1].length if more else None,
        )

    async def read(
        self, call: Call, *, snapshot: Snapshot, disk: str, offset: int, into: memoryview
    ) -> None:
        await self._called("read", call)
        data = self.content[offset : offset + len(into)]
        if len(data) < len(into):
            raise Permanent("the disk file shrank", code="disk-shrank")
        into[:] = data

    # --- Target

    async def write(
        self, call: Call, *, generation: Generation, offset: int, data: memoryview
    ) -> bytes:
        await self._called("write", call)
        stored = self.mangle(offset, bytes(data))
        content = self.generations[generation.generation_id]
        content[offset : offset + len(stored)] = stored
        self.bytes_written += len(stored)
        return xxhash.xxh3_128_digest(content[offset : offset + len(data)])

    async def zero(self, call: Call, *, generation: Generation, offset: int, length: int) -> None:
        await self._called("zero", call)
        self.generations[generation.generation_id][offset : offset + length] = bytes(length)

    async def digest(
        self,
        call: Call,
        *,
        generation: Generation,
        offset: int,
        length: int,
        algorithm: DigestName,
    ) -> bytes:
        await self._called("digest", call)
        data = self.generations[generation.generation_id][offset : offset + length]
        if algorithm == "sha256":
            return hashlib.sha256(data).digest()
        return xxhash.xxh3_128_digest(data)

    async def flush(self, call: Call, *, generation: Generation) -> None:
        await self._called("flush", call)
        self.flushed.append(generation.generation_id)

    async def adopt(
        self, call: Call, *, generation: Generation, earlier_id: str, below: int
    ) -> bool:
        await self._called("adopt", call)
        earlier = self.generations.get(earlier_id)
        if earlier is None:
            return False
        self.generations[generation.generation_id][:below] = earlier[:below]
        return True


class Kept:
    """Collects progress and marks."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.marks: list[Mark] = []

    def tell(self, progress: Progress) -> None:
        self.progress.append(progress)

    async def keep(self, mark: Mark) -> None:
        self.marks.append(mark)


async def inline(digest: Callable[[memoryview], bytes], view: memoryview) -> bytes:
    """An offload without threads."""
    return digest(view)


def in_virtual_time(story: Callable[[], Awaitable[None]]) -> None:
    """Run `story` on a loop whose clock jumps to the next event."""

    async def told() -> None:
        await story()

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(told())
