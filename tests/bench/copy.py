"""A first copy by the whole replicator, beside `cp --sparse=always` and fsync of the same file.

4 GiB in the page cache, every second MiB random, the others holes. Six processes and their
Postgres; ours is timed by what the events say, from the iteration's start to the finalized
copy, each block verified; cp's until its file is on the disk. The two take turns in going first.
The value is cp's time over ours. `parts.direct` is the same for the data path alone: its steps
called in this process, with no control plane around them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from shared.platforms.lab.manifest import open_platform
from shared.platforms.ports import Call
from tests.acceptance.client import Client
from tests.acceptance.plane import Plane
from tests.bench.harness import REPETITIONS, Goal, Measurement, folder, say
from tests.integration.replicator import iteration

NAME = "copy"
UNIT = "x cp"
GOAL = Goal(least=0.7)

MIB = 1 << 20
SIZE = 4096 * MIB
DEFAULTS = {"SEAWALL_LEASE": "15", "SEAWALL_HEARTBEAT": "5", "SEAWALL_CALL_TIMEOUT": "60"}
_CP_TIMEOUT_S = 120.0
_JOB_TIMEOUT_S = 120.0


async def run() -> Measurement:
    """Five repetitions of cp, the whole replicator and the data path alone."""
    async with folder() as home:
        home.chmod(0o755)
        iteration.describe_vm(home)
        await asyncio.to_thread(make_disk, iteration.disk_path(home))
        whole, theirs, direct = await asyncio.to_thread(_repeat, home)
        sound = await _is_twin(home)
    data_mib = SIZE / MIB / 2
    return Measurement(
        values=tuple(cp / our for cp, our in zip(theirs, whole, strict=True)),
        parts={
            "direct": round(statistics.median(map(float.__truediv__, theirs, direct)), 4),
            "ours_s": [round(seconds, 3) for seconds in whole],
            "direct_s": [round(seconds, 3) for seconds in direct],
            "cp_s": [round(seconds, 3) for seconds in theirs],
            "ours_mib_s": round(data_mib / statistics.median(whole)),
            "cp_mib_s": round(data_mib / statistics.median(theirs)),
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


def _repeat(home: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each repetition: the whole replicator, cp, the data path alone."""
    whole: list[float] = []
    theirs: list[float] = []
    direct: list[float] = []
    with running_plane(home) as (_, client):
        for index in range(REPETITIONS):
            if index % 2:
                theirs.append(copied_by_cp(iteration.disk_path(home), home / "cp.raw"))
            shutil.rmtree(home / "target" / "replicas", ignore_errors=True)
            whole.append(finalized_s(copied_by_all(client, index)))
            if not index % 2:
                theirs.append(copied_by_cp(iteration.disk_path(home), home / "cp.raw"))
            direct.append(asyncio.run(copied_by_us(home)))
            say(
                f"  {index + 1}/{REPETITIONS}: cp {theirs[-1]:.2f} s, ours {whole[-1]:.2f} s,"
                f" the data path alone {direct[-1]:.2f} s"
            )
    return whole, theirs, direct


@contextmanager
def running_plane(home: Path) -> Iterator[tuple[Plane, Client]]:
    """Six processes that know the sites of `home`, and a client."""
    with Plane(home / "plane", environment=DEFAULTS) as plane:
        plane.start_all()
        plane.wait_ready()
        client = Client(plane)
        _add_sites(client, home)
        yield plane, client


def _add_sites(client: Client, home: Path) -> None:
    """The source's site, and one to copy to that is apart from the data path's own."""
    for number in range(REPETITIONS):
        folder = home / "east" / "vms" / f"copy{number}"
        folder.mkdir()
        (folder / "sda.raw").hardlink_to(iteration.disk_path(home))
        disks = [{"name": "sda", "file": "sda.raw"}]
        (folder / "vm.yaml").write_text(yaml.safe_dump({"name": folder.name, "disks": disks}))
    (home / "target").mkdir()
    for name, path in (("east", home / "east"), ("west", home / "target")):
        client.command(
            "/v1/sites", {"name": name, "platform": "lab", "settings": {"path": str(path)}}
        )


def copied_by_all(client: Client, number: int) -> dict[str, Any]:
    """The job of a first copy by the whole replicator, once it has completed.

    Each repetition protects a VM of its own, whose disk is the one file: what is in the page
    cache is so for all, and each copy is a first one.
    """
    name = f"copy{number}"
    document = {
        "name": name,
        "protected_site": "east",
        "recovery_site": "west",
        "replication": {"interval": "30d"},
        "vms": [name],
    }
    client.command("/v1/plans", {"plan": document, "scripts": {}})
    run = client.command(f"/v1/plans/{name}/run")
    ended = client.wait_job(run["id"], timeout_s=_JOB_TIMEOUT_S)
    if ended["state"] != "completed":
        raise AssertionError(f"{run['id']} is {ended['state']}: {ended['error']}")
    return client.job(ended["children"][0])


def finalized_s(job: dict[str, Any]) -> float:
    """Seconds from an iteration's start to its finalized copy, by the times of its events."""
    finalize = next(step for step in job["steps"] if step["name"] == "finalize")
    began, ended = (
        dt.datetime.fromisoformat(moment) for moment in (job["started_at"], finalize["ended_at"])
    )
    return (ended - began).total_seconds()


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


async def copied_by_us(home: Path) -> float:
    """Seconds of the data path's steps for a first copy."""
    shutil.rmtree(home / "west", ignore_errors=True)
    async with iteration.open_sites(home) as sites:
        result, seconds = await iteration.iterate(sites, f"it-{time.monotonic_ns()}")
        if result.bytes_written != SIZE // 2:
            raise AssertionError(f"{result.bytes_written} bytes were written")
        return seconds


async def _is_twin(home: Path) -> bool:
    """Whether a disk rebuilt from the whole replicator's last copy is the source's twin."""
    copy = await last_twin(home)
    ours, source = await asyncio.gather(
        asyncio.to_thread(iteration.sha256, copy),
        asyncio.to_thread(iteration.sha256, iteration.disk_path(home)),
    )
    return ours == source


async def last_twin(home: Path) -> Path:
    """The last copy's disk as a plain file, made the way a recovery makes it."""
    name = f"copy{REPETITIONS - 1}"
    platform = open_platform({"path": str(home / "target")})
    try:
        copy = await platform.target.current(plan=name, vm=name)
        if copy is None:
            raise AssertionError(f"there is no copy of {name}")
        call = Call(key=f"check/{name}", plan=name, vm=name, job="check", lease=1)
        made = await platform.compute.rebuild_disk(call, copy_id=copy.copy_id, disk=iteration.DISK)
        return home / "target" / "disks" / made.disk_id / made.file
    finally:
        await platform.close()
