"""Reads partition tables, GPT and MBR. Owns where the volumes of a disk lie, not what is in them.

Written here rather than taken from a library: it is small, and every loop over bytes that anyone
may have written has a bound (UEFI 2.10 chapter 5; logical partitions as a chain of 128 at most).
"""

from __future__ import annotations

import binascii
import struct
import uuid
from collections.abc import Iterator
from typing import Final

import msgspec

from shared.windows.disks import ReadableDisk

_LOGICAL_MAX: Final = 128
_GPT_ENTRIES_MAX: Final = 1024
_SECTOR_BYTES: Final = (512, 4096)

_MBR_EMPTY: Final = 0x00
_MBR_EXTENDED: Final = (0x05, 0x0F, 0x85)
_MBR_DYNAMIC: Final = 0x42
_MBR_PROTECTIVE: Final = 0xEE
# Logical Disk Manager: the metadata and the data of dynamic disks.
_GPT_DYNAMIC: Final = frozenset(
    uuid.UUID(text).bytes_le
    for text in ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad")
)
# Where a boot sector of Windows names its file system. A volume may fill a disk without a table.
OEM: Final = slice(3, 11)
NTFS_OEM: Final = b"NTFS    "
BITLOCKER_OEM: Final = b"-FVE-FS-"


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a disk, in bytes; it may end behind the disk's end, as its table says."""

    number: int
    offset: int
    length: int
    dynamic: bool = False


class PartitionTable(msgspec.Struct, frozen=True, kw_only=True):
    """The partitions of a disk in the order of their table; `damaged` where it cannot be read."""

    partitions: tuple[Partition, ...] = ()
    damaged: bool = False


def read_partitions(disk: ReadableDisk) -> PartitionTable:
    """The partitions of a disk; none for an empty one. Raises only what the disk raises."""
    first = disk.read_at(0, 512)
    if first[OEM] in (NTFS_OEM, BITLOCKER_OEM):
        whole = Partition(number=0, offset=0, length=disk.size)
        return PartitionTable(partitions=(whole,))
    if len(first) < 512 or first[510:] != b"\x55\xaa":
        return _without_mbr(disk)
    entries = list(_entries(first))
    if any(kind == _MBR_PROTECTIVE for kind, _, _ in entries):
        return _gpt(disk) or PartitionTable(damaged=True)
    return PartitionTable(partitions=tuple(_mbr(disk, entries)))


def _without_mbr(disk: ReadableDisk) -> PartitionTable:
    """A GPT whose protective first sector was overwritten, or nothing at all."""
    table = _gpt(disk)
    return table if table is not None and table.partitions else PartitionTable()


def _entries(sector: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, first sector, sectors) of the four entries of a boot record."""
    for at in range(446, 510, 16):
        kind, first, count = struct.unpack_from("<4xB3xII", sector, at)
        yield kind, first, count


def _mbr(disk: ReadableDisk, entries: list[tuple[int, int, int]]) -> Iterator[Partition]:
    for number, (kind, first, count) in enumerate(entries, start=1):
        if kind in _MBR_EXTENDED:
            yield from _logical(disk, first)
        elif kind != _MBR_EMPTY and count and first * 512 < disk.size:
            yield _partition(number, kind, first, count)


def _logical(disk: ReadableDisk, extended: int) -> Iterator[Partition]:
    """The chain of boot records in an extended partition, each with one volume and the next."""
    record = extended
    for number in range(5, 5 + _LOGICAL_MAX):
        sector = disk.read_at(record * 512, 512)
        if len(sector) < 512 or sector[510:] != b"\x55\xaa":
            return
        (kind, first, count), (next_kind, next_first, _), *_ = _entries(sector)
        if kind != _MBR_EMPTY and count and (record + first) * 512 < disk.size:
            yield _partition(number, kind, record + first, count)
        if next_kind not in _MBR_EXTENDED:
            return
        record = extended + next_first


def _partition(number: int, kind: int, first: int, count: int) -> Partition:
    return Partition(
        number=number, offset=first * 512, length=count * 512, dynamic=kind == _MBR_DYNAMIC
    )


def _gpt(disk: ReadableDisk) -> PartitionTable | None:
    """The table by its first copy, else by the one at the disk's end; None if both are bad."""
    for sector in _SECTOR_BYTES:
        for at in (sector, disk.size - sector):
            if (table := _gpt_at(disk, at, sector)) is not None:
                return table
    return None


def _gpt_at(disk: ReadableDisk, at: int, sector: int) -> PartitionTable | None:
    header = disk.read_at(at, sector) if at >= 0 else b""
    if len(header) < sector or header[:8] != b"EFI PART":
        return None
    size, checksum = struct.unpack_from("<II", header, 12)
    if not 92 <= size <= sector:
        return None
    if binascii.crc32(header[:16] + bytes(4) + header[20:size]) != checksum:
        return None
    first, count, length, entries_checksum = struct.unpack_from("<QIII", header, 72)
    if count > _GPT_ENTRIES_MAX or length % 128 or not 128 <= length <= 1024:
        return None
    if first * sector > disk.size:
        return None
    entries = disk.read_at(first * sector, count * length)
    if len(entries) < count * length or binascii.crc32(entries) != entries_checksum:
        return None
    return PartitionTable(partitions=tuple(_gpt_partitions(disk, entries, length, sector)))


def _gpt_partitions(
    disk: ReadableDisk, entries: bytes, length: int, sector: int
) -> Iterator[Partition]:
    for number, at in enumerate(range(0, len(entries), length), start=1):
        kind = entries[at : at + 16]
        first, last = struct.unpack_from("<QQ", entries, at + 32)
        if kind == bytes(16) or last < first or first * sector >= disk.size:
            continue
        yield Partition(
            number=number,
            offset=first * sector,
            length=(last - first + 1) * sector,
            dynamic=kind in _GPT_DYNAMIC,
        )
