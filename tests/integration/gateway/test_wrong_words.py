"""Every path that is read, and every command, with words that no text of ours can have.

None is a server's error, none is set aside, and each answer says what is wrong.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from services.gateway import openapi, parameters
from tests.integration.gateway.desk import Answer, Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/v1/events/stream"
DOCUMENTED = openapi.document()["paths"]
READ = sorted(path for path, methods in DOCUMENTED.items() if "get" in methods)

REAL = {
    "name": "p", "job": "recovery:p:r1", "step": "s", "command": "c1", "node": "n", "vm": "v",
    "checkpoint": "checkpoint:p:c1", "alert": "alert:p:a:b", "action": "ack",
}  # fmt: skip
"""What may stand in a path, though there is none of it."""


def packed(text: bytes) -> str:
    """Any bytes in the form of a cursor."""
    return base64.urlsafe_b64encode(text).decode()


PARTS = ("%00", "a%00b", "%FF", "%ED%A0%80", "%C3%BC", "a:b", "::", ":", "a%2Fb", "-", "x" * 300)
"""Parts of a path that name nothing."""

VALUES = (
    *PARTS,
    "", "%0A", "-1", "0", "1e30", "9" * 30, "0" * 8 + "1" * 30, "%D9%A3", "null", "[]",
    "%27", "%25",
    packed(b'[1e30,"x"]'), packed(b'[9223372036854775808,"x"]'), packed(b'[-1,"x"]'),
    packed(b'["0001-01-01T00:00:00+14:00","x"]'), packed(b'["shop","\\u0000"]'),
    packed(b'[1,"\\u0000"]'), packed(b"{}"), packed(b"\xff"), "====", "not-base64!",
    "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "2026-11-22T20:00:00Z",
)  # fmt: skip
"""Values of a query that are wrong for most parameters, and harmless for some."""


def answered(answer: Answer, asked: str) -> None:
    """Below 500; where it is refused, with words and a remedy."""
    assert answer.status < 500, (asked, answer)
    if answer.status >= 400:
        assert answer.code and answer.body["message"] and answer.body["remedy"], (asked, answer)
        assert "stream id part" not in answer.body["message"], (asked, answer)


def spelled(path: str, **parts: str) -> str:
    """A path with real names, but for those that are given."""
    return re.sub(r"{(\w+)}", lambda part: {**REAL, **parts}[part[1]], path)


def strange(path: str) -> Iterator[str]:
    """The path with each of its parts replaced by each that names nothing."""
    for part in re.findall(r"{(\w+)}", path):
        for value in PARTS:
            yield spelled(path, **{part: value})


@pytest.mark.parametrize("path", [path for path in READ if path != STREAM])
async def test_whatever_is_asked_of_a_path_that_is_read_is_answered(desk: Desk, path: str) -> None:
    for asked in strange(path):
        answered(await desk.get(asked), asked)
    for name in parameters.allowed("GET", path):
        for value in VALUES:
            asked = f"{spelled(path)}?{name}={value}"
            answered(await desk.get(asked), asked)


@pytest.mark.parametrize("name", parameters.allowed("GET", STREAM))
@pytest.mark.parametrize("value", ["%00", "%7F", "%0A"])
async def test_a_stream_is_refused_before_it_begins(desk: Desk, name: str, value: str) -> None:
    answer = await desk.get(f"{STREAM}?{name}={value}")
    assert (answer.status, answer.code) == (422, "invalid"), answer


@pytest.mark.parametrize("place", ["ÿ/1/2", "a/b/c", "gateway/1", "gateway/²/1", "-/1/1"])
async def test_a_position_that_nothing_has_is_refused(desk: Desk, place: str) -> None:
    answer = await desk.get("/v1/plans", Seawall_Position=place)
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.body["message"].startswith("Seawall-Position: ")


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"/v1/plans", b"Seawall-Position: \xff/1/2"),
        (b"/v1/plans", b"Idempotency-Key: \xff"),
        (b"/v1/vms?plan=\xff", b"Accept: */*"),
        (b"/v1/events/stream?job=\xff", b"Accept: */*"),
        (b"/v1/jobs/\xff", b"Accept: */*"),
    ],
)
async def test_bytes_that_are_no_text_are_no_server_error(
    desk: Desk, line: bytes, header: bytes
) -> None:
    host, _, port = desk.url.removeprefix("http://").partition(":")
    token = f"Authorization: Bearer {desk.token}".encode()
    asked = (b"GET %s HTTP/1.1" % line, b"Host: x", token, header, b"Connection: close", b"", b"")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\r\n".join(asked))
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
    assert status < 500


@pytest.mark.parametrize("cursor", [b'[1e30,"x"]', b'[9223372036854775808,"x"]', b'[1,"\\u0000"]'])
async def test_a_cursor_that_no_page_gave_is_refused(desk: Desk, cursor: bytes) -> None:
    answer = await desk.get(f"/v1/events?cursor={packed(cursor)}")
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.body["message"].startswith("cursor: ")


@pytest.mark.parametrize("limit", ["0" * 8 + "1" * 30, "9" * 5000, "0", "-1", "1001", "1e3"])
async def test_a_limit_out_of_bounds_is_refused(desk: Desk, limit: str) -> None:
    answer = await desk.get(f"/v1/jobs?limit={limit}")
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.body["message"].startswith("limit: ")


@pytest.mark.parametrize("filtered", ["vms?plan", "jobs?vm", "events?type", "sites?platform"])
async def test_a_filter_with_a_nul_is_refused(desk: Desk, filtered: str) -> None:
    answer = await desk.get(f"/v1/{filtered}=%00")
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.body["message"].startswith(filtered.partition("?")[2])


@pytest.mark.parametrize("name", ["a:b", "a.b:c", "x" * 64])
@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("DELETE", "/v1/sites/{}", "site"),
        ("POST", "/v1/sites/{}/check", "site"),
        ("POST", "/v1/sites/{}/release", "site"),
        ("POST", "/v1/sites/{}/power-off", "site"),
        ("DELETE", "/v1/plans/{}", "plan"),
        ("POST", "/v1/plans/{}/start", "plan"),
        ("POST", "/v1/plans/{}/run", "plan"),
    ],
)
async def test_what_can_be_no_name_is_not_found(
    desk: Desk, method: str, path: str, kind: str, name: str
) -> None:
    answer = await desk.ask(method, path.format(name))
    assert answer.status == 404
    assert answer.code == f"unknown-{kind}"
    assert name in answer.body["message"] and answer.body["remedy"]


STEERED = ("pause", "resume", "retry", "skip", "answer")
BODIES: dict[str, Any] = {
    "skip": {"step": "wait-ready"},
    "answer": {"step": "pre-script", "choice": "skip"},
}


@pytest.mark.parametrize("action", [*STEERED, "cancel", "cleanup", "commit", "rollback"])
async def test_a_job_id_of_the_wrong_shape_is_refused_with_the_right_one(
    desk: Desk, action: str
) -> None:
    for job in ("vm-recovery:p:r1", "vm-recovery:p:r1:db:x", "recovery:p", "recovery:p:r1:db"):
        answer = await desk.ask("POST", f"/v1/jobs/{job}/{action}", BODIES.get(action, {}))
        assert answer.status == 404, (job, answer)
        assert job in answer.body["message"] and ":PLAN:KEY" in answer.body["remedy"]


@pytest.mark.parametrize("priority", [True, False, 0, 6, 1.0, "1", None, [1]])
async def test_a_priority_that_is_none_is_refused(desk: Desk, priority: Any) -> None:
    answer = await desk.command("/v1/plans/p/prioritise", {"priority": priority})
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.body["message"].startswith("priority: ")
    assert answer.body["remedy"] == "priority is 1 (highest) to 5 (lowest)"


async def test_a_vm_that_no_plan_can_have_was_not_there(desk: Desk) -> None:
    assert (await desk.plan("then", "then-db")).status == 200
    at = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    answer = await desk.get(f"/v1/plans/then?at={at}&vm=a:b")
    assert (answer.status, answer.code) == (404, "not-found"), answer
    assert "'a:b'" in answer.body["message"]


async def test_names_without_end_are_refused_and_one_given_twice_counts_once(desk: Desk) -> None:
    assert (await desk.plan("twice", "twice-db")).status == 200
    answer = await desk.command("/v1/plans/twice/start", {"vms": ["x" * 60_000]})
    assert (answer.status, answer.code) == (422, "invalid")
    assert "255 characters" in answer.body["remedy"]
    again = await desk.command("/v1/plans/twice/start", {"vms": ["twice-db"] * 60_000})
    assert again.status == 200, again


async def test_no_command_waits_behind_a_wrong_one(desk: Desk) -> None:
    """The last word: what was sent above, and right commands to the same plan, all decided."""
    assert (await desk.plan("calm", "calm-db")).status == 200
    for job in ("vm-recovery:calm:r1", "vm-recovery:calm:r1:x:y", "recovery:calm:r1:x"):
        for action in STEERED:
            path = f"/v1/jobs/{quote(job)}/{action}"
            answered(await desk.command(path, BODIES.get(action, {})), path)
    assert (await desk.command("/v1/plans/calm/prioritise", {"priority": True})).status == 422
    assert (await desk.command("/v1/plans/calm/stop")).status == 200
    refused = await desk.command("/v1/jobs/recovery:calm:r1/cancel")
    assert (refused.status, refused.code) == (404, "unknown-job")
