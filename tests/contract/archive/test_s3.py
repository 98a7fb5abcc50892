"""A bucket keeps the contract of a place for exports, and what is particular to one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from shared.archive import s3
from shared.archive.addresses import S3Address
from shared.archive.errors import (
    AnotherExport,
    NoBucket,
    StoreBusy,
    StoreRefused,
    StoreUnreachable,
)
from shared.archive.port import Archive
from shared.errors import SeawallError
from tests.contract.archive.suite import MANIFEST, SEGMENT, ArchiveContract, Harness
from tests.objectstore import CREDENTIALS, SECRET, Door, door, error, keys, new_bucket, settings


class S3Harness(Harness):
    """Archives through a door before a bucket of their own."""

    def __init__(self, bucket: str, opened: Door, stack: AsyncExitStack) -> None:
        self.bucket = bucket
        self.door = opened
        self._stack = stack

    async def another(self) -> Archive:
        return await self.at(S3Address(self.bucket, "sea wall/one"))

    async def at(self, address: S3Address) -> Archive:
        return await self._stack.enter_async_context(s3.connected(address))


@pytest.fixture
async def harness(object_store: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Harness]:
    monkeypatch.setattr(s3, "BACKOFF_S", 0.001)
    async with AsyncExitStack() as stack, door(object_store) as opened:
        for name, value in settings(opened.url, **CREDENTIALS).items():
            monkeypatch.setenv(name, value)
        yield S3Harness(await new_bucket(object_store), opened, stack)
        await stack.aclose()


@pytest.fixture
async def archive(harness: S3Harness) -> Archive:
    return await harness.another()


class TestS3Archive(ArchiveContract):
    pass


async def test_exports_under_two_prefixes_do_not_meet(
    harness: S3Harness, object_store: str
) -> None:
    whole, one, longer = [
        await harness.at(S3Address(harness.bucket, prefix)) for prefix in ("", "one", "one-more")
    ]
    for each in (whole, one, longer):
        assert await each.missing(["blobs/a"]) == ["blobs/a"]
        await each.swap(MANIFEST, b"x", instead_of=None)
        await each.put("blobs/a", b"x")
    assert await keys(object_store, harness.bucket) == {
        f"{prefix}{name}" for prefix in ("", "one/", "one-more/") for name in (MANIFEST, "blobs/a")
    }
    await one.delete("blobs/a")
    again = await harness.at(S3Address(harness.bucket, "one"))
    assert await again.missing(["blobs/a"]) == ["blobs/a"]
    assert await longer.get("blobs/a") == b"x"


async def test_a_long_listing_is_read_to_its_end_and_once(
    harness: S3Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "LISTED_MAX", 3)
    writer = await harness.another()
    names = [f"blobs/{number}" for number in range(8)]
    for name in names:
        await writer.put(name, b"x")
    archive = await harness.another()
    assert await archive.missing([*names, "blobs/8"]) == ["blobs/8"]
    assert harness.door.count("GET") == 3
    await archive.put("blobs/8", b"x")
    assert await archive.missing([*names, "blobs/8", "blobs/9"]) == ["blobs/9"]
    assert harness.door.count("GET") == 3


def busy(status: int, code: str, times: int) -> Callable[[web.Request], web.Response | None]:
    """Refuses the first `times` requests."""
    left = [times]

    def answer(request: web.Request) -> web.Response | None:
        left[0] -= 1
        return error(status, code) if left[0] >= 0 else None

    return answer


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (429, "TooMany"), (400, "RequestTimeout"),
     (409, "ConditionalRequestConflict"), (502, "")],
)  # fmt: skip
async def test_a_store_that_is_busy_for_a_while_is_asked_again(
    harness: S3Harness, archive: Archive, status: int, code: str
) -> None:
    harness.door.answer = busy(status, code, times=2)
    await archive.put(SEGMENT, b"x")
    assert harness.door.count("PUT") == 3
    harness.door.answer = busy(status, code, times=1)
    assert await archive.get(SEGMENT) == b"x"
    assert harness.door.count("GET") == 2


async def test_a_store_that_stays_busy_is_told_after_so_many_tries_and_no_more(
    harness: S3Harness, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    archive = await harness.another()
    harness.door.answer = lambda request: error(503, "SlowDown")
    with pytest.raises(StoreBusy, match=r"write blobs/a in s3://b-.*SlowDown"):
        await archive.put("blobs/a", b"x")
    assert harness.door.count("PUT") == s3.TRIES_MAX


async def test_a_content_that_was_cut_off_is_read_again(
    harness: S3Harness, archive: Archive
) -> None:
    content = bytes(1 << 20)
    await archive.put(SEGMENT, content)
    harness.door.cuts_body = lambda request: harness.door.count("GET") == 1
    assert await archive.get(SEGMENT) == content
    assert harness.door.count("GET") == 2


async def test_a_swap_whose_answer_was_lost_is_done(harness: S3Harness, archive: Archive) -> None:
    await archive.swap(MANIFEST, b"one", instead_of=None)
    for content, before in ((b"two", b"one"), (b"three", b"two")):
        puts = harness.door.count("PUT")
        harness.door.loses_answer = lambda request, puts=puts: (  # type: ignore[misc]
            request.method == "PUT" and harness.door.count("PUT") == puts + 1
        )
        await archive.swap(MANIFEST, content, instead_of=before)
        assert harness.door.count("PUT") == puts + 2
    assert await archive.get(MANIFEST) == b"three"


async def test_a_swap_that_meets_another_between_reading_and_writing_loses(
    harness: S3Harness, archive: Archive
) -> None:
    await archive.put(MANIFEST, b"one")
    another = await harness.another()
    met: list[str] = []

    async def meanwhile(request: web.Request) -> None:
        if "If-Match" in request.headers and not met:
            met.append(request.path)
            await another.put(MANIFEST, b"theirs")

    harness.door.before = meanwhile
    with pytest.raises(AnotherExport):
        await archive.swap(MANIFEST, b"ours", instead_of=b"one")
    assert met
    assert await archive.get(MANIFEST) == b"theirs"


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
async def test_a_store_that_ignores_conditions_is_refused(
    harness: S3Harness, archive: Archive, ignored: str
) -> None:
    harness.door.drops_headers = frozenset({ignored})
    for _ in range(2):
        with pytest.raises(StoreRefused) as refused:
            async with archive.alone():
                raise AssertionError("two exports could spoil each other")
        assert refused.value.code == "no-conditional-writes"
    harness.door.drops_headers = frozenset()
    async with archive.alone():
        pass


@pytest.mark.parametrize(
    ("status", "code", "ours", "remedy"),
    [
        (403, "AccessDenied", "no-permission", "s3:PutObject"),
        (403, "SomethingNew", "no-permission", "s3:PutObject"),
        (403, "InvalidAccessKeyId", "bad-credentials", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "bad-credentials", "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "bad-credentials", "new temporary credentials"),
        (403, "RequestTimeTooSkewed", "clock-skew", "clock"),
        (400, "AuthorizationHeaderMalformed", "wrong-region", "AWS_DEFAULT_REGION"),
        (501, "NotImplemented", "no-conditional-writes", "If-None-Match"),
        (400, "KMS.DisabledException", "store-refused", "manual"),
    ],
)
async def test_a_refusal_is_told_with_its_remedy_and_not_repeated(
    harness: S3Harness, archive: Archive, status: int, code: str, ours: str, remedy: str
) -> None:
    harness.door.answer = lambda request: error(status, code)
    with pytest.raises(StoreRefused) as refused:
        await archive.put(SEGMENT, b"x")
    assert refused.value.code == ours
    assert code in refused.value.message
    assert f"s3://{harness.bucket}/sea wall/one" in refused.value.message
    assert remedy in refused.value.remedy
    assert harness.door.count("PUT") == 1


async def test_a_bucket_that_is_not_there_is_told_by_every_call(harness: S3Harness) -> None:
    archive = await harness.at(S3Address("nobody-made-this"))
    for call in (
        archive.get(MANIFEST),
        archive.put(MANIFEST, b""),
        archive.missing(["blobs/a"]),
        archive.swap(MANIFEST, b"", instead_of=None),
        archive.alone().__aenter__(),
    ):
        with pytest.raises(NoBucket, match="no bucket nobody-made-this"):
            await call


async def raised_by(harness: S3Harness) -> SeawallError:
    with pytest.raises(SeawallError) as raised:
        archive = await harness.at(S3Address(harness.bucket))
        await archive.get(MANIFEST)
    assert SECRET not in f"{raised.value.message} {raised.value.remedy} {raised.value!r}"
    return raised.value


async def test_without_credentials_the_ways_to_give_them_are_told(
    harness: S3Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert (await raised_by(harness)).code == "no-credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    raised = await raised_by(harness)
    assert raised.code == "no-credentials"
    assert "AWS_PROFILE" in raised.remedy
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert (await raised_by(harness)).code == "no-credentials"
    assert harness.door.requests == []


async def test_an_endpoint_that_does_not_answer_is_told_without_what_else_is_in_its_url(
    harness: S3Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://me:{SECRET}@127.0.0.1:9")
    raised = await raised_by(harness)
    assert isinstance(raised, StoreUnreachable)
    assert "127.0.0.1:9 does not answer" in raised.message
    assert "AWS_ENDPOINT_URL_S3" in raised.remedy


async def test_an_endpoint_that_is_none_is_told(
    harness: S3Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "minio.example:9000/x")
    raised = await raised_by(harness)
    assert raised.code == "bad-settings"
    assert "AWS_ENDPOINT_URL_S3" in raised.remedy
