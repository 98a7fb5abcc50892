"""The lab keeps the contract of the ports."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.units import format_duration
from shared.platforms.lab import tools
from shared.platforms.lab.manifest import LabPlatform, open_platform
from shared.platforms.lab.settings import SiteSettings
from shared.platforms.lab.writer import LabWriter
from shared.platforms.ports import Platform
from tests.contract.platforms.suite import PlatformContract
from tests.contract.platforms.world import DISK, VM, call, copied, rebuilt
from tests.waiting import wait_until

VM_YAML = f"""
name: {VM}
memory: 1GiB
disks:
  - {{name: sda, file: sda.raw}}
  - {{name: sdb, file: sdb.raw}}
networks: [prod]
"""


class LabWorld:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.vm = root / "east" / "vms" / VM
        self.vm.mkdir(parents=True)
        (root / "west").mkdir()
        (self.vm / "vm.yaml").write_text(VM_YAML, "utf-8")
        for disk in ("sda", "sdb"):
            (self.vm / f"{disk}.raw").write_bytes(b"")
            with open(self.vm / f"{disk}.raw", "r+b") as file:
                file.truncate(DISK)
        self.opened: list[LabPlatform] = []
        self.east: Platform = self._open("east")
        self.west: Platform = self._open("west")

    def _open(self, name: str) -> Platform:
        platform = open_platform({"path": str(self.root / name)})
        self.opened.append(platform)
        return platform

    def write(self, disk: str, offset: int, data: bytes) -> None:
        LabWriter(self.vm).write(f"{disk}.raw", offset, data)

    def disk(self, disk: str) -> bytes:
        return (self.vm / f"{disk}.raw").read_bytes()

    def again(self) -> Platform:
        return self._open("west")

    def settings(self, site: Platform, settings: SiteSettings) -> None:
        document: dict[str, Any] = {
            "latency": {name: format_duration(s) for name, s in settings.latency_s.items()},
            "quotas": {
                name: {
                    key: value
                    for key, value in (
                        ("burst", quota.burst),
                        ("per_second", quota.per_second),
                        ("concurrent", quota.concurrent),
                    )
                    if value is not None
                }
                for name, quota in settings.quotas.items()
            },
            "prep_nodes": [{"name": n.name, "seats": n.seats} for n in settings.prep_nodes],
            "faults": {"seed": settings.fault_seed, **settings.faults},
        }
        (_root(site) / "site.yaml").write_text(json.dumps(document), "utf-8")

    def journal(self, site: Platform) -> list[dict[str, Any]]:
        lines = (_root(site) / "calls.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def instance_disk(self, instance_id: str, file: str) -> bytes:
        return (self.root / "west" / "instances" / instance_id / file).read_bytes()

    def instance_write(self, instance_id: str, disk: str, offset: int, data: bytes) -> None:
        folder = self.root / "west" / "instances" / instance_id
        LabWriter(folder).write(f"{disk}.raw", offset, data)

    def deafen(self) -> None:
        deaf = "trap '' TERM; echo deaf > deaf; while :; do sleep 0.05; done"
        guest = f'guest: {{command: [sh, -c, "{deaf}"]}}\n'
        (self.vm / "vm.yaml").write_text(VM_YAML + guest, "utf-8")
        tools.start(self.vm)
        wait_until((self.vm / "deaf").exists, "the guest has closed its ears")

    def end(self) -> None:
        """Leave no process behind."""
        if self.vm.exists():
            tools.stop(self.vm, grace_s=0)

    def vanish(self, site: Platform) -> None:
        _root(site).rename(self.root / "elsewhere")


def _root(platform: Platform) -> Path:
    assert isinstance(platform, LabPlatform)
    return platform.folder.root


async def _running_instance(world: LabWorld) -> tuple[Path, str]:
    copy = await copied(world.west, "m1", b"1" * DISK)
    made, _ = await rebuilt(world, "x", copy.copy_id)
    await world.west.compute.power_on(call("on"), instance_id=made.instance_id)
    return world.root / "west" / "instances" / made.instance_id, made.instance_id


class TestLabPlatform(PlatformContract):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[LabWorld]:
        world = LabWorld(tmp_path)
        yield world
        world.end()
        for platform in world.opened:
            await platform.close()

    async def test_since_when_a_source_runs_is_told_once_somebody_switched_it(
        self, world: LabWorld
    ) -> None:
        power = world.east.power
        (found,) = await power.list_running((VM,))
        assert found.since is None
        before = dt.datetime.now(dt.UTC)
        await power.power_off(call("o"), vm=VM)
        await power.power_on(call("u"), vm=VM)
        (found,) = await power.list_running((VM,))
        assert found.since is not None and found.since >= before

    async def test_what_an_instance_wrote_by_the_protocol_is_counted_once(
        self, world: LabWorld
    ) -> None:
        folder, instance_id = await _running_instance(world)
        compute = world.west.compute
        assert await compute.list_written((instance_id,)) == {instance_id: 0}
        writer = LabWriter(folder)
        for _ in range(3):
            writer.write("sda.raw", 0, b"a" * 4096)
        writer.write("sda.raw", 2048, b"b" * 4096)
        writer.write("sda.raw", 40_960, b"c" * 512)
        expected = {instance_id: 2048 + 4096 + 512}
        assert await compute.list_written((instance_id,)) == expected
        await compute.power_off(call("off"), instance_id=instance_id)
        await compute.power_on(call("on2"), instance_id=instance_id)
        assert await world.again().compute.list_written((instance_id,)) == expected

    async def test_what_is_written_behind_the_protocols_back_is_not_known(
        self, world: LabWorld
    ) -> None:
        folder, instance_id = await _running_instance(world)
        await asyncio.sleep(0.02)  # the clock of files goes by steps of up to 10 ms
        with open(folder / "sda.raw", "r+b") as disk:
            disk.write(b"x")
        assert await world.west.compute.list_written((instance_id,)) == {instance_id: None}

    async def test_what_is_written_behind_its_back_after_the_first_write_is_noticed(
        self, world: LabWorld
    ) -> None:
        folder, instance_id = await _running_instance(world)
        LabWriter(folder).write("sda.raw", 0, b"a" * 4096)
        with open(folder / "sda.raw", "r+b") as disk:
            disk.write(b"x")
        assert await world.west.compute.list_written((instance_id,)) == {instance_id: None}

    async def test_an_instance_that_never_ran_wrote_nothing(self, world: LabWorld) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        made, _ = await rebuilt(world, "x", copy.copy_id)
        told = await world.west.compute.list_written((made.instance_id,))
        assert told == {made.instance_id: 0}

    async def test_a_vanished_folder_is_not_made_again(self, world: LabWorld) -> None:
        world.vanish(world.west)
        with pytest.raises(Exception, match="is gone"):
            await world.west.inventory.check()
        assert not (world.root / "west").exists()
