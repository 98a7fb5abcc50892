"""Changes an NTFS volume or a hive as trouble would: flags, journals, signatures, maps of files.

Works on the bytes of a volume whose master file table is in one piece, as mkntfs leaves it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from tests.windows.hives import sign

RECORD: Final = 1024
_VOLUME: Final = 3
_JOURNAL: Final = 2
_INFORMATION: Final = 0x70
_FILE_NAME: Final = 0x30
_DATA: Final = 0x80
_CLUSTER: Final = 4096
_RECORDS_MAX: Final = 256


def set_dirty(volume: bytearray) -> None:
    """Mark a volume to be checked."""
    at = _value(volume, _VOLUME, _INFORMATION) + 10
    (flags,) = struct.unpack_from("<H", volume, at)
    struct.pack_into("<H", volume, at, flags | 1)


def set_journal(volume: bytearray, pages: bytes) -> None:
    """Replace the beginning of $LogFile."""
    at = first_byte(volume, _JOURNAL)
    volume[at : at + len(pages)] = pages


def restart_page(*, lsn: int, clean: bool, major: int = 1) -> bytes:
    """A restart page of the journal, 4096 bytes."""
    page = bytearray(4096)
    struct.pack_into("<4sHHqIIHhh", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, major)
    in_use, flags = (0xFFFF, 0x0002) if clean else (0, 0)
    struct.pack_into("<qHHHH", page, 48, lsn, 1, 0xFFFF, in_use, flags)
    return bytes(page)


def set_bitlocker(volume: bytearray) -> None:
    """The signature of an encrypted volume, and noise behind it."""
    volume[3:11] = b"-FVE-FS-"
    noise = bytes((n * 7 + n // 251) % 256 for n in range(4096))
    volume[512:] = (noise * (len(volume) // 4096))[512:]


def set_data_flags(volume: bytearray, name: str, flags: int) -> None:
    """Say that the content of a file is encrypted (0x4000) or something else."""
    at = _attribute(volume, record_of(volume, name), _DATA)
    struct.pack_into("<H", volume, at + 12, flags)


def set_valid_length(volume: bytearray, name: str, length: int) -> None:
    """Say that only so much of a file was ever written."""
    at = _attribute(volume, record_of(volume, name), _DATA)
    struct.pack_into("<q", volume, at + 56, length)


def first_byte(volume: bytearray, record: int, *, kind: int = _DATA) -> int:
    """Where in the volume the content of an attribute that is not resident begins."""
    at = _attribute(volume, record, kind)
    (pairs,) = struct.unpack_from("<H", volume, at + 32)
    header = volume[at + pairs]
    lengths, offsets = header & 15, header >> 4
    start = at + pairs + 1 + lengths
    return int.from_bytes(volume[start : start + offsets], "little", signed=True) * _CLUSTER


def record_of(volume: bytearray, name: str) -> int:
    """Number of the file record that carries a name."""
    letters = name.encode("utf-16-le")
    for number in range(_RECORDS_MAX):
        for kind, at in attributes(volume, number):
            if kind != _FILE_NAME:
                continue
            (value,) = struct.unpack_from("<H", volume, at + 20)
            start = at + value + 66
            length = volume[at + value + 64] * 2
            if volume[start : start + length] == letters:
                return number
    raise AssertionError(f"no file {name}")


def record_offset(volume: bytearray, number: int) -> int:
    """Where a file record lies in the volume."""
    (mft,) = struct.unpack_from("<Q", volume, 48)
    return int(mft) * _CLUSTER + number * RECORD


def edit_base_block(hive: bytes, at: int, value: int, *, signed: bool = True) -> bytes:
    """A hive with one word of its base block replaced, the checksum made right again or not."""
    base = bytearray(hive[:4096])
    struct.pack_into("<I", base, at, value)
    if signed:
        sign(base)
    return bytes(base) + hive[4096:]


def attributes(volume: bytearray, number: int) -> Iterator[tuple[int, int]]:
    """(type, offset in the volume) of the attributes in a file record."""
    start = record_offset(volume, number)
    if volume[start : start + 4] != b"FILE":
        return
    (at,) = struct.unpack_from("<H", volume, start + 20)
    while at < RECORD - 8:
        kind, length = struct.unpack_from("<II", volume, start + at)
        if kind == 0xFFFFFFFF or length == 0:
            return
        yield kind, start + at
        at += length


def _attribute(volume: bytearray, number: int, kind: int) -> int:
    return next(at for found, at in attributes(volume, number) if found == kind)


def _value(volume: bytearray, number: int, kind: int) -> int:
    at = _attribute(volume, number, kind)
    (value,) = struct.unpack_from("<H", volume, at + 20)
    return int(at + value)
