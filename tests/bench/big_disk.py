"""Memory that a first copy of a large, scattered disk takes.

20 GiB logical with 3 GiB random data in 10,000 extents, copied by a process of its own. The value
is that process's peak (VmHWM) minus its resident memory before the copy, in MiB. A disk rebuilt
from the copy must have the source's SHA-256.

`python -m tests.bench.big_disk HOME NAME` is the process that copies.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from tests.bench.harness import REPETITIONS, Goal, Measurement, folder, say
from tests.integration.replicator import iteration

NAME = "big-disk"
UNIT = "MiB"
GOAL = Goal(most=96)

KIB = 1 << 10
MIB = 1 << 20
SIZE = 20 * 1024 * MIB
DATA_BYTES = 3 * 1024 * MIB
EXTENT_COUNT = 10_000
_BLOCK = 4096
_COPY_TIMEOUT_S = 120.0


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What the copying process says at its end."""

    rss_kib: int
    peak_kib: int
    bytes_read: int
    bytes_written: int
    seconds: float


async def run() -> Measurement:
    async with folder() as home:
        iteration.describe_vm(home)
        source = iteration.disk_path(home)
        await asyncio.to_thread(make_disk, source)
        copies = []
        for index in range(REPETITIONS):
            shutil.rmtree(home / "west", ignore_errors=True)
            copies.append(await _in_a_process(home, f"it-{time.monotonic_ns()}"))
            grown = (copies[-1].peak_kib - copies[-1].rss_kib) / KIB
            say(f"  {index + 1}/{REPETITIONS}: {grown:.1f} MiB, {copies[-1].seconds:.1f} s")
        equal, allocated = await _checked(home)
        exact = all(copied.bytes_read == copied.bytes_written == DATA_BYTES for copied in copies)
        return Measurement(
            values=tuple((copied.peak_kib - copied.rss_kib) / KIB for copied in copies),
            parts={
                "peak_mib": round(max(copied.peak_kib for copied in copies) / KIB, 1),
                "bytes_read": copies[-1].bytes_read,
                "bytes_written": copies[-1].bytes_written,
                "target_allocated": allocated,
                "seconds": [round(copied.seconds, 2) for copied in copies],
                "extents": EXTENT_COUNT,
                "hash_equal": equal,
            },
            sound=equal and exact,
        )


def make_disk(path: Path) -> None:
    """One extent at a random place of each of 10,000 equal slots, 3 GiB in all."""
    choose = random.Random(7)
    slot_blocks = SIZE // EXTENT_COUNT // _BLOCK
    lengths = _lengths(choose, total=DATA_BYTES // _BLOCK, most=slot_blocks // 2)
    pool = os.urandom(64 * MIB)
    with path.open("wb") as file:
        for slot, length in enumerate(lengths):
            at = choose.randrange(slot_blocks - length) + slot * slot_blocks
            start = choose.randrange(len(pool) - length * _BLOCK)
            piece = memoryview(pool)[start : start + length * _BLOCK]
            os.pwrite(file.fileno(), piece, at * _BLOCK)
        file.truncate(SIZE)
        os.fsync(file.fileno())


def _lengths(choose: random.Random, *, total: int, most: int) -> list[int]:
    """`EXTENT_COUNT` random lengths in blocks that add up to `total`."""
    mean = total // EXTENT_COUNT
    lengths = [choose.randrange(1, 2 * mean) for _ in range(EXTENT_COUNT)]
    missing = total - sum(lengths)
    while missing:
        index = choose.randrange(EXTENT_COUNT)
        step = 1 if missing > 0 else -1
        if 1 <= lengths[index] + step <= most:
            lengths[index] += step
            missing -= step
    return lengths


async def _in_a_process(home: Path, name: str) -> Copied:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(home), name, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_COPY_TIMEOUT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return msgspec.json.decode(said, type=Copied)


async def _checked(home: Path) -> tuple[bool, int]:
    """Whether a disk rebuilt from the copy equals the source, and what it takes on disk."""
    async with iteration.open_sites(home) as sites:
        path = await iteration.rebuilt(sites, home, "check")
        ours, theirs = await asyncio.gather(
            asyncio.to_thread(iteration.sha256, path),
            asyncio.to_thread(iteration.sha256, iteration.disk_path(home)),
        )
        return ours == theirs, path.stat().st_blocks * 512


async def _copy(home: Path, name: str) -> Copied:
    async with iteration.open_sites(home) as sites:
        rss_kib = _status_kib("VmRSS")
        result, seconds = await iteration.iterate(sites, name)
        return Copied(
            rss_kib=rss_kib,
            peak_kib=_status_kib("VmHWM"),
            bytes_read=result.bytes_read,
            bytes_written=result.bytes_written,
            seconds=seconds,
        )


def _status_kib(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    copied = uvloop.run(_copy(Path(sys.argv[1]), sys.argv[2]))
    sys.stdout.buffer.write(msgspec.json.encode(copied))
