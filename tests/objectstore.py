"""An S3 on the loopback for tests: moto as a process of its own, and a door before it.

Through the door every request is counted, and may be held up, answered by the test, or have its
answer lost.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp
from aiohttp import web
from yarl import URL

from tests.waiting import wait_until

_RUNNING: Final = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_STARTING_S_MAX: Final = 60.0
_HOP: Final = {"transfer-encoding", "content-length", "connection", "server", "date"}

SECRET: Final = "wJalrXUtnFEMI-not-a-real-key"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}

Answer = Callable[[web.Request], web.Response | None]
Before = Callable[[web.Request], Awaitable[None]]


def settings(endpoint: str, **others: str) -> dict[str, str]:
    """What the SDK reads, and nothing from this machine or its network."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        **others,
    }


@contextmanager
def running_store() -> Iterator[str]:
    """The URL of an empty S3 that takes any credentials."""
    with tempfile.TemporaryDirectory(prefix="seawall-test-s3-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as told:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
                stdout=told,
                stderr=told,
                cwd=folder,
            )

        def url() -> str:
            assert process.poll() is None, log.read_text()
            found = _RUNNING.search(log.read_text())
            return found[1] if found else ""

        try:
            wait_until(lambda: bool(url()), "the store runs", within_s=_STARTING_S_MAX)
            yield url()
        finally:
            process.kill()
            process.wait()


async def new_bucket(url: str) -> str:
    """A bucket of its own for a test."""
    name = f"b-{uuid4().hex[:16]}"
    async with aiohttp.ClientSession() as session:
        place = "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint>"
        body = f"{place}</CreateBucketConfiguration>"
        async with session.put(f"{url}/{name}", data=body, headers=_signed()) as answer:
            assert answer.status == 200, await answer.text()
    return name


async def keys(url: str, bucket: str) -> set[str]:
    """The names of all objects of a bucket, by S3's own listing."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/{bucket}?list-type=2", headers=_signed()) as answer,
    ):
        text = await answer.text()
    assert "<IsTruncated>false" in text
    return set(re.findall("<Key>([^<]*)</Key>", text))


def _signed() -> dict[str, str]:
    """moto looks for the service in a signature, and believes it."""
    scope = "AKIDEXAMPLE/20261122/eu-central-1/s3/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    return {"Authorization": signed}


def error(status: int, code: str) -> web.Response:
    """An answer as S3 refuses."""
    text = f"<Error><Code>{code}</Code><Message>as a test asked for</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


async def _nothing(request: web.Request) -> None:
    pass


class Door:
    """Stands before a store at `url`. `requests` are method and path of all that came."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.under_way = 0
        self.under_way_max = 0
        self.delay_s = 0.0
        self.before: Before = _nothing
        self.answer: Answer = lambda request: None
        self.loses_answer: Callable[[web.Request], bool] = lambda request: False
        self.cuts_body: Callable[[web.Request], bool] = lambda request: False
        self.drops_headers: frozenset[str] = frozenset()

    def count(self, method: str, part: str = "") -> int:
        """Requests of this method whose path contains `part`."""
        return sum(m == method and part in path for m, path in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            body = await request.read()
            await asyncio.sleep(self.delay_s)
            await self.before(request)
            return self.answer(request) or await self._passed_on(request, body)
        finally:
            self.under_way -= 1

    async def _passed_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        kept = {k: v for k, v in request.headers.items() if k not in self.drops_headers}
        url = URL(self._store + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, url, headers=kept, data=body, skip_auto_headers=["Content-Type"]
            ) as answer,
        ):
            content = await answer.read()
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        if self.loses_answer(request):
            assert request.transport is not None
            request.transport.close()
        if self.cuts_body(request):
            return await _cut(request, headers, content)
        return web.Response(status=answer.status, headers=headers, body=content)


async def _cut(
    request: web.Request, headers: Mapping[str, str], content: bytes
) -> web.StreamResponse:
    """Half of an answer, then nothing."""
    response = web.StreamResponse(headers=headers)
    response.content_length = len(content)
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


@asynccontextmanager
async def door(store: str) -> AsyncIterator[Door]:
    """A door on a free port."""
    opened = Door(store)
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", opened.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    opened.url = f"http://{host}:{port}"
    try:
        yield opened
    finally:
        await runner.cleanup()
