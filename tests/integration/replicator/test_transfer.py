"""The data path on real files of two lab sites: content, failures, processes that stop or die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.replicator.transfer import Mark, TransferSettings
from shared.errors import Permanent, Refused, SeawallError, Transient
from shared.platforms.lab.writer import LabDisk
from shared.platforms.ports import Generation
from tests.failures import failure_mode
from tests.integration.replicator import iteration
from tests.integration.replicator.iteration import SMALL_MARKS

MIB = 1 << 20
SIZE = 24 * MIB
WAIT_S = 20.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two sites; the VM's disk holds 16 MiB random, then 8 MiB of hole."""
    iteration.describe_vm(tmp_path)
    (tmp_path / "west").mkdir()
    with iteration.disk_path(tmp_path).open("wb") as file:
        file.write(random.Random(1).randbytes(16 * MIB))
        file.truncate(SIZE)
    return tmp_path


def site_yaml(home: Path, site: str, text: str) -> None:
    (home / site / "site.yaml").write_text(text)


def randomly_changed(home: Path, *, seed: int) -> None:
    """Writes and discards of any size through the lab's protocol, as a guest does them."""
    choose = random.Random(seed)
    disk = LabDisk(iteration.disk_path(home))
    for _ in range(12):
        length = choose.randrange(1, 300_000)
        disk.write(choose.randrange(SIZE - length), choose.randbytes(length))
    disk.discard(choose.randrange(8) * MIB, 2 * MIB)
    disk.write(20 * MIB, bytes(MIB))


async def assert_copied(sites: iteration.Sites, home: Path, wanted: str, name: str) -> None:
    """The current copy, rebuilt as a recovery does it, has the SHA-256 `wanted`."""
    path = await iteration.rebuilt(sites, home, name)
    assert iteration.sha256(path) == wanted


# --- content


async def test_first_and_changed_copies_equal_the_disk_at_its_snapshot(home: Path) -> None:
    disk = iteration.disk_path(home)
    async with iteration.open_sites(home) as sites:
        first, _ = await iteration.iterate(sites, "it-0")
        assert (first.bytes_written, first.compared) == (16 * MIB, False)
        await assert_copied(sites, home, iteration.sha256(disk), "check-0")
        for index in range(1, 4):
            randomly_changed(home, seed=index)
            changed, _ = await iteration.iterate(sites, f"it-{index}")
            assert not changed.compared
            assert 0 < changed.bytes_written < 6 * MIB
            await assert_copied(sites, home, iteration.sha256(disk), f"check-{index}")


async def test_a_writer_during_the_transfer_does_not_reach_the_copy(home: Path) -> None:
    disk = iteration.disk_path(home)
    before = iteration.sha256(disk)
    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-1")
        randomly_changed(home, seed=5)
        staged = await iteration.generation(sites, "it-1", taken)
        await iteration.transfer(sites, "it-1", taken, staged)
        await iteration.finalize(sites, "it-1", taken, staged)
        await iteration.close(sites, "it-1", taken)
        await assert_copied(sites, home, before, "check")
    assert iteration.sha256(disk) != before


async def test_a_disk_changed_behind_the_protocol_is_compared_and_says_so(home: Path) -> None:
    disk = iteration.disk_path(home)
    async with iteration.open_sites(home) as sites:
        await iteration.iterate(sites, "it-0")
        with disk.open("rb+") as file:
            file.seek(5 * MIB + 17)
            file.write(b"behind its back")
        result, _ = await iteration.iterate(sites, "it-1")
        assert (result.compared, bool(result.reason)) == (True, True)
        assert result.bytes_written == MIB
        await assert_copied(sites, home, iteration.sha256(disk), "check")


async def test_a_quota_at_the_target_sets_the_pace_and_fails_nothing(home: Path) -> None:
    site_yaml(home, "west", "quotas:\n  PutBlock: {burst: 4, per_second: 40}\n")
    async with iteration.open_sites(home) as sites:
        result, _ = await iteration.iterate(sites, "it-0")
        assert result.seconds >= (16 - 4) / 40 * 0.9
        # The site's own bucket stands in front, so that hardly a call is refused.
        assert result.throttled <= 2
        await assert_copied(sites, home, iteration.sha256(iteration.disk_path(home)), "check")


# --- failures


async def test_a_site_folder_that_vanishes_fails_the_transfer_and_spares_the_copy(
    home: Path,
) -> None:
    disk = iteration.disk_path(home)
    async with iteration.open_sites(home) as sites:
        await iteration.iterate(sites, "it-0")
        good = iteration.sha256(disk)
        with disk.open("rb+") as file:
            file.write(random.Random(2).randbytes(16 * MIB))
        site_yaml(home, "west", "latency: {write_chunk: 20ms}\n")
        taken = await iteration.snapshot(sites, "it-1")
        staged = await iteration.generation(sites, "it-1", taken)

        async def vanish(_mark: Mark) -> None:
            if (home / "west").exists():
                (home / "west").rename(home / "gone")

        with pytest.raises(Transient) as raised:
            await iteration.transfer(
                sites, "it-1", taken, staged, store=vanish, settings=SMALL_MARKS
            )
        assert raised.value.code == "site-gone"
        assert raised.value.remedy
        assert not (home / "west").exists()
        (home / "gone").rename(home / "west")
        await iteration.close(sites, "it-1", taken)
        await assert_copied(sites, home, good, "check")


async def test_a_disk_file_that_shrinks_fails_the_transfer_with_a_remedy(home: Path) -> None:
    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-0")
        staged = await iteration.generation(sites, "it-0", taken)
        os.truncate(iteration.disk_path(home), 6 * MIB)
        with pytest.raises(Permanent) as raised:
            await iteration.transfer(sites, "it-0", taken, staged)
        assert raised.value.code == "disk-shrank"
        assert raised.value.remedy


async def test_a_full_target_fails_the_transfer_with_a_remedy_and_spares_the_copy(
    home: Path,
) -> None:
    disk = iteration.disk_path(home)
    async with iteration.open_sites(home) as sites:
        await iteration.iterate(sites, "it-0")
        good = iteration.sha256(disk)
        LabDisk(disk).write(0, random.Random(3).randbytes(8 * MIB))
        site_yaml(home, "west", "capacity: 18MiB\n")
        taken = await iteration.snapshot(sites, "it-1")
        with pytest.raises(SeawallError) as raised:
            staged = await iteration.generation(sites, "it-1", taken)
            since = await iteration.current_mark(sites)
            await iteration.transfer(sites, "it-1", taken, staged, since=since)
        assert raised.value.remedy
        site_yaml(home, "west", "capacity: 100MiB\n")
        await iteration.close(sites, "it-1", taken)
        await assert_copied(sites, home, good, "check")


async def test_a_cancelled_transfer_writes_nothing_more(home: Path) -> None:
    site_yaml(home, "west", "latency: {write_chunk: 10ms}\n")
    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-0")
        staged = await iteration.generation(sites, "it-0", taken)
        marked = asyncio.Event()

        async def store(_mark: Mark) -> None:
            marked.set()

        moving = asyncio.create_task(
            iteration.transfer(sites, "it-0", taken, staged, store=store, settings=SMALL_MARKS)
        )
        await asyncio.wait_for(marked.wait(), WAIT_S)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        moving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await moving
        assert loop.time() - began_s <= 1.0
        assert moving.cancelled()
        left = await staged_content(sites, staged)
        assert await staged_content(sites, staged) == left


async def staged_content(sites: iteration.Sites, staged: Generation) -> list[bytes]:
    """Digests of the generation's chunks."""
    return [
        await sites.west.target.digest(
            iteration.call("look"),
            generation=staged,
            offset=offset,
            length=MIB,
            algorithm="xxh3_128",
        )
        for offset in range(0, SIZE, MIB)
    ]


# --- processes


class Stoppable:
    """The process of `stoppable.py`, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.marks: list[Mark] = []

    async def until(self, *steps: str) -> Any:
        """Read lines until one of `steps`; return its value."""
        assert self.process.stdout is not None
        while True:
            line = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)
            assert line, f"the process ended before it said {steps}"
            told = msgspec.json.decode(line)
            if told["step"] == "mark":
                self.marks.append(msgspec.convert(told["value"], Mark))
            if told["step"] in steps:
                return told["value"]


@contextlib.asynccontextmanager
async def stoppable(home: Path, *, lease: int) -> AsyncIterator[Stoppable]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.replicator.stoppable", str(home), str(lease)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Stoppable(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait_for(process.wait(), WAIT_S)


async def taken_over(sites: iteration.Sites, *, resume: Mark | None) -> int:
    """Finish iteration `it-1` under lease 2; how many bytes were adopted."""
    taken = await iteration.snapshot(sites, "it-1")
    staged = await iteration.generation(sites, "it-1", taken, lease=2)
    since = await iteration.current_mark(sites)
    result = await iteration.transfer(sites, "it-1", taken, staged, since=since, resume=resume)
    await iteration.finalize(sites, "it-1", taken, staged)
    await iteration.close(sites, "it-1", taken)
    return result.bytes_adopted


async def test_a_killed_transfer_is_taken_over_from_its_last_mark(home: Path) -> None:
    site_yaml(home, "west", "latency: {write_chunk: 20ms}\n")
    async with iteration.open_sites(home) as sites:
        async with stoppable(home, lease=1) as first:
            await first.until("mark")
            await first.until("mark")
            first.process.send_signal(signal.SIGKILL)
            await asyncio.wait_for(first.process.wait(), WAIT_S)
        adopted = await taken_over(sites, resume=first.marks[-1])
        assert adopted >= 4 * MIB
        await assert_copied(sites, home, iteration.sha256(iteration.disk_path(home)), "check")


async def test_a_stopped_process_that_wakes_after_its_takeover_harms_nothing(home: Path) -> None:
    site_yaml(home, "west", "latency: {write_chunk: 20ms}\n")
    wanted = iteration.sha256(iteration.disk_path(home))
    async with iteration.open_sites(home) as sites, stoppable(home, lease=1) as first:
        await first.until("mark")
        first.process.send_signal(signal.SIGSTOP)
        await taken_over(sites, resume=first.marks[-1])
        randomly_changed(home, seed=4)
        await assert_copied(sites, home, wanted, "before")
        first.process.send_signal(signal.SIGCONT)
        assert await first.until("failed", "finalized") is not None
        await assert_copied(sites, home, wanted, "after")


@failure_mode(
    "A service",
    "lying",
    sees=(
        "A process that believes itself the owner of a copy finalizes it: refused, the "
        "good copy stands."
    ),
    does="Nothing.",
)
async def test_a_stopped_process_that_wakes_before_the_switch_cannot_finalize(home: Path) -> None:
    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-1")
        old = await iteration.generation(sites, "it-1", taken, lease=1)
        await iteration.transfer(sites, "it-1", taken, old)
        new = await iteration.generation(sites, "it-1", taken, lease=2)
        with pytest.raises(Refused) as raised:
            await iteration.finalize(sites, "it-1", taken, old)
        assert raised.value.code == "stale-lease"
        await iteration.transfer(sites, "it-1", taken, new)
        await iteration.finalize(sites, "it-1", taken, new)
        await assert_copied(sites, home, iteration.sha256(iteration.disk_path(home)), "check")


async def test_forty_disks_worth_of_transfers_share_one_site(home: Path) -> None:
    """Many transfers at once into one site; each generation ends as the same content."""
    settings = TransferSettings(mark_bytes=4 * MIB)
    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-0")
        staged = [await iteration.generation(sites, f"it-{index}", taken) for index in range(40)]
        async with asyncio.TaskGroup() as group:
            for index, one in enumerate(staged):
                group.create_task(
                    iteration.transfer(sites, f"it-{index}", taken, one, settings=settings)
                )
        contents = [await staged_content(sites, one) for one in staged]
        assert contents == [contents[0]] * 40
        await iteration.finalize(sites, "it-0", taken, staged[0])
        await assert_copied(sites, home, iteration.sha256(iteration.disk_path(home)), "check")
    shutil.rmtree(home / "west")
