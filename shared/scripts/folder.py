"""The folder of one run: made and locked by its guard, removed whatever the script did to it.

Standard library only, and cheap to import: the guard process uses it, and the service's sweep.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

TYPE_CHECKING = False  # importing `typing` for the real one would cost the guard its quick start
if TYPE_CHECKING:
    from typing import Any

FOLDER_PREFIX = "seawall-script-"
CONTEXT_NAME = "context.json"


def remove_folder(path: str) -> None:
    """Remove a folder and all in it, never following a link out of it; absent is fine.

    Nested folders are moved up one level before removal: a script may nest deeper than any
    recursion or path length allows.
    """
    try:
        top = _open_folder(path, None)
    except FileNotFoundError:
        return
    try:
        while names := os.listdir(top):
            for name in names:
                if stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                    _empty_into(top, name)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _open_folder(name: str, parent: int | None) -> int:
    if os.geteuid() != 0 and not os.path.islink(name):
        os.chmod(name, 0o700, dir_fd=parent)  # a script may have locked its own folder
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _empty_into(top: int, name: str) -> None:
    inner = _open_folder(name, top)
    try:
        for child in os.listdir(inner):
            if stat.S_ISDIR(os.lstat(child, dir_fd=inner).st_mode):
                if os.geteuid() != 0:
                    os.chmod(child, 0o700, dir_fd=inner)
                os.rename(child, os.urandom(12).hex(), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)


def lock_folder(path: str) -> int | None:
    """Descriptor holding the folder's lock, or None while its guard lives.

    The lock is the guard's life: it ends with the process, cannot be taken over by a recycled
    pid, and holds across pid namespaces that share the folder's parent.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def make_folder(root: str) -> tuple[str, int]:
    """A new folder below `root` and the descriptor that holds its lock. Raises OSError."""
    for _ in range(10):
        path = f"{root}/{FOLDER_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
        os.mkdir(path, 0o700)
        lock = lock_folder(path)
        # A sweep may have taken the folder between the two calls: then it is gone, try again.
        if lock is not None and os.path.isdir(path):
            return path, lock
    raise OSError(errno.EBUSY, "could not lock a new folder", root)


def _write_file(path: str, content: bytes, *, mode: int, owner: tuple[int, int] | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if owner is not None:
            os.fchown(descriptor, *owner)


def fill_folder(folder: str, job: dict[str, Any]) -> None:
    """The script, its context and the folders it may write to, all of its user. Raises OSError."""
    owner = job["owner"]
    for name in ("work", "tmp"):
        os.mkdir(f"{folder}/{name}", 0o700)
        if owner is not None:
            os.chown(f"{folder}/{name}", *owner)
    _write_file(f"{folder}/{job['script_name']}", job["content"], mode=0o400, owner=owner)
    _write_file(f"{folder}/{CONTEXT_NAME}", job["context"], mode=0o600, owner=owner)
    if owner is not None:
        os.chown(folder, *owner)
