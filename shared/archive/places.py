"""Opens the archive at the place that people name: a folder, or a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shared.archive.addresses import s3_address
from shared.archive.folder import FolderArchive
from shared.archive.port import Archive


def _folder(place: str) -> Path:
    return Path(place).expanduser().absolute()


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Archive]:
    """The archive at a place. Raises Refused for an address that is none, or no SDK settings."""
    address = s3_address(place)
    if address is None:
        yield FolderArchive(_folder(place))
        return
    # Imported only for such an address: the SDK takes longer to load than most commands take.
    from shared.archive.s3 import connected

    async with connected(address) as archive:
        yield archive
