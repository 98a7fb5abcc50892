"""One iteration done by hand on two lab sites: snapshot, transfer, finalize, close.

For tests and benchmarks of the data path alone; in the product the replicator's decider gives
these steps. Owns no assertions.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from services.replicator.transfer import (
    Mark,
    Progress,
    SitePace,
    TransferRequest,
    TransferResult,
    TransferSettings,
    copy_disk,
)
from shared.platforms.lab.manifest import LabPlatform, open_platform
from shared.platforms.ports import Call, CopyFacts, Generation, Snapshot

PLAN = "shop"
VM = "db"
DISK = "sda"
SETTINGS = TransferSettings()
SMALL_MARKS = TransferSettings(mark_bytes=2 << 20)
_PIECE_BYTES = 1 << 20


class Sites(msgspec.Struct):
    """Two open sites, with their paces."""

    east: LabPlatform
    west: LabPlatform
    east_pace: SitePace
    west_pace: SitePace


@contextlib.asynccontextmanager
async def open_sites(home: Path) -> AsyncIterator[Sites]:
    """Open `home/east` and `home/west`, made where they are missing."""
    platforms = []
    for name in ("east", "west"):
        (home / name).mkdir(exist_ok=True)
        platforms.append(open_platform({"path": str(home / name)}))
    east, west = platforms
    try:
        yield Sites(
            east=east,
            west=west,
            east_pace=SitePace(east.limits),
            west_pace=SitePace(west.limits),
        )
    finally:
        await east.close()
        await west.close()


def disk_path(home: Path) -> Path:
    """Where the VM's disk lies; `vm.yaml` beside it is written by `describe_vm`."""
    return home / "east" / "vms" / VM / f"{DISK}.raw"


def describe_vm(home: Path) -> None:
    """Write the VM's description; the disk file is the caller's to make."""
    folder = disk_path(home).parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vm.yaml").write_text(
        f"name: {VM}\ndisks:\n  - {{name: {DISK}, file: {DISK}.raw}}\n"
    )


def call(key: str, *, lease: int = 1) -> Call:
    return Call(key=key, plan=PLAN, vm=VM, job="job-1", lease=lease)


async def snapshot(sites: Sites, name: str) -> Snapshot:
    return await sites.east.source.open_snapshot(call(f"{name}/snapshot"), vm=VM)


async def generation(sites: Sites, name: str, taken: Snapshot, *, lease: int = 1) -> Generation:
    return await sites.west.target.open_generation(
        call(f"{name}/generation", lease=lease), disk=DISK, size=taken.disks[0].size
    )


async def current_mark(sites: Sites) -> str | None:
    """The mark of the current copy; None before the first iteration."""
    current = await sites.west.target.current(plan=PLAN, vm=VM)
    return current.mark if current is not None else None


async def _forget(_mark: Mark) -> None:
    pass


async def transfer(
    sites: Sites,
    name: str,
    taken: Snapshot,
    staged: Generation,
    *,
    since: str | None = None,
    resume: Mark | None = None,
    store: Callable[[Mark], Awaitable[None]] = _forget,
    progress: Callable[[Progress], None] = lambda _progress: None,
    settings: TransferSettings = SETTINGS,
) -> TransferResult:
    key = call(f"{name}/transfer/{DISK}", lease=staged.lease)
    return await copy_disk(
        sites.east.source,
        sites.west.target,
        request=TransferRequest(
            snapshot=taken,
            disk=DISK,
            generation=staged,
            since=since,
            resume=resume,
            source_call=key,
            target_call=key,
        ),
        progress=progress,
        checkpoint_mark=store,
        source_pace=sites.east_pace,
        target_pace=sites.west_pace,
        settings=settings,
    )


async def finalize(sites: Sites, name: str, taken: Snapshot, staged: Generation) -> CopyFacts:
    return await sites.west.target.finalize(
        call(f"{name}/finalize", lease=staged.lease),
        generations=[staged],
        manifest={"mark": taken.mark, "taken_at": taken.taken_at.isoformat()},
    )


async def close(sites: Sites, name: str, taken: Snapshot) -> None:
    await sites.east.source.close_snapshot(call(f"{name}/close"), snapshot_id=taken.snapshot_id)


async def iterate(sites: Sites, name: str) -> tuple[TransferResult, float]:
    """A whole iteration; seconds from opening the snapshot to the finalized copy."""
    since = await current_mark(sites)
    began_s = time.perf_counter()
    taken = await snapshot(sites, name)
    try:
        staged = await generation(sites, name, taken)
        result = await transfer(sites, name, taken, staged, since=since)
        await finalize(sites, name, taken, staged)
        return result, time.perf_counter() - began_s
    finally:
        await close(sites, name, taken)


async def rebuilt(sites: Sites, home: Path, name: str) -> Path:
    """The current copy's disk as a plain file, made the way a recovery makes it."""
    copy = await sites.west.target.current(plan=PLAN, vm=VM)
    assert copy is not None, "there is no copy"
    disk = await sites.west.compute.rebuild_disk(
        call(f"{name}/rebuild"), copy_id=copy.copy_id, disk=DISK
    )
    return home / "west" / "disks" / disk.disk_id / disk.file


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
