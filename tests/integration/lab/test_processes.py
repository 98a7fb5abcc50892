"""The lab shared by many processes, any of which may be killed at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.platforms.lab.folder import locked
from shared.platforms.lab.manifest import LabPlatform
from shared.platforms.ports import Snapshot
from tests.integration.lab.sites import VM, call, east, read_disk, site, west

ROOT = Path(__file__).parents[3]
SIZE = 1 << 20


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.integration.lab.{module}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def writers(folder: Path, seeds: range) -> Iterator[list[subprocess.Popen[str]]]:
    running = [start("writers", str(folder), str(seed)) for seed in seeds]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


async def test_snapshots_are_one_moment_and_changes_are_complete_while_writers_die(
    tmp_path: Path,
) -> None:
    folder = east(tmp_path, size=SIZE, disks=("sda", "sdb"))
    source = site(tmp_path, "east")
    before: tuple[Snapshot, dict[str, bytes]] | None = None
    for number in range(6):
        with writers(folder, range(number * 10, number * 10 + 2)) as running:
            taken = await source.source.open_snapshot(call(f"s{number}"), vm=VM)
            content = {disk: await read_disk(source, taken, disk) for disk in ("sda", "sdb")}
            # A guest dies in the middle of whatever it is doing; the other goes on.
            running[0].kill()
            assert content["sda"][:8] == content["sdb"][:8]
            for disk in ("sda", "sdb"):
                assert await read_disk(source, taken, disk) == content[disk]
                if before is not None:
                    await expect_changes_listed(source, before, taken, disk, content[disk])
            if before is not None:
                await source.source.close_snapshot(
                    call(f"c{number}"), snapshot_id=before[0].snapshot_id
                )
        before = (taken, content)
    await source.close()


async def expect_changes_listed(
    source: LabPlatform,
    before: tuple[Snapshot, dict[str, bytes]],
    taken: Snapshot,
    disk: str,
    content: bytes,
) -> None:
    """Every byte that differs between two snapshots lies in a changed extent."""
    found = await source.source.extents(call("e"), snapshot=taken, disk=disk, since=before[0].mark)
    assert found.complete, found.reason
    old = bytearray(before[1][disk])
    for extent in found.extents:
        end = extent.offset + extent.length
        old[extent.offset : end] = content[extent.offset : end]
        if extent.hole:
            assert not any(content[extent.offset : end])
    assert old == content


def test_a_site_survives_a_kill_at_any_change_it_makes(tmp_path: Path) -> None:
    first = random.Random().randrange(1, 10)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.lab.crash", str(tmp_path), str(first), "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ended.returncode == 0, f"from {first}: {ended.stdout}{ended.stderr[-3000:]}"
    assert ended.stdout.startswith("trials="), ended.stdout


def test_a_token_bucket_is_shared_by_all_processes(tmp_path: Path) -> None:
    folder = west(tmp_path, "quotas: {DescribeSnapshots: {burst: 5, per_second: 20}}\n")
    began = time.monotonic()
    running = [start("quota_hand", str(folder), "1.0") for _ in range(3)]
    counts = [process.communicate(timeout=60)[0].split() for process in running]
    seconds = time.monotonic() - began
    granted = sum(int(count[0]) for count in counts)
    refused = sum(int(count[1]) for count in counts)
    assert granted <= 5 + 20 * seconds + 1
    assert granted >= 20 and refused > granted


def test_a_lock_goes_with_its_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys; from pathlib import Path; from shared.platforms.lab.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with locked(path, wait_s_max=1.0):
        pass
