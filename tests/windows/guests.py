"""Windows machines to prepare: a volume with a Windows on it, and disks of such volumes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.windows.drivers import DriverTarget, driver_target
from tests.windows.hives import Driver, system_hive
from tests.windows.images import FIRST_BYTE, MIB, Volume, make_volume

HIVE: Final = "Windows\\System32\\config\\SYSTEM"
DRIVERS: Final = "Windows\\System32\\drivers\\"
IMAGE: Final = "System32\\drivers\\"
DRIVER_FILE: Final = b"MZ" + bytes(range(256)) * 20

USUAL: Final[Mapping[str, Driver]] = {
    "viostor": Driver(start=3, image=IMAGE + "viostor.sys"),
    "netkvm": Driver(start=3),
    "stornvme": Driver(start=0, image="\\SystemRoot\\" + IMAGE + "stornvme.sys", override=3),
}
FILES: Final = tuple(DRIVERS + f"{name}.sys" for name in USUAL)
SERVICES: Final = (*USUAL, "vioscsi")
TARGET: Final = driver_target("test", ["viostor"], ["netkvm"])
NVME: Final = driver_target("test-nvme", ["stornvme"], [])


def usual_hive(**settings: object) -> bytes:
    """The SYSTEM hive of the usual machine."""
    return system_hive(dict(USUAL), **settings)  # type: ignore[arg-type]


def volume(
    hive: bytes | None,
    *,
    files: tuple[str, ...] = FILES,
    extra: tuple[tuple[str, bytes], ...] = (),
    size: int = 8 * MIB,
    start: int = FIRST_BYTE,
    compressed: bool = False,
    pieces: int = 1,
) -> bytes:
    """A volume with that hive, driver files and others; a Windows shut down in order."""
    with tempfile.TemporaryDirectory(prefix="seawall-test-ntfs-") as folder:
        path = Path(folder) / "volume"
        make_volume(path, size=size, start=start)
        with Volume(path) as ntfs:
            if hive is not None:
                ntfs.add(HIVE, hive, compressed=compressed, pieces=pieces)
            for name in files:
                ntfs.add(name, DRIVER_FILE)
            for name, data in extra:
                ntfs.add(name, data)
        return path.read_bytes()


@functools.cache
def usual_volume() -> bytes:
    """The volume that most tests begin with."""
    return volume(usual_hive())


@functools.cache
def data_volume() -> bytes:
    """An NTFS volume without a Windows."""
    return volume(None, files=(), extra=(("Windows\\notes.txt", b"none here"),), size=4 * MIB)


def changed(before: bytes, after: bytes) -> list[int]:
    """Offsets of the bytes that differ."""
    assert len(before) == len(after)
    return [
        at
        for start in range(0, len(before), 4096)
        if before[start : start + 4096] != after[start : start + 4096]
        for at in range(start, start + 4096)
        if before[at : at + 1] != after[at : at + 1]
    ]


def target_with(*storage: str) -> DriverTarget:
    """A target that needs these storage drivers only."""
    return driver_target("test", storage, [])
