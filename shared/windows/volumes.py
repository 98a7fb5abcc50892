"""Reads an NTFS volume: whether it was left in order, and files by their paths.

With `registry.py` the only module that knows the dissect packages (AGPL, decision 0035); it runs
in the reader's process. Whatever those packages raise on damaged bytes leaves here as `Damaged`.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dissect.ntfs.exceptions
import dissect.regf.exceptions
from dissect.ntfs import NTFS
from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE
from dissect.ntfs.util import segment_reference

from shared.windows.disks import ReadableDisk
from shared.windows.errors import Damaged
from shared.windows.partitions import NTFS_OEM, OEM

# Everything that reading bytes as something they are not was seen to raise. A crash of another
# kind ends the reader's process, which its parent reports.
ODD: Final = (
    dissect.ntfs.exceptions.Error,
    dissect.regf.exceptions.Error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    struct.error,
    TypeError,
    ValueError,
)

_BLOCK_BYTES: Final = 64 * 1024
_BLOCKS_KEPT_MAX: Final = 256
_READ_BYTES_MAX: Final = 32 << 20
_INDEX_DEPTH_MAX: Final = 16
_INDEX_BUFFER_BYTES_MAX: Final = 64 * 1024
_CLUSTER_BYTES_MAX: Final = 2 << 20
_RECORD_BYTES: Final = (512, 1024, 2048, 4096)

_VOLUME_RECORD: Final = 3
_JOURNAL_RECORD: Final = 2
_ROOT_RECORD: Final = 5
_DIRTY: Final = 0x0001
_CHKDSK_UNDERWAY: Final = 0x4000

COMPRESSED: Final = 0x00FF
ENCRYPTED: Final = 0x4000

_NO_CLIENT: Final = 0xFFFF
_RESTART_CLEAN: Final = 0x0002


@contextmanager
def damage(what: str, code: str = "damaged-file-system") -> Iterator[None]:
    """Whatever the readers raise on bytes that make no sense becomes `Damaged`, about `what`;
    `code` is that of the problem it will be told as."""
    try:
        yield
    except ODD as error:
        message = f"{what} cannot be read: {type(error).__name__}: {error}"
        raise Damaged(message, code=code) from error


class Window(io.RawIOBase):
    """A range of a disk as the file that the dissect packages want, with a small cache."""

    def __init__(self, disk: ReadableDisk, offset: int, length: int) -> None:
        super().__init__()
        self._disk = disk
        self._offset = offset
        self._length = min(length, max(0, disk.size - offset))
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As files do; more than 32 MiB at once is a ValueError: nothing sound asks for it."""
        left = max(0, self._length - self._at)
        size = left if size is None or size < 0 else min(size, left)
        data = self.read_at(self._at, size)
        self._at += len(data)
        return data

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes of a range of the volume; fewer where it ends. ValueError over 32 MiB."""
        if length > _READ_BYTES_MAX or offset < 0:
            raise ValueError(f"read of {length} bytes at {offset}")
        end = min(offset + length, self._length)
        pieces = []
        while offset < end:
            start = offset - offset % _BLOCK_BYTES
            piece = self._block(start)[offset - start : end - start]
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def _block(self, start: int) -> bytes:
        if (block := self._blocks.get(start)) is not None:
            self._blocks.move_to_end(start)
            return block
        length = min(_BLOCK_BYTES, self._length - start)
        block = self._blocks[start] = self._disk.read_at(self._offset + start, length)
        if len(self._blocks) > _BLOCKS_KEPT_MAX:
            self._blocks.popitem(last=False)
        return block


class NtfsVolume:
    """An NTFS volume, opened. All methods raise `Damaged`, and what the disk raises."""

    def __init__(self, disk: ReadableDisk, offset: int, length: int) -> None:
        self.window = Window(disk, offset, length)
        with damage("the file system"):
            _check_boot_sector(self.window.read_at(0, 512), length)
            # Streams that we never use, so that damage in their files does not concern us.
            self._ntfs = NTFS(self.window, sds=io.BytesIO(b"\0"), usnjrnl=io.BytesIO(b"\0"))
            self.cluster_size = int(self._ntfs.cluster_size)

    def problems(self) -> tuple[str, ...]:
        """Codes of what forbids writing into this volume."""
        found = []
        with damage("the state of the volume"):
            if self._is_dirty():
                found.append("dirty-volume")
            if not self._journal_is_clean():
                found.append("journal-not-clean")
            if self._is_hibernated():
                found.append("hibernated")
        return tuple(found)

    def find(self, path: str) -> NtfsFile | None:
        """The file of a path below the root, `\\` between names that ignore case; None if there
        is no such file, or a folder on the way is a link to elsewhere."""
        with damage(path):
            record = self._record(_ROOT_RECORD)
            for name in path.split("\\"):
                if not record.is_dir() or record.is_reparse_point():
                    return None
                if (reference := self._entry(record, name)) is None:
                    return None
                record = self._record(segment_reference(reference))
                if record.header.SequenceNumber != reference.SequenceNumber:
                    raise ValueError("a directory entry points to another file")
            return None if record.is_dir() else NtfsFile(self, record)

    def _record(self, number: int) -> Any:
        record = self._ntfs.mft.get(number)
        if not record.header.Flags & 1 or segment_reference(record.header.BaseFileRecordSegment):
            raise ValueError(f"file record {number} is not in use")
        return record

    def _entry(self, directory: Any, name: str) -> Any:
        """The reference of a name in a directory's B-tree, or None. Descends at most 16 levels:
        the packages' own search follows a node that points to itself for ever."""
        index = directory.index("$I30")
        if not 512 <= index.root.bytes_per_index_buffer <= _INDEX_BUFFER_BYTES_MAX:
            raise ValueError(f"index buffers of {index.root.bytes_per_index_buffer} bytes")
        if not directory.attributes.find("$I30", ATTRIBUTE_TYPE_CODE.INDEX_ROOT).resident:
            raise ValueError("an index root outside its file record")
        wanted = _upper(name)
        entries = index.root.entries()
        for _ in range(_INDEX_DEPTH_MAX):
            node = None
            for entry in entries:
                key = "" if entry.is_end else _upper(_name_of(entry.buf))
                if key == wanted and not entry.is_end:
                    return entry.header.FileReference
                if entry.is_end or key > wanted:
                    node = entry.node_vcn if entry.is_node else None
                    break
            if node is None:
                return None
            entries = index.index_buffer(node).entries()
        raise ValueError("an index deeper than any")

    def _is_dirty(self) -> bool:
        information = self._record(_VOLUME_RECORD).attributes[
            ATTRIBUTE_TYPE_CODE.VOLUME_INFORMATION
        ]
        (flags,) = struct.unpack_from("<10xH", information.data())
        return bool(flags & (_DIRTY | _CHKDSK_UNDERWAY))

    def _journal_is_clean(self) -> bool:
        journal = NtfsFile(self, self._record(_JOURNAL_RECORD))
        return journal_is_clean(journal.read(0, min(journal.size, 128 * 1024)))

    def _is_hibernated(self) -> bool:
        file = self.find("hiberfil.sys")
        return file is not None and is_hibernation(file.read(0, min(file.size, 4096)))


class NtfsFile:
    """The content of a file: how it is stored, and where."""

    def __init__(self, volume: NtfsVolume, record: Any) -> None:
        self._volume = volume
        with damage("a file"):
            attributes = record.attributes.find("", ATTRIBUTE_TYPE_CODE.DATA)
            # Size, flags and valid length stand in the first part of a map in several parts.
            first = min(attributes, key=lambda part: int(part.header.lowest_vcn or 0)).header
            self.size = int(attributes.size())
            self.resident = bool(first.resident)
            self.compressed = bool(first.flags & COMPRESSED) or bool(record.is_reparse_point())
            self.encrypted = bool(first.flags & ENCRYPTED)
            self.stream = record.open()
            self._runs = () if self.resident else _runs(attributes)
            valid = self.size if self.resident else first.header.Form.Nonresident.ValidDataLength
            self._valid = int(valid)
            if self.size < 0:
                raise ValueError(f"size {self.size}")

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range of the content; fewer where it ends."""
        with damage("a file"):
            self.stream.seek(offset)
            data: bytes = self.stream.read(max(0, min(length, self.size - offset)))
            return data

    def place(self, offset: int, length: int) -> int | None:
        """Where a range of the content lies in the volume; None where no cluster holds all of it:
        in a hole, across fragments, or behind what was ever written."""
        if offset < 0 or offset + length > self._valid:
            return None
        at, cluster = 0, self._volume.cluster_size
        for start, count in self._runs:
            end = at + count * cluster
            if at <= offset < end:
                if start is None or offset + length > end:
                    return None
                return start * cluster + offset - at
            at = end
        return None


def _runs(attributes: Any) -> tuple[tuple[int | None, int], ...]:
    """(first cluster or None for a hole, clusters) in order, from all parts of the attribute."""
    runs: list[tuple[int | None, int]] = []
    vcn = 0
    for part in sorted(attributes, key=lambda each: int(each.header.lowest_vcn)):
        if part.header.lowest_vcn != vcn:
            raise ValueError("a part of the file's map is missing")
        for start, count in part.header.dataruns():
            if count <= 0 or (start is not None and start < 0):
                raise ValueError("a run of clusters that cannot be")
            runs.append((start, count))
            vcn += count
    return tuple(runs)


def _check_boot_sector(sector: bytes, length: int) -> None:
    """ValueError for geometry that no NTFS has, before anything is computed from it."""
    if len(sector) < 512 or sector[OEM] != NTFS_OEM:
        raise ValueError("no NTFS boot sector")
    sector_size, per_cluster = struct.unpack_from("<HB", sector, 11)
    total, mft = struct.unpack_from("<QQ", sector, 40)
    (record,) = struct.unpack_from("<b", sector, 64)
    if sector_size not in (512, 1024, 2048, 4096):
        raise ValueError(f"sectors of {sector_size} bytes")
    cluster = sector_size * (per_cluster if per_cluster <= 0x80 else 1 << (256 - per_cluster))
    if not 0 < cluster <= _CLUSTER_BYTES_MAX or cluster & (cluster - 1):
        raise ValueError(f"clusters of {cluster} bytes")
    if (1 << -record if -12 <= record < 0 else record * cluster) not in _RECORD_BYTES:
        raise ValueError("file records of an unknown size")
    if not 0 < mft * cluster < length or total * sector_size > length:
        raise ValueError("a file system larger than its partition")


def _name_of(key: bytes) -> str:
    return key[66 : 66 + key[64] * 2].decode("utf-16-le", "replace")


def _upper(name: str) -> str:
    """Upper case letter by letter, as NTFS collates: no letter becomes two."""
    return "".join(up if len(up := letter.upper()) == 1 else letter for letter in name)


def is_hibernation(header: bytes) -> bool:
    """Whether a hiberfil.sys holds a system to be resumed. `WAKE` is one that was resumed;
    all zeros is one that is not in use; what is unknown counts as hibernated."""
    return bool(header.strip(b"\0")) and header[:4].upper() != b"WAKE"


def journal_is_clean(pages: bytes) -> bool:
    """Whether the start of $LogFile says that the volume was dismounted in order.

    All 0xFF is a journal that was reset. Else the newer of the two restart pages counts: it must
    say *clean* or have no client. A journal of version 2 belongs to a volume that a Windows since
    8 has mounted: dismounting brings it back to 1.1. The same test as ntfs-3g's.
    """
    if not pages.strip(b"\xff"):
        return bool(pages)
    restarts = [page for at in _restart_pages(pages) if (page := _restart(pages, at)) is not None]
    if not restarts:
        return False
    _, clean = max(restarts)
    return clean


def _restart_pages(pages: bytes) -> Sequence[int]:
    (page,) = struct.unpack_from("<I", pages.ljust(20, b"\0"), 16)
    return (0, page) if page in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536) else (0,)


def _restart(pages: bytes, at: int) -> tuple[int, bool] | None:
    """(sequence number, clean) of a restart page, None if it is not one."""
    if pages[at : at + 4] != b"RSTR" or len(pages) < at + 512:
        return None
    area, _, major = struct.unpack_from("<Hhh", pages, at + 24)
    # The last two bytes of a sector are a fix-up, not content.
    if area > 512 - 24 or area % 8:
        return None
    lsn, in_use, flags = struct.unpack_from("<q4xHH", pages, at + area)
    return lsn, major < 2 and (in_use == _NO_CLIENT or bool(flags & _RESTART_CLEAN))
