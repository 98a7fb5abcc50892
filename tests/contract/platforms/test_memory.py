"""The platform in memory keeps the contract of the ports."""

from __future__ import annotations

from typing import Any

import pytest

from shared.platforms.lab.settings import SiteSettings
from shared.platforms.memory import MemoryPlatform, MemorySite, MemoryVm
from shared.platforms.ports import Platform
from tests.contract.platforms.suite import PlatformContract
from tests.contract.platforms.world import DISK, VM


class MemoryWorld:
    def __init__(self) -> None:
        sites = MemorySite("east"), MemorySite("west")
        self.vm = sites[0].add_vm(MemoryVm(VM, {"sda": bytes(DISK), "sdb": bytes(DISK)}))
        self.east: Platform = MemoryPlatform(sites[0])
        self.west: Platform = MemoryPlatform(sites[1])

    def write(self, disk: str, offset: int, data: bytes) -> None:
        self.vm.write(disk, offset, data)

    def disk(self, disk: str) -> bytes:
        return bytes(self.vm.disks[disk])

    def again(self) -> Platform:
        return MemoryPlatform(_site(self.west))

    def settings(self, site: Platform, settings: SiteSettings) -> None:
        _site(site).settings = settings

    def journal(self, site: Platform) -> list[dict[str, Any]]:
        return _site(site).journal

    def instance_disk(self, instance_id: str, file: str) -> bytes:
        return _site(self.west).instances[instance_id].content[file]

    def instance_write(self, instance_id: str, disk: str, offset: int, data: bytes) -> None:
        _site(self.west).instances[instance_id].machine.write(disk, offset, data)

    def deafen(self) -> None:
        self.vm.deaf = True

    def vanish(self, site: Platform) -> None:
        _site(site).is_there = False


def _site(platform: Platform) -> MemorySite:
    assert isinstance(platform, MemoryPlatform)
    return platform.site


class TestMemoryPlatform(PlatformContract):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
