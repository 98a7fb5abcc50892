"""Memory that a first copy of a large, scattered disk takes.

20 GiB logical with 3 GiB random data in 10,000 extents, copied by the replicator of a control
plane of six processes. The value is the replicator's peak (VmHWM) so far minus its resident
memory before the first copy, in MiB. A disk rebuilt from the last copy must have the source's
SHA-256.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench import copy
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


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """One copy, as the replicator's /proc entry and the iteration's job tell it."""

    rss_kib: int
    peak_kib: int
    bytes_read: int
    bytes_written: int
    seconds: float

    @property
    def grown_mib(self) -> float:
        """How much memory the copy took at its peak."""
        return (self.peak_kib - self.rss_kib) / KIB


async def run() -> Measurement:
    """Five first copies, one after the other, and the check of the last."""
    async with folder() as home:
        home.chmod(0o755)
        iteration.describe_vm(home)
        await asyncio.to_thread(make_disk, iteration.disk_path(home))
        copies = await asyncio.to_thread(_repeat, home)
        twin = await copy.last_twin(home)
        equal, allocated = await _checked(home, twin)
        exact = all(copied.bytes_read == copied.bytes_written == DATA_BYTES for copied in copies)
        return Measurement(
            values=tuple(copied.grown_mib for copied in copies),
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


def _repeat(home: Path) -> Sequence[Copied]:
    copies: list[Copied] = []
    with copy.running_plane(home) as (plane, client):
        status = Path("/proc") / str(plane.processes["replicator"].pid) / "status"
        # Once: what an earlier copy left behind in the process counts for every later one.
        rss_kib = _status_kib(status, "VmRSS")
        for index in range(REPETITIONS):
            shutil.rmtree(home / "target" / "replicas", ignore_errors=True)
            job = copy.copied_by_all(client, index)
            disk = client.job(f"{job['id']}.{iteration.DISK}")
            copies.append(
                Copied(
                    rss_kib=rss_kib,
                    peak_kib=_status_kib(status, "VmHWM"),
                    bytes_read=disk["facts"]["bytes_read"],
                    bytes_written=disk["bytes_done"],
                    seconds=copy.finalized_s(job),
                )
            )
            say(
                f"  {index + 1}/{REPETITIONS}: {copies[-1].grown_mib:.1f} MiB,"
                f" {copies[-1].seconds:.1f} s"
            )
    return copies


async def _checked(home: Path, twin: Path) -> tuple[bool, int]:
    """Whether a disk rebuilt from the copy equals the source, and what it takes on disk."""
    ours, theirs = await asyncio.gather(
        asyncio.to_thread(iteration.sha256, twin),
        asyncio.to_thread(iteration.sha256, iteration.disk_path(home)),
    )
    return ours == theirs, twin.stat().st_blocks * 512


def _status_kib(status: Path, name: str) -> int:
    """A line of a process's status, in KiB."""
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{status} has no {name}")
