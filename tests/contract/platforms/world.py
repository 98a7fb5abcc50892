"""What the platform suite needs besides the ports: two sites and hands to change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shared.platforms.lab.settings import SiteSettings
from shared.platforms.ports import (
    CHUNK_BYTES,
    Call,
    CopyFacts,
    DiskRef,
    Extents,
    Generation,
    Instance,
    InstanceSpec,
    Platform,
    Snapshot,
)

DISK = 64 * 1024
PLAN = "shop"
VM = "db"
BOOTS_IN_S = 0.05


class World(Protocol):
    """A protected site with VM `db` (disks sda, sdb of 64 KiB) and an empty recovery site."""

    east: Platform
    west: Platform

    def write(self, disk: str, offset: int, data: bytes) -> None: ...
    def disk(self, disk: str) -> bytes: ...
    def again(self) -> Platform:
        """The recovery site as another process would open it."""

    def settings(self, site: Platform, settings: SiteSettings) -> None: ...
    def journal(self, site: Platform) -> list[dict[str, Any]]: ...
    def instance_disk(self, instance_id: str, file: str) -> bytes: ...
    def instance_write(self, instance_id: str, disk: str, offset: int, data: bytes) -> None: ...
    def vanish(self, site: Platform) -> None: ...
    def deafen(self) -> None:
        """Have the guest of the protected VM ignore that it is asked to end."""


def call(key: str, *, lease: int = 1, plan: str = PLAN, job: str = "job-1") -> Call:
    return Call(key=key, plan=plan, vm=VM, job=job, lease=lease)


async def snapshot(world: World, key: str) -> Snapshot:
    return await world.east.source.open_snapshot(call(key), vm=VM)


async def extents(world: World, taken: Snapshot, disk: str, since: str | None) -> Extents:
    return await world.east.source.extents(call("e"), snapshot=taken, disk=disk, since=since)


async def read_all(world: World, taken: Snapshot, disk: str) -> bytes:
    buffer = bytearray(DISK)
    await world.east.source.read(
        call("r"), snapshot=taken, disk=disk, offset=0, into=memoryview(buffer)
    )
    return bytes(buffer)


async def stage(
    site: Platform, key: str, content: bytes, *, disk: str = "sda", lease: int = 1
) -> Generation:
    """A generation that holds `content`."""
    made = await site.target.open_generation(call(key, lease=lease), disk=disk, size=len(content))
    await put(site, made, 0, content)
    return made


async def put(site: Platform, made: Generation, offset: int, content: bytes) -> bytes:
    digest = b""
    for at in range(0, len(content), CHUNK_BYTES):
        piece = memoryview(content)[at : at + CHUNK_BYTES]
        digest = await site.target.write(
            call("w"), generation=made, offset=offset + at, data=piece
        )
    return digest


async def content_of(site: Platform, made: Generation) -> bytes:
    buffer = bytearray(made.size)
    await site.target.read_back(call("b"), generation=made, offset=0, into=memoryview(buffer))
    return bytes(buffer)


async def finalize(
    site: Platform, key: str, made: Sequence[Generation], *, mark: str = "m", lease: int = 1
) -> CopyFacts:
    manifest = {
        "taken_at": "2026-11-22T20:00:00+00:00",
        "mark": mark,
        "configuration": {
            "name": VM,
            "disks": [{"name": n, "file": f"{n}.raw"} for n in ("sda", "sdb")],
            "guest": {"boots_in_s": BOOTS_IN_S},
        },
    }
    return await site.target.finalize(call(key, lease=lease), generations=made, manifest=manifest)


async def copied(site: Platform, key: str, content: bytes) -> CopyFacts:
    """The VM's copy made to hold `content` as sda."""
    return await finalize(site, f"{key}/f", [await stage(site, f"{key}/g", content)], mark=key)


async def rebuilt(world: World, key: str, copy_id: str) -> tuple[Instance, bytes]:
    """An instance made from a copy, and what its disk holds."""
    disk = await world.west.compute.rebuild_disk(call(f"{key}/d"), copy_id=copy_id, disk="sda")
    made = await created(world.west, f"{key}/i", disk)
    return made, world.instance_disk(made.instance_id, disk.file)


async def created(site: Platform, key: str, disk: DiskRef) -> Instance:
    spec = InstanceSpec(
        name=VM,
        network="isolated",
        disks=(disk,),
        configuration={"name": VM, "guest": {"boots_in_s": BOOTS_IN_S}},
        isolated=True,
    )
    return await site.compute.create_instance(call(key), spec=spec)


def outcomes(world: World, site: Platform, name: str, key: str) -> list[str]:
    return [
        line["outcome"]
        for line in world.journal(site)
        if line["call"] == name and line["key"] == key
    ]
