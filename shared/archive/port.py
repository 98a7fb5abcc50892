"""The port of a place for exports.

A file is whole or not there. A name holds the same content for ever, whoever writes it; only the
manifest is written anew, by a swap. So an export that is late, or that loses against another one,
cannot spoil what the manifest names. `folder.py` and `s3.py` are such places.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Archive(Protocol):
    """Files by name; names are relative paths of plain words. Calls may run side by side."""

    async def put(self, name: str, content: bytes) -> None:
        """Keep `content` durably under `name`, in place of what was there."""

    async def swap(self, name: str, content: bytes, *, instead_of: bytes | None) -> None:
        """Keep `content` durably in place of exactly `instead_of`, None for nothing.

        Raises AnotherExport where something else is there; it then stays. Where the answer of a
        call is lost, the caller hears what came of it.
        """

    async def get(self, name: str) -> bytes | None:
        """The content kept under `name`, None if there is none."""

    async def missing(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are not kept, in their order."""

    async def delete(self, name: str) -> None:
        """Forget a name; one that is not there is no error."""

    def alone(self) -> AbstractAsyncContextManager[None]:
        """While inside, of several exports at most one can swap the manifest it read.

        Raises AnotherExport where that shows at once, else the loser's swap does; Refused where
        the place cannot give this promise.
        """
