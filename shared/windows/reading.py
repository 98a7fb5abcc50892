"""Looks through the disks of one machine: partitions, volumes, Windows, drivers. Only reads.

Runs in the reader's process (`reader.py`). What is damaged becomes a `Problem` of the volume or
the Windows it was met in; only failures of the disks themselves are raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from shared.windows.disks import ReadableDisk
from shared.windows.errors import Damaged
from shared.windows.partitions import (
    BITLOCKER_OEM,
    NTFS_OEM,
    OEM,
    Partition,
    read_partitions,
)
from shared.windows.problems import problem
from shared.windows.registry import FoundValue, SystemHive
from shared.windows.structs import (
    DriverState,
    Place,
    Problem,
    StartValue,
    Volume,
    VolumeKind,
    WindowsFindings,
    WindowsSystem,
)
from shared.windows.volumes import NtfsFile, NtfsVolume

_MAP: Final = "damaged-file-system"
_KINDS: Final[dict[bytes, VolumeKind]] = {NTFS_OEM: "ntfs", BITLOCKER_OEM: "bitlocker"}
_HIVE: Final = "Windows\\System32\\config\\SYSTEM"
_WINDOWS: Final = "Windows\\"
_DRIVERS: Final = "System32\\drivers\\"
# How an image path may begin; what follows is below the folder of Windows.
_IMAGE_ROOTS: Final = ("\\systemroot\\", "%systemroot%\\", "\\??\\c:\\windows\\", "c:\\windows\\")


def read_machine(disks: Sequence[ReadableDisk], services: Sequence[str]) -> WindowsFindings:
    """What is on the disks, with the state of these drivers in every Windows there.

    Raises what the disks raise. The work on sound disks is bounded by the size of the hive; on
    hostile ones by the limits of the process that it runs in.
    """
    volumes: list[Volume] = []
    systems: list[WindowsSystem] = []
    problems: list[Problem] = []
    for number, disk in enumerate(disks):
        table = read_partitions(disk)
        if table.damaged:
            problems.append(problem("damaged-partition-table", f"disk {number + 1}"))
        for partition in table.partitions:
            volume, system = _read_volume(disk, number, partition, services)
            volumes.append(volume)
            systems += [system] if system is not None else []
    return WindowsFindings(
        volumes=tuple(volumes), systems=tuple(systems), problems=tuple(problems)
    )


def _read_volume(
    disk: ReadableDisk, number: int, partition: Partition, services: Sequence[str]
) -> tuple[Volume, WindowsSystem | None]:
    oem = disk.read_at(partition.offset, 512)[OEM]
    volume = Volume(
        disk=number,
        number=partition.number,
        offset=partition.offset,
        length=partition.length,
        kind=_KINDS.get(oem, "other"),
    )
    codes = ["dynamic-disk"] if partition.dynamic else []
    if partition.offset + partition.length > disk.size:
        codes.append("truncated-disk")
    system = None
    if volume.kind == "bitlocker":
        codes.append("bitlocker")
    elif volume.kind == "ntfs":
        try:
            ntfs = NtfsVolume(disk, partition.offset, partition.length)
            codes += ntfs.problems()
            if (file := ntfs.find(_HIVE)) is not None:
                system = _read_system(ntfs, file, volume, services)
        except Damaged as error:
            codes.append(error.code)
    problems = tuple(problem(code, volume.name) for code in codes)
    return msgspec.structs.replace(volume, problems=problems), system


def _read_system(
    ntfs: NtfsVolume, file: NtfsFile, volume: Volume, services: Sequence[str]
) -> WindowsSystem:
    codes = [
        code
        for code, holds in (
            ("registry-resident", file.resident),
            ("registry-compressed", file.compressed),
            ("registry-encrypted", file.encrypted),
        )
        if holds
    ]
    control_set, digest = "", ""
    drivers: tuple[DriverState, ...] = ()
    try:
        # What EFS has encrypted reads as noise; that it is damaged would be untrue.
        if not file.encrypted:
            hive = SystemHive(file)
            codes += [] if hive.clean else ["registry-not-clean"]
            drivers, masked = _read_drivers(ntfs, file, hive, volume, services)
            digest = hive.digest(masked)
            control_set = hive.control_set
    except Damaged as error:
        codes.append(error.code)
    return WindowsSystem(
        disk=volume.disk,
        partition=volume.number,
        control_set=control_set,
        registry_size=file.size,
        registry_digest=digest,
        drivers=drivers,
        problems=tuple(problem(code, volume.name) for code in codes),
    )


def _read_drivers(
    ntfs: NtfsVolume, file: NtfsFile, hive: SystemHive, volume: Volume, services: Sequence[str]
) -> tuple[tuple[DriverState, ...], list[int]]:
    """The drivers, and the offsets in the hive of all start types that could be written."""
    drivers: list[DriverState] = []
    offsets: list[int] = []
    for name in services:
        service = hive.service(name)
        image = driver_path(name, "" if service is None else service.image)
        driver = ntfs.find(image)
        starts = () if service is None else service.starts
        offsets += [found.offset for found in starts if found.offset is not None]
        drivers.append(
            DriverState(
                service=name,
                registered=service is not None,
                file=image,
                file_present=driver is not None and driver.size > 0,
                values=tuple(_start_value(ntfs, file, volume, name, found) for found in starts),
            )
        )
    return tuple(drivers), offsets


def _start_value(
    ntfs: NtfsVolume, file: NtfsFile, volume: Volume, service: str, found: FoundValue
) -> StartValue:
    """The value with its place on the disk, or with the reason why it has none."""
    subject = f"{service} ({found.name})"
    if found.offset is None:
        why = problem("start-type-elsewhere", subject)
        return StartValue(name=found.name, value=found.value, problem=why)
    if file.resident or file.compressed or file.encrypted:
        # The whole file is refused, with its own reason.
        return StartValue(name=found.name, value=found.value)
    inside = file.place(found.offset, 4)
    if inside is None:
        why = problem("registry-sparse", subject)
        return StartValue(name=found.name, value=found.value, problem=why)
    if ntfs.window.read_at(inside, 4) != found.value.to_bytes(4, "little"):
        raise Damaged(f"the place of {subject} on the disk does not hold its value", code=_MAP)
    place = Place(disk=volume.disk, offset=volume.offset + inside)
    return StartValue(name=found.name, value=found.value, place=place)


def driver_path(service: str, image: str) -> str:
    """Where the file of a driver lies, below the root of its volume.

    `image` is the ImagePath of its service; where there is none, Windows looks for the service's
    name in the folder of drivers.
    """
    path = image.replace("/", "\\").strip('"')
    if not path:
        return f"{_WINDOWS}{_DRIVERS}{service}.sys"
    for root in _IMAGE_ROOTS:
        if path.lower().startswith(root):
            path = path[len(root) :]
            break
    return _WINDOWS + path.lstrip("\\")
