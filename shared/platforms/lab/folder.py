"""The files of a lab site: safe names, atomic replacement, locks between processes.

Owns how the lab writes its own small files and how processes exclude each other. Does not own
what the files mean. The site folder itself is never created here: one that vanished stays gone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.errors import Permanent, Refused, SeawallError, Transient

LOCK_WAIT_S_MAX: Final = 10.0
# The kernel takes a page-cache folio as large as the write where it can. On virtual machines whose
# host takes free memory back, those come from memory that has to be faulted in anew: 2 GiB took
# 3.0–6.5 s of CPU in writes of 1 MiB and 0.8–1.3 s in writes of 128 KiB (Linux 6.18, ext4).
_WRITE_BYTES: Final = 128 * 1024
_LOCK_POLL_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}")


class SiteFolder:
    """The root of one site. Paths below it are made level by level, the root never."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(path))

    def require(self) -> None:
        """Raise Transient (`site-gone`) where the folder is not there. Costs one stat."""
        if not self.is_there():
            raise self.gone()

    def is_there(self) -> bool:
        """Whether the folder exists at this moment."""
        return os.path.isdir(self.root)

    def gone(self) -> Transient:
        """The error to raise for a folder that vanished."""
        return Transient(
            f"the site folder {self.root} is gone",
            code="site-gone",
            remedy="bring the folder back under the same path (mount it, restore it, rename it "
            "back); it is never created again by itself",
        )

    def ensure(self, *parts: str) -> Path:
        """The folder below the root, made where it is missing; the root itself must exist."""
        target = self.root.joinpath(*parts)
        try:
            os.mkdir(target)
            return target
        except FileExistsError:
            return target
        except FileNotFoundError:
            pass
        path = self.root
        for part in Path(*parts).parts:
            path = path / part
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
        return path

    def translate(self, error: OSError, attempt: str) -> SeawallError:
        """An operating-system error as one of our families; `attempt` says what was tried."""
        if not self.is_there():
            return self.gone()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return target_full(f"{attempt}: {error.strerror}", self.root)
        where = f" ({error.filename})" if error.filename else ""
        text = f"{attempt}: {error.strerror or error}{where}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Permanent(text, code="not-permitted", remedy="let this user write there")
        return Transient(text, code="io-error", remedy="look at the site folder and its disk")


def target_full(text: str, root: Path) -> Permanent:
    """The error of a target without room; nothing half-done is left behind by who raises it."""
    return Permanent(
        text,
        code="target-full",
        remedy=f"free space under {root}, or raise `capacity` in its site.yaml",
    )


def component(name: str) -> str:
    """`name` as one path component: plain names as they are, anything else percent-encoded."""
    if _PLAIN.fullmatch(name):
        return name
    if not name or len(name) > 200:
        raise Refused(f"{name[:40]!r} cannot be the name of an object", code="bad-name")
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}"
        for byte in name.encode()
    )


def short_hash(*parts: object, length: int = 12) -> str:
    """A stable short name for what the parts identify, for ids that repeats must meet again."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def replace_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace `path` by one rename. `durable`: file and folder are on stable storage after it.

    The modification time is set to the nanosecond, so that a reader's cache keyed by it cannot
    miss a second replacement within one tick of the kernel's coarse clock.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, memoryview(content), 0)
        now_ns = time.time_ns()
        os.utime(fd, ns=(now_ns, now_ns))
        if durable:
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        # Only the left-over goes; the error that made it is what the caller must see.
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    finally:
        os.close(fd)
    if durable:
        sync_folder(path.parent)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, piece by piece; a short write goes on."""
    written = 0
    while written < len(data):
        piece = data[written : written + _WRITE_BYTES]
        written += os.pwrite(fd, piece, offset + written)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_fd(fd: int, *, what: str, wait_s_max: float = LOCK_WAIT_S_MAX) -> None:
    """Take an exclusive lock on an open file, or raise Transient after `wait_s_max`.

    It polls instead of blocking, so that a holder that was stopped cannot hang its waiters. The
    kernel drops the lock with the last descriptor: a killed holder releases it at once.
    """
    deadline = time.monotonic() + wait_s_max
    tries = 0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Transient(
                    f"{what} is in use by another process for more than {wait_s_max:g} s",
                    code="busy",
                ) from None
        time.sleep(_LOCK_POLL_S[min(tries // 4, len(_LOCK_POLL_S) - 1)])
        tries += 1


@contextmanager
def locked(path: Path, *, wait_s_max: float = LOCK_WAIT_S_MAX) -> Iterator[int]:
    """Hold the lock of file `path` (made where missing) between threads and processes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock_fd(fd, what=str(path), wait_s_max=wait_s_max)
        yield fd
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Delete a file or folder, whoever else deletes it meanwhile; absent is fine."""
    try:
        with os.scandir(path) as entries:
            names = list(entries)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        _unlink(path)
        return
    for entry in names:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            _unlink(Path(entry.path))
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def _unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
