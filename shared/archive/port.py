"""The port of a place for exports, and the folder that is one.

A file is whole or not there. Files are written once, and only the manifest is written again: an
object store can stand behind the same port.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from shared.errors import Refused

_LOCK: Final = ".lock"


class Archive(Protocol):
    """Files by name; names are relative paths of plain words. Calls block."""

    def put(self, name: str, content: bytes) -> None:
        """Keep `content` durably under `name`, in place of what was there."""

    def get(self, name: str) -> bytes | None:
        """The content kept under `name`, None if there is none."""

    def has(self, name: str) -> bool: ...

    def delete(self, name: str) -> None:
        """Forget a name; one that is not there is no error."""


class FolderArchive:
    """An export in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)

    def get(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else write here meanwhile. Raises Refused `export-running`."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._root / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    f"another export writes to {self._root}",
                    remedy="wait for it to end, or choose another folder",
                    code="export-running",
                ) from None
            yield


def _sync(folder: Path) -> None:
    """Make a rename durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
