"""A first copy through the data path, beside `cp --sparse=always` and fsync of the same file.

4 GiB in the page cache, every second MiB random, the others holes. Ours is timed from opening
the snapshot to the finalized copy, each block verified; cp's until its file is on the disk. The
two take turns in going first. The value is cp's time over ours.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from tests.bench.harness import REPETITIONS, Goal, Measurement, folder, say
from tests.integration.replicator import iteration

NAME = "copy"
UNIT = "x cp"
GOAL = Goal(least=0.7)

MIB = 1 << 20
SIZE = 4096 * MIB
_CP_TIMEOUT_S = 120.0


async def run() -> Measurement:
    async with folder() as home:
        iteration.describe_vm(home)
        source = iteration.disk_path(home)
        await asyncio.to_thread(make_disk, source)
        ours: list[float] = []
        theirs: list[float] = []
        cpu: list[float] = []
        sound = True
        for index in range(REPETITIONS):
            if index % 2:
                theirs.append(await asyncio.to_thread(copied_by_cp, source, home / "cp.raw"))
            used = _cpu_s()
            seconds, copied = await copied_by_us(home, check=index == REPETITIONS - 1)
            cpu.append(_cpu_s() - used)
            ours.append(seconds)
            sound = sound and copied
            if not index % 2:
                theirs.append(await asyncio.to_thread(copied_by_cp, source, home / "cp.raw"))
            say(f"  {index + 1}/{REPETITIONS}: cp {theirs[-1]:.2f} s, ours {ours[-1]:.2f} s")
    data_mib = SIZE / MIB / 2
    return Measurement(
        values=tuple(cp / our for cp, our in zip(theirs, ours, strict=True)),
        parts={
            "ours_s": [round(seconds, 3) for seconds in ours],
            "cp_s": [round(seconds, 3) for seconds in theirs],
            "ours_mib_s": round(data_mib / statistics.median(ours)),
            "cp_mib_s": round(data_mib / statistics.median(theirs)),
            "ours_cpu_s": round(statistics.median(cpu), 2),
            "hash_equal": sound,
        },
        sound=sound,
    )


def make_disk(path: Path) -> None:
    """Every second MiB random; what was just written is in the page cache."""
    with path.open("wb") as file:
        for offset in range(0, SIZE, 2 * MIB):
            os.pwrite(file.fileno(), os.urandom(MIB), offset)
        file.truncate(SIZE)
        os.fsync(file.fileno())


def copied_by_cp(source: Path, target: Path) -> float:
    """Seconds that cp and fsync take."""
    began_s = time.perf_counter()
    subprocess.run(
        ["cp", "--sparse=always", str(source), str(target)], check=True, timeout=_CP_TIMEOUT_S
    )
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began_s
    target.unlink()
    return seconds


async def copied_by_us(home: Path, *, check: bool) -> tuple[float, bool]:
    """Seconds of a first copy, and whether a disk rebuilt from it is the source's twin."""
    shutil.rmtree(home / "west", ignore_errors=True)
    async with iteration.open_sites(home) as sites:
        result, seconds = await iteration.iterate(sites, f"it-{time.monotonic_ns()}")
        if result.bytes_written != SIZE // 2:
            return seconds, False
        if not check:
            return seconds, True
        path = await iteration.rebuilt(sites, home, "check")
        same = await asyncio.to_thread(
            lambda: iteration.sha256(path) == iteration.sha256(iteration.disk_path(home))
        )
        return seconds, same


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
