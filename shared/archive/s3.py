"""An export under a prefix of a bucket of S3, or of what speaks its language.

Endpoint, region and credentials are the SDK's own settings. Of two exports that overlap one loses:
the manifest is written on the condition that it is what it was (decision 0033). Calls are repeated
here and nowhere else: the SDK's own repeats are off, since they do not cover reading a body.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from shared.archive.addresses import S3Address
from shared.archive.errors import AnotherExport, StoreRefused
from shared.archive.parallel import PARALLEL_MAX
from shared.archive.s3_errors import Absent, Changed, explained
from shared.errors import Transient

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 60.0
"""Without a byte."""

TRIES_MAX: Final = 6
BACKOFF_S: Final = 0.25
BACKOFF_S_MAX: Final = 8.0
"""Before try n + 1: anything up to BACKOFF_S · 2ⁿ, so that eight calls do not come back as one.
Altogether up to some 16 s, which is what a store needs to take a prefix apart."""

LISTED_MAX: Final = 1_000
"""Names in an answer: no store gives more."""

PROBE: Final = ".conditions"
"""An empty object that shows whether the store heeds conditions."""

_NO_ETAG: Final = '"00000000000000000000000000000000"'
_RAISED: Final = (BotoCoreError, ClientError, aiohttp.ClientError, TimeoutError)

T = TypeVar("T")


@asynccontextmanager
async def connected(address: S3Address) -> AsyncIterator[S3Archive]:
    """The archive at an address, over one client. Whether it can be reached, its calls tell."""
    config = AioConfig(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=PARALLEL_MAX,
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                aioboto3.Session().client("s3", config=config)
            )
        except (BotoCoreError, ValueError) as raised:
            raise explained(raised, doing="begin", address=address) from raised
        yield S3Archive(client, address)


class S3Archive:
    """The port `Archive` over a client of the SDK."""

    def __init__(self, client: Any, address: S3Address) -> None:
        self._client = client
        self._address = address
        self._kept: dict[str, set[str]] = {}

    async def put(self, name: str, content: bytes) -> None:
        await self._put(name, content)
        if (kept := self._kept.get(_folder(name))) is not None:
            kept.add(name)

    async def swap(self, name: str, content: bytes, *, instead_of: bytes | None) -> None:
        there, etag = await self._read(name)
        if there != instead_of:
            raise self._another(name)
        condition = {"IfNoneMatch": "*"} if there is None else {"IfMatch": etag}
        try:
            await self._put(name, content, **condition)
        except (Absent, Changed) as lost:
            # A try whose answer was lost may have been done: then this is what lies there.
            if (await self._read(name))[0] != content:
                raise self._another(name) from lost

    async def get(self, name: str) -> bytes | None:
        return (await self._read(name))[0]

    async def missing(self, names: Sequence[str]) -> list[str]:
        """The first question about a folder lists it, a thousand names a call; what this process
        puts there later is remembered."""
        for folder in {_folder(name) for name in names} - self._kept.keys():
            self._kept[folder] = await self._listed(folder)
        return [name for name in names if name not in self._kept[_folder(name)]]

    async def delete(self, name: str) -> None:
        where = self._where(name)
        await self._repeated(f"delete {name}", lambda: self._client.delete_object(**where))
        self._kept.get(_folder(name), set()).discard(name)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody is kept out; see only that the store will refuse the loser's swap.

        A lock would have to be a lease, whose holder may be late all the same: what is written
        last must be conditional with it or without. Nothing else needs protection (port.py).
        """
        none_match = {"IfNoneMatch": "*"}
        heeds = (await self._refuses(**none_match) or await self._refuses(**none_match)) and (
            await self._refuses(IfMatch=_NO_ETAG)
        )
        if not heeds:
            raise StoreRefused(
                f"the store of {self._address} does not heed the conditions of a write: two"
                " exports could spoil each other",
                remedy="use a store, or a version of it, that knows If-None-Match and If-Match"
                " for PutObject",
                code="no-conditional-writes",
            )
        yield

    async def _refuses(self, **condition: str) -> bool:
        try:
            await self._put(PROBE, b"", **condition)
        except (Absent, Changed):
            return True
        return False

    async def _put(self, name: str, content: bytes, **condition: str) -> None:
        where = self._where(name)
        await self._repeated(
            f"write {name}", lambda: self._client.put_object(**where, Body=content, **condition)
        )

    async def _read(self, name: str) -> tuple[bytes | None, str]:
        """The content and its tag, None and "" where there is none."""
        where = self._where(name)

        async def read() -> tuple[bytes, str]:
            answer = await self._client.get_object(**where)
            async with answer["Body"] as body:
                return await body.read(), answer["ETag"]

        try:
            return await self._repeated(f"read {name}", read)
        except Absent:
            return None, ""

    async def _page(self, folder: str, page: dict[str, Any]) -> Any:
        return await self._repeated(
            f"list {folder}/", lambda: self._client.list_objects_v2(**page)
        )

    async def _listed(self, folder: str) -> set[str]:
        cut = len(self._address.key(""))
        begin = {
            "Bucket": self._address.bucket,
            "Prefix": self._address.key(f"{folder}/"),
            "MaxKeys": LISTED_MAX,
        }
        names: set[str] = set()
        more: dict[str, str] = {}
        while True:
            answer = await self._page(folder, begin | more)
            names.update(each["Key"][cut:] for each in answer.get("Contents", ()))
            if not answer.get("IsTruncated"):
                return names
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    async def _repeated(self, doing: str, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` gives. A failure that may pass is tried again, `TRIES_MAX` times in all."""
        tries = 0
        while True:
            try:
                return await call()
            except _RAISED as raised:
                endpoint = str(self._client.meta.endpoint_url)
                told = explained(raised, doing=doing, address=self._address, endpoint=endpoint)
                tries += 1
                if tries == TRIES_MAX or not isinstance(told, Transient):
                    raise told from raised
            await asyncio.sleep(random.uniform(0, min(BACKOFF_S * 2**tries, BACKOFF_S_MAX)))

    def _where(self, name: str) -> dict[str, str]:
        return {"Bucket": self._address.bucket, "Key": self._address.key(name)}

    def _another(self, name: str) -> AnotherExport:
        return AnotherExport(f"another export wrote {name} in {self._address} meanwhile")


def _folder(name: str) -> str:
    return name.partition("/")[0]
