"""What goes wrong with disks, and what the lab says or does about it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.errors import Permanent
from shared.platforms.lab import tools
from shared.platforms.lab.manifest import LabPlatform
from shared.platforms.lab.writer import LabDisk, LabWriter
from shared.platforms.ports import MIB
from tests.integration.lab.sites import VM, call, east, read_disk, recover, replicate, site, west

SIZE = 4 * MIB


@dataclass(frozen=True)
class Pair:
    root: Path
    vm: Path
    east: LabPlatform
    west: LabPlatform

    def settings(self, name: str, text: str) -> None:
        (self.root / name / "site.yaml").write_text(text, "utf-8")

    def lines(self, name: str) -> list[dict[str, object]]:
        text = (self.root / name / "calls.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    vm = east(tmp_path, size=SIZE)
    west(tmp_path)
    made = Pair(tmp_path, vm, site(tmp_path, "east"), site(tmp_path, "west"))
    yield made
    await made.east.close()
    await made.west.close()


async def test_a_disk_changed_behind_its_back_is_compared_in_full(pair: Pair) -> None:
    first = await pair.east.source.open_snapshot(call("s1"), vm=VM)
    with open(pair.vm / "sda.raw", "r+b") as file:
        file.write(b"not announced")
    second = await pair.east.source.open_snapshot(call("s2"), vm=VM)
    found = await pair.east.source.extents(
        call("e"), snapshot=second, disk="sda", since=first.mark
    )
    assert not found.complete and "behind the back" in found.reason
    assert sum(extent.length for extent in found.extents) == SIZE
    third = await pair.east.source.open_snapshot(call("s3"), vm=VM)
    again = await pair.east.source.extents(
        call("e"), snapshot=third, disk="sda", since=second.mark
    )
    assert again.complete and again.extents == ()


async def test_a_resized_disk_is_told_by_its_size_and_compared_in_full(pair: Pair) -> None:
    first = await pair.east.source.open_snapshot(call("s1"), vm=VM)
    os.truncate(pair.vm / "sda.raw", 2 * SIZE)
    second = await pair.east.source.open_snapshot(call("s2"), vm=VM)
    assert second.disks[0].size == 2 * SIZE
    found = await pair.east.source.extents(
        call("e"), snapshot=second, disk="sda", since=first.mark
    )
    assert not found.complete and "resized" in found.reason


async def test_a_disk_that_shrinks_while_it_is_read_is_said(pair: Pair) -> None:
    taken = await pair.east.source.open_snapshot(call("s1"), vm=VM)
    os.truncate(pair.vm / "sda.raw", MIB)
    with pytest.raises(Permanent) as caught:
        await read_disk(pair.east, taken, "sda")
    assert caught.value.code == "disk-shrank" and "sda.raw" in caught.value.message
    assert caught.value.remedy


async def test_a_missing_disk_is_said_with_its_file(pair: Pair) -> None:
    (pair.vm / "sda.raw").unlink()
    for attempt in (
        pair.east.inventory.list_vms(),
        pair.east.source.open_snapshot(call("s1"), vm=VM),
    ):
        with pytest.raises(Permanent) as caught:
            await attempt
        assert caught.value.code == "disk-missing" and "sda.raw" in caught.value.message


async def test_the_journal_tells_the_hash_of_what_a_snapshot_froze(pair: Pair) -> None:
    pair.settings("east", "journal: hashes\n")
    LabDisk(pair.vm / "sda.raw").write(5000, b"hello" * 1000)
    frozen = (pair.vm / "sda.raw").read_bytes()
    await pair.east.source.open_snapshot(call("s1"), vm=VM)
    (line,) = [line for line in pair.lines("east") if line["call"] == "open_snapshot"]
    assert line["sha256"] == {"sda": hashlib.sha256(frozen).hexdigest()}


async def test_a_journal_that_is_off_has_no_lines(pair: Pair) -> None:
    pair.settings("east", "journal: false\n")
    await pair.east.source.open_snapshot(call("s1"), vm=VM)
    await pair.east.source.open_snapshot(call("s1"), vm=VM)
    assert not (pair.root / "east" / "calls.jsonl").exists()


async def test_data_path_calls_are_added_up_per_disk(pair: Pair) -> None:
    LabDisk(pair.vm / "sda.raw").write(0, b"x" * (2 * MIB + 1))
    await replicate(pair.east, pair.west, "it")
    (read,) = [line for line in pair.lines("east") if line["call"] == "read_chunk"]
    (written,) = [line for line in pair.lines("west") if line["call"] == "write_chunk"]
    for line in (read, written):
        assert (line["key"], line["part_of"], line["outcome"]) == ("", "it/gen/sda", "ok")
        assert line["count"] == 3 and int(str(line["bytes"])) >= 2 * MIB + 1


async def test_sparse_disks_stay_sparse_all_the_way(pair: Pair) -> None:
    writer = LabWriter(pair.vm)
    writer.write("sda.raw", MIB, b"x" * 4096)
    writer.write("sda.raw", 3 * MIB, b"y" * MIB)
    await replicate(pair.east, pair.west, "a")
    writer.discard("sda.raw", 3 * MIB, MIB)
    copy = await replicate(pair.east, pair.west, "b")
    made = await recover(pair.west, "rec", copy, "isolated")
    disk = pair.root / "west" / "instances" / made.instance_id / "sda.raw"
    assert disk.read_bytes() == (pair.vm / "sda.raw").read_bytes()
    assert disk.stat().st_blocks * 512 <= 64 * 1024


async def test_a_full_target_refuses_and_keeps_the_copy(pair: Pair) -> None:
    writer = LabWriter(pair.vm)
    writer.write("sda.raw", 0, b"1" * MIB)
    copy = await replicate(pair.east, pair.west, "a")
    pair.settings("west", "capacity: 1500kB\n")
    writer.write("sda.raw", 0, b"2" * (3 * MIB))
    with pytest.raises(Permanent) as caught:
        await replicate(pair.east, pair.west, "b")
    assert caught.value.code == "target-full" and "capacity" in caught.value.remedy
    assert await pair.west.target.current(plan="shop", vm=VM) == copy
    with pytest.raises(Permanent) as caught:
        await pair.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
    assert caught.value.code == "target-full"
    assert not list((pair.root / "west").glob("disks/*"))
    assert (await pair.west.inventory.check()).capacity_free < 500_000
    (staged,) = await pair.west.target.list_generations()
    await pair.west.target.discard(call("x"), generation_id=staged.object_id)
    pair.settings("west", "capacity: 100MB\n")
    made = await recover(pair.west, "rec", copy, "isolated")
    disk = pair.root / "west" / "instances" / made.instance_id / "sda.raw"
    assert disk.read_bytes()[:MIB] == b"1" * MIB


async def test_latency_is_waited(pair: Pair) -> None:
    pair.settings("west", "latency: {list_instances: 200ms}\n")
    began = time.monotonic()
    await pair.west.compute.list_instances()
    assert time.monotonic() - began >= 0.2


async def test_a_bad_site_file_is_said_by_every_call(pair: Pair) -> None:
    pair.settings("west", "latency: {fly: 1s}\n")
    with pytest.raises(Permanent, match=r"site\.yaml:1"):
        await pair.west.compute.list_instances()
    pair.settings("west", "")
    assert await pair.west.compute.list_instances() == ()


async def test_a_random_writer_changes_what_it_says(pair: Pair) -> None:
    first = await pair.east.source.open_snapshot(call("s1"), vm=VM)
    written = list(tools.write_random(pair.vm / "sda.raw", seed=7, count=5, size=9000))
    second = await pair.east.source.open_snapshot(call("s2"), vm=VM)
    found = await pair.east.source.extents(
        call("e"), snapshot=second, disk="sda", since=first.mark
    )
    listed = {at for e in found.extents for at in range(e.offset, e.offset + e.length)}
    assert listed == {at for start, length in written for at in range(start, start + length)}


async def test_a_staged_generation_keeps_the_layers_it_starts_from(pair: Pair) -> None:
    LabDisk(pair.vm / "sda.raw").write(0, b"old")
    await replicate(pair.east, pair.west, "a")
    late = await pair.west.target.open_generation(call("late"), disk="sda", size=SIZE)
    full = await pair.west.target.open_generation(call("b"), disk="sda", size=2 * SIZE)
    await pair.west.target.finalize(call("b/f"), generations=[full], manifest={"mark": "b"})
    other = site(pair.root, "west")
    content = bytearray(3)
    await other.target.read_back(call("r"), generation=late, offset=0, into=memoryview(content))
    assert content == b"old"
    await other.close()
