"""An export in a folder of this machine. One export at a time, by a lock on a file in it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

from shared.archive.errors import AnotherExport

_LOCK: Final = ".lock"


class FolderArchive:
    """The port `Archive` over a folder, which is made when first written to."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, content: bytes) -> None:
        await asyncio.to_thread(_write, self._root / name, content)

    async def swap(self, name: str, content: bytes, *, instead_of: bytes | None) -> None:
        """Nothing can come between comparing and writing for who is alone here."""
        if await self.get(name) != instead_of:
            raise AnotherExport(f"{self._root / name} was written meanwhile")
        await self.put(name, content)

    async def get(self, name: str) -> bytes | None:
        return await asyncio.to_thread(_read, self._root / name)

    async def missing(self, names: Sequence[str]) -> list[str]:
        def look() -> list[str]:
            return [name for name in names if not (self._root / name).is_file()]

        return await asyncio.to_thread(look)

    async def delete(self, name: str) -> None:
        path = self._root / name
        await asyncio.to_thread(path.unlink, missing_ok=True)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        with self._locked():
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._root / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AnotherExport(f"another export writes to {self._root}") from None
            yield


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make a rename durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
