"""Builds disks as Windows leaves them: NTFS by mkntfs, files by libntfs-3g, partition tables here.

Nothing is mounted and nothing needs root: the library of ntfs-3g, the same that `ntfscp` calls,
writes into the image. A test that needs these calls `require_ntfs` first.
"""

from __future__ import annotations

import binascii
import ctypes
import ctypes.util
import shutil
import stat
import struct
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from tests import parts

MIB: Final = 1 << 20
FIRST_BYTE: Final = MIB
"""Where the first partition of a disk begins, as Windows aligns it."""

_BASIC_DATA: Final = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7").bytes_le
_AT_DATA: Final = 0x80
_FILE_COMPRESSED: Final = 0x0800


def require_ntfs() -> None:
    """End the test where mkntfs or its library is absent, as `parts.require` does."""
    if _mkntfs() is None or _library_name() is None:
        parts.require("ntfs", "no `mkntfs` with libntfs-3g (Debian: ntfs-3g)")


def _mkntfs() -> str | None:
    return shutil.which("mkntfs") or shutil.which("mkntfs", path="/sbin:/usr/sbin")


def _library_name() -> str | None:
    return ctypes.util.find_library("ntfs-3g")


def make_volume(path: Path, *, size: int = 8 * MIB, start: int = FIRST_BYTE) -> None:
    """An empty NTFS volume in a file of its own."""
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)
    tool = _mkntfs()
    assert tool is not None, "require_ntfs() comes first"
    subprocess.run(
        [
            *(tool, "-F", "-q", "-Q", "-I", "-s", "512", "-c", "4096", "-H", "255", "-S", "63"),
            *("-p", str(start // 512), str(path)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )


class Volume:
    """An NTFS volume opened for writing by libntfs-3g; a context manager."""

    def __init__(self, path: Path) -> None:
        name = _library_name()
        assert name is not None, "require_ntfs() comes first"
        self._lib = _declared(ctypes.CDLL(name, use_errno=True))
        self._volume = self._lib.ntfs_mount(str(path).encode(), 0)
        if not self._volume:
            raise OSError(ctypes.get_errno(), f"ntfs_mount {path}")

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lib.ntfs_umount(self._volume, False):
            raise OSError(ctypes.get_errno(), "ntfs_umount")

    def add(self, name: str, data: bytes, *, compressed: bool = False, pieces: int = 1) -> None:
        """A file with its folders, in so many fragments: another file grows between them."""
        *folders, last = name.split("\\")
        parent = self._folder(folders)
        if compressed:
            self._compress(parent)
        file = self._create(parent, last, stat.S_IFREG)
        self._close(parent)
        between = None
        if pieces > 1:
            root = self._folder([])
            between = self._create(root, f"between-{last}", stat.S_IFREG)
            self._close(root)
        step = -(-len(data) // pieces)
        for number, at in enumerate(range(0, len(data), step)):
            self._write(file, at, data[at : at + step])
            if between is not None:
                self._write(between, number * 4096, b"x" * 4096)
        self._close(file)
        if between is not None:
            self._close(between)

    def _folder(self, names: Sequence[str]) -> int:
        inode = self._open("/")
        for depth, name in enumerate(names, start=1):
            path = "/" + "/".join(names[:depth])
            following = self._lib.ntfs_pathname_to_inode(self._volume, None, path.encode())
            following = following or self._create(inode, name, stat.S_IFDIR)
            self._close(inode)
            inode = following
        return inode

    def _open(self, path: str) -> int:
        inode = self._lib.ntfs_pathname_to_inode(self._volume, None, path.encode())
        if not inode:
            raise OSError(ctypes.get_errno(), path)
        return int(inode)

    def _create(self, parent: int, name: str, kind: int) -> int:
        letters = name.encode("utf-16-le")
        inode = self._lib.ntfs_create(parent, 0, letters, len(name), kind)
        if not inode:
            raise OSError(ctypes.get_errno(), name)
        return int(inode)

    def _write(self, inode: int, at: int, data: bytes) -> None:
        attribute = self._lib.ntfs_attr_open(inode, _AT_DATA, None, 0)
        if not attribute:
            raise OSError(ctypes.get_errno(), "ntfs_attr_open")
        done = self._lib.ntfs_attr_pwrite(attribute, at, len(data), data)
        closed = self._lib.ntfs_attr_pclose(attribute)
        self._lib.ntfs_attr_close(attribute)
        if done != len(data) or closed:
            raise OSError(ctypes.get_errno(), f"wrote {done} of {len(data)}")

    def _compress(self, folder: int) -> None:
        """Have the files compressed that will be made in a folder."""
        # ntfs-3g compresses where its mount option says so: bit 6 of the third word of a volume.
        state = ctypes.cast(self._volume, ctypes.POINTER(ctypes.c_ulong))
        state[2] |= 1 << 6
        flags = struct.pack("<I", _FILE_COMPRESSED)
        if self._lib.ntfs_set_ntfs_attrib(folder, flags, 4, 0):
            raise OSError(ctypes.get_errno(), "ntfs_set_ntfs_attrib")

    def _close(self, inode: int) -> None:
        if self._lib.ntfs_inode_close(inode):
            raise OSError(ctypes.get_errno(), "ntfs_inode_close")


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of what we call."""
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64
    lib.ntfs_mount.argtypes, lib.ntfs_mount.restype = (text, ctypes.c_ulong), pointer
    lib.ntfs_umount.argtypes = (pointer, ctypes.c_int)
    lib.ntfs_pathname_to_inode.argtypes = (pointer, pointer, text)
    lib.ntfs_pathname_to_inode.restype = pointer
    lib.ntfs_create.argtypes = (pointer, ctypes.c_uint32, text, ctypes.c_uint8, ctypes.c_uint)
    lib.ntfs_create.restype = pointer
    lib.ntfs_inode_close.argtypes = (pointer,)
    lib.ntfs_attr_open.argtypes = (pointer, ctypes.c_uint32, pointer, ctypes.c_uint32)
    lib.ntfs_attr_open.restype = pointer
    lib.ntfs_attr_pwrite.argtypes = (pointer, number, number, text)
    lib.ntfs_attr_pwrite.restype = number
    lib.ntfs_attr_pclose.argtypes = (pointer,)
    lib.ntfs_attr_close.argtypes, lib.ntfs_attr_close.restype = (pointer,), None
    lib.ntfs_set_ntfs_attrib.argtypes = (pointer, text, ctypes.c_size_t, ctypes.c_int)
    return lib


def gpt_disk(path: Path, volumes: Sequence[bytes], *, sector: int = 512) -> None:
    """A disk with a GUID partition table and its copy at the end, one partition per volume."""
    places, size = _layout(volumes)
    entries = bytearray(128 * 128)
    for number, (at, volume) in enumerate(zip(places, volumes, strict=True)):
        first, last = at // sector, (at + len(volume)) // sector - 1
        name = f"part{number}".encode("utf-16-le").ljust(72, b"\0")
        unique = uuid.UUID(int=number + 1).bytes_le
        entry = _BASIC_DATA + unique + struct.pack("<QQQ", first, last, 0) + name
        entries[number * 128 : number * 128 + 128] = entry
    last = size // sector - 1
    table = -(-len(entries) // sector)
    with path.open("wb") as file:
        file.truncate(size)
        file.write(_mbr([(0xEE, 1, min(size // 512 - 1, 0xFFFFFFFF))]))
        _put(file, sector, _gpt_header(entries, 1, last, 2, sector))
        _put(file, 2 * sector, bytes(entries))
        _put(file, (last - table) * sector, bytes(entries))
        _put(file, last * sector, _gpt_header(entries, last, 1, last - table, sector))
        for at, volume in zip(places, volumes, strict=True):
            _put(file, at, volume)


def mbr_disk(path: Path, volumes: Sequence[bytes], *, logical: bool = False) -> None:
    """A disk with a boot record; with `logical`, its volumes lie in an extended partition."""
    places, size = _layout(volumes)
    with path.open("wb") as file:
        file.truncate(size)
        for at, volume in zip(places, volumes, strict=True):
            _put(file, at, volume)
        spans = [
            (7, at // 512, len(volume) // 512) for at, volume in zip(places, volumes, strict=True)
        ]
        if not logical:
            _put(file, 0, _mbr(spans))
            return
        extended = FIRST_BYTE // 512 - 1
        _put(file, 0, _mbr([(0x0F, extended, size // 512 - extended)]))
        for number, (kind, first, count) in enumerate(spans):
            record = [(kind, 1, count)]
            if number + 1 < len(spans):
                record.append((0x05, spans[number + 1][1] - 1 - extended, 1))
            _put(file, (first - 1) * 512, _mbr(record))


def _layout(volumes: Sequence[bytes]) -> tuple[list[int], int]:
    """Where each volume begins, with a free MiB before each and at the end."""
    places, at = [], FIRST_BYTE
    for volume in volumes:
        places.append(at)
        at += -(-len(volume) // MIB) * MIB + MIB
    return places, at


def _put(file: BinaryIO, at: int, data: bytes) -> None:
    file.seek(at)
    file.write(data)


def _mbr(entries: Sequence[tuple[int, int, int]]) -> bytes:
    table = b"".join(struct.pack("<4xB3xII", *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def _gpt_header(entries: bytearray, here: int, other: int, table: int, sector: int) -> bytes:
    disk = uuid.UUID(int=99).bytes_le
    head = bytearray(
        struct.pack("<8sIIIIQQQQ", b"EFI PART", 0x10000, 92, 0, 0, here, other, 34, other)
    )
    head += disk + struct.pack("<QIII", table, 128, 128, binascii.crc32(entries))
    struct.pack_into("<I", head, 16, binascii.crc32(head))
    return bytes(head).ljust(sector, b"\0")
