"""Sparse files: where their data lies, copying them without filling holes, punching holes.

Owns the system calls. `os.copy_file_range` was measured beside pread/pwrite with a warm buffer
on ext4 (1 GiB, half holes): 0.18 s and 0.19 s, so the kernel's copy is used, with the buffered
one where the file system refuses it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from shared.platforms.lab.folder import write_all

PIECE_BYTES: Final = 1 << 20
_COPY_STEP_BYTES: Final = 16 << 20
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_SYNC_WRITE: Final = 2
_ZERO_BYTES: Final = bytes(PIECE_BYTES)
_ZEROS: Final = memoryview(_ZERO_BYTES)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

_scratch = threading.local()

Checkpoint = Callable[[], None]
"""Called between pieces of a long copy; raises to stop it."""


def scratch() -> memoryview:
    """One 1 MiB buffer per thread, for whoever needs bytes only until it returns."""
    buffer: memoryview | None = getattr(_scratch, "buffer", None)
    if buffer is None:
        buffer = _scratch.buffer = memoryview(bytearray(PIECE_BYTES))
    return buffer


def is_zero(data: memoryview) -> bool:
    """Whether all bytes (at most 1 MiB) are zero.

    Copied first: comparing two memoryviews goes item by item, 3.5 ms a MiB against 0.1 ms.
    """
    return bytes(data) == _ZERO_BYTES[: len(data)]


def fill_zero(into: memoryview) -> None:
    """Zero a buffer of any length."""
    for start in range(0, len(into), PIECE_BYTES):
        part = into[start : start + PIECE_BYTES]
        part[:] = _ZEROS[: len(part)]


def read_full(fd: int, into: memoryview, offset: int) -> int:
    """Fill `into` from `offset`; returns how much there was before the end of the file."""
    done = os.preadv(fd, [into], offset)
    while 0 < done < len(into):
        more = os.preadv(fd, [into[done:]], offset + done)
        if more == 0:
            break
        done += more
    return done


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The (start, end) ranges of a file that hold data, within the range asked for."""
    while start < end:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, hole
        start = hole


def punch(fd: int, offset: int, length: int) -> None:
    """Make a range a hole; the size of the file stays."""
    if length <= 0:
        return
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    for start, end in data_ranges(fd, offset, offset + length):
        for at in range(start, end, PIECE_BYTES):
            write_all(fd, _ZEROS[: min(PIECE_BYTES, end - at)], at)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Let the disk begin to write a range (length 0: to the end), without waiting for it; a hint
    that may be ignored."""
    _libc.sync_file_range(fd, offset, length, _SYNC_WRITE)


def copy_range(
    source: int, target: int, start: int, end: int, *, pause: Checkpoint | None = None
) -> None:
    """Copy bytes to the same place of another file; short sources leave the rest untouched."""
    while start < end:
        if pause is not None:
            pause()
        try:
            step = os.copy_file_range(
                source, target, min(end - start, _COPY_STEP_BYTES), start, start
            )
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            step = _copy_piece(source, target, start, end)
        if step == 0:
            return
        start += step


def _copy_piece(source: int, target: int, start: int, end: int) -> int:
    buffer = scratch()[: min(end - start, PIECE_BYTES)]
    count = read_full(source, buffer, start)
    write_all(target, buffer[:count], start)
    return count


def allocated(path: str | os.PathLike[str]) -> int:
    """Bytes that a file takes on its disk."""
    return os.stat(path).st_blocks * 512
