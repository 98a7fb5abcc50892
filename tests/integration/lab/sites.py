"""Lab sites on disk for tests, and the same few steps through them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shared.platforms.lab.manifest import LabPlatform, open_platform
from shared.platforms.ports import (
    CHUNK_BYTES,
    Call,
    CopyFacts,
    Generation,
    Instance,
    InstanceSpec,
    Snapshot,
)

PLAN = "shop"
VM = "db"


def east(root: Path, *, size: int, guest: str = "", disks: tuple[str, ...] = ("sda",)) -> Path:
    """A protected site with VM `db`; returns the VM's folder."""
    folder = root / "east" / "vms" / VM
    folder.mkdir(parents=True)
    listed = "".join(f"  - {{name: {disk}, file: {disk}.raw}}\n" for disk in disks)
    text = f"name: {VM}\ndisks:\n{listed}networks: [prod]\n{guest}"
    (folder / "vm.yaml").write_text(text, "utf-8")
    for disk in disks:
        with open(folder / f"{disk}.raw", "wb") as file:
            file.truncate(size)
    return folder


def west(root: Path, settings: str = "") -> Path:
    """An empty recovery site."""
    folder = root / "west"
    folder.mkdir()
    (folder / "site.yaml").write_text(settings, "utf-8")
    return folder


def site(root: Path, name: str) -> LabPlatform:
    return open_platform({"path": str(root / name)})


def call(key: str, *, lease: int = 1) -> Call:
    return Call(key=key, plan=PLAN, vm=VM, job="job-1", lease=lease)


async def read_disk(source: LabPlatform, taken: Snapshot, disk: str) -> bytes:
    """All bytes of a snapshot's disk."""
    size = next(found.size for found in taken.disks if found.name == disk)
    content = bytearray(size)
    for at in range(0, size, CHUNK_BYTES):
        into = memoryview(content)[at : at + CHUNK_BYTES]
        await source.source.read(call("r"), snapshot=taken, disk=disk, offset=at, into=into)
    return bytes(content)


async def transfer(
    source: LabPlatform,
    target: LabPlatform,
    key: str,
    taken: Snapshot,
    disk: str,
    *,
    lease: int = 1,
) -> Generation:
    """A generation of one disk with what changed since the copy it starts from."""
    ask = call(key, lease=lease)
    size = next(found.size for found in taken.disks if found.name == disk)
    made = await target.target.open_generation(ask, disk=disk, size=size)
    found = await source.source.extents(
        ask, snapshot=taken, disk=disk, since=made.base_mark or None
    )
    for extent in found.extents:
        if extent.hole:
            await target.target.zero(
                ask, generation=made, offset=extent.offset, length=extent.length
            )
            continue
        for at in range(extent.offset, extent.offset + extent.length, CHUNK_BYTES):
            length = min(CHUNK_BYTES, extent.offset + extent.length - at)
            buffer = memoryview(bytearray(length))
            await source.source.read(ask, snapshot=taken, disk=disk, offset=at, into=buffer)
            await target.target.write(ask, generation=made, offset=at, data=buffer)
    return made


async def switch(
    source: LabPlatform,
    target: LabPlatform,
    key: str,
    taken: Snapshot,
    made: Sequence[Generation],
    *,
    lease: int = 1,
) -> CopyFacts:
    """The generations made the copy."""
    (vm,) = await source.inventory.list_vms([VM])
    manifest = {
        "mark": taken.mark,
        "taken_at": taken.taken_at.isoformat(),
        "configuration": vm.configuration,
    }
    return await target.target.finalize(
        call(key, lease=lease), generations=made, manifest=manifest
    )


async def replicate(
    source: LabPlatform, target: LabPlatform, key: str, *, lease: int = 1
) -> CopyFacts:
    """One iteration of the VM, as a replicator would do it, every step under its own key."""
    taken = await source.source.open_snapshot(call(f"{key}/snap"), vm=VM)
    made = [
        await transfer(source, target, f"{key}/gen/{disk.name}", taken, disk.name, lease=lease)
        for disk in taken.disks
    ]
    copy = await switch(source, target, f"{key}/fin", taken, made, lease=lease)
    await source.source.close_snapshot(call(f"{key}/close"), snapshot_id=taken.snapshot_id)
    return copy


async def recover(target: LabPlatform, key: str, copy: CopyFacts, network: str) -> Instance:
    """An instance of a copy, powered on."""
    disks = [
        await target.compute.rebuild_disk(
            call(f"{key}/disk/{disk.name}"), copy_id=copy.copy_id, disk=disk.name
        )
        for disk in copy.disks
    ]
    spec = InstanceSpec(
        name=VM,
        network=network,
        disks=tuple(disks),
        configuration=copy.manifest["configuration"],
        isolated=True,
    )
    made = await target.compute.create_instance(call(f"{key}/create"), spec=spec)
    return await target.compute.power_on(call(f"{key}/on"), instance_id=made.instance_id)


def marked_processes(mark: str) -> list[int]:
    """Processes whose environment names a guest of this folder."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in environ and state not in "ZX":
                found.append(int(name))
    return found
