"""Whatever is sent is answered below 500, as a problem, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.gateway.desk import Answer, Desk, plan_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

POSTS = (
    "/v1/sites", "/v1/plans", "/v1/plans/p/start", "/v1/plans/p/stop", "/v1/plans/p/run",
    "/v1/plans/p/prioritise", "/v1/plans/p/recover", "/v1/plans/p/checkpoints",
    "/v1/alerts/alert:a:b:c/snooze",
)  # fmt: skip
FIELDS = (
    "name", "platform", "settings", "credentials", "plan", "scripts", "dry_run", "vms", "cancel",
    "priority", "mode", "checkpoint", "skip_scripts", "on_error", "preserved", "until",
    "protected_site", "recovery_site", "replication", "interval", "recovery", "targets",
)  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["p", "15m", "latest", "test", "east", "\x00", "\ud800", "../..", "a:b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip

fuzzing = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


def answered(answer: Answer) -> None:
    """Below 500, and a problem with words where it is refused."""
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert answer.code and answer.body["message"] and answer.body["remedy"], answer


def encoded(value: Any) -> bytes:
    """JSON of anything, lone surrogates and huge integers included."""
    return json.dumps(value).encode()


@fuzzing
@given(path=st.sampled_from(POSTS), body=values)
async def test_any_json_is_answered(desk: Desk, path: str, body: Any) -> None:
    answered(await desk.ask("POST", f"{path}?wait=2s", encoded(body)))


@fuzzing
@given(
    path=st.sampled_from(POSTS),
    body=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4),
    key=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
async def test_any_object_is_answered(desk: Desk, path: str, body: Any, key: str) -> None:
    answered(await desk.ask("POST", f"{path}?wait=2s", encoded(body), Idempotency_Key=_word(key)))


@fuzzing
@given(fields=st.dictionaries(st.sampled_from(FIELDS), values, max_size=3))
async def test_any_change_of_a_good_plan_is_answered(desk: Desk, fields: Any) -> None:
    body = plan_body("p", "db")
    body["plan"] = {**body["plan"], **fields}
    answered(await desk.ask("POST", "/v1/plans?wait=2s", encoded(body)))


@fuzzing
@given(raw=st.binary(max_size=60), path=st.sampled_from(POSTS))
async def test_any_bytes_are_answered(desk: Desk, raw: bytes, path: str) -> None:
    answered(await desk.ask("POST", path, raw))


@fuzzing
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH"]),
    head=st.sampled_from(
        ["/", "/v1/", "/v1/plans/", "/v1/jobs/", "/v1/alerts/", "/v1/checkpoints/", "/v1/sites/"]
    ),
    name=st.text(max_size=12),
    tail=st.sampled_from(
        ["", "/run", "/cancel", "/cleanup", "/ack", "/preserve", "/check", "/vms/x/reset"]
    ),
)
async def test_any_path_is_answered(
    desk: Desk, method: str, head: str, name: str, tail: str
) -> None:
    part = quote(name.encode("utf-8", "surrogatepass"), safe="")
    answered(await desk.ask(method, f"{head}{part}{tail}?wait=2s"))


@fuzzing
@given(
    view=st.sampled_from(["jobs", "vms", "plans", "events", "alerts", "checkpoints", "queue"]),
    name=st.sampled_from(["plan", "state", "kind", "cursor", "limit", "since", "type", "wait"]),
    value=st.text(max_size=20),
)
async def test_any_query_is_answered(desk: Desk, view: str, name: str, value: str) -> None:
    part = quote(value.encode("utf-8", "surrogatepass"), safe="")
    answered(await desk.get(f"/v1/{view}?{name}={part}"))


@fuzzing
@given(
    name=st.sampled_from(
        ["If_Match", "Seawall_Position", "Last_Event_ID", "Authorization", "Idempotency_Key"]
    ),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
async def test_any_header_is_answered(desk: Desk, name: str, value: str) -> None:
    if name == "Last_Event_ID":
        value = "x" + value  # a number would open the endless stream
    path = "/v1/events/stream" if name == "Last_Event_ID" else "/v1/plans"
    answered(await desk.get(path, **{name: _word(value)}))
    if name in ("If_Match", "Idempotency_Key"):
        answered(await desk.command("/v1/plans", plan_body("p", "db"), **{name: _word(value)}))


def _word(value: str) -> str:
    """A header value as clients can send it."""
    return value.replace("\x7f", "").strip()


async def test_a_body_of_nine_megabytes_is_413(desk: Desk) -> None:
    body = orjson.dumps({"plan": "x" * 9 * 1024 * 1024})
    answer = await desk.ask("POST", "/v1/plans", body)
    assert (answer.status, answer.code) == (413, "too-large")
    assert "MiB" in answer.body["remedy"]


async def test_a_body_that_nests_without_end_is_422(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/plans", b'{"plan":' + b"[" * 100_000)
    assert (answer.status, answer.code) == (422, "invalid")


async def test_a_header_of_a_hundred_kilobytes_is_refused(desk: Desk) -> None:
    answer = await desk.get("/v1/plans", X_Long="x" * 100_000)
    assert 400 <= answer.status < 500


async def test_a_wrong_method_is_405_and_says_which_are_right(desk: Desk) -> None:
    answer = await desk.ask("PUT", "/v1/plans", {})
    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET,HEAD,POST"


async def test_broken_http_is_not_a_server_error(desk: Desk) -> None:
    host, _, port = desk.url.removeprefix("http://").partition(":")
    for raw in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(raw)
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        assert line == b"" or int(line.split()[1]) < 500, line
    assert (await desk.get("/v1/plans")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/alerts/{}:!!:b:c/ack", "/v1/alerts/alert:!!:b:c/ack", "/v1/alerts/alert:{}:b:c/ack",
        "/v1/alerts/alert::b:c/resolve", "/v1/alerts/alert:a:b/ack",
        "/v1/jobs/recovery:{}:x/cancel",
        "/v1/jobs/recovery:a/cancel", "/v1/jobs/recovery/cancel",
        "/v1/jobs/vm-recovery:a:b/cancel",
        "/v1/jobs/recovery:a:b:c:d/cancel", "/v1/jobs/iteration:{}:x:y/cancel",
        "/v1/jobs/iteration:a/cancel", "/v1/jobs/replication-run:a:/cancel",
        "/v1/jobs/checkpoint:{}:x/cancel", "/v1/jobs/cleanup::x/cancel",
        "/v1/jobs/recovery:{}:x/cleanup", "/v1/jobs/recovery:a/cleanup",
        "/v1/jobs/recovery:a:b.sda/cleanup", "/v1/checkpoints/checkpoint:{}:x/preserve",
        "/v1/checkpoints/checkpoint:a:b:c/preserve", "/v1/plans/{}/run", "/v1/sites/{}/check",
        "/v1/plans/a/vms/{}/reset", "/v1/plans/a:b/vms/c:d/reset",
    ],
)  # fmt: skip
async def test_a_strange_id_is_refused_and_every_service_lives_on(desk: Desk, path: str) -> None:
    for name in ("!!", "%2F", "a%2Fb", "%00", "%C3%BC", "x" * 300):
        answer = await desk.command(path.replace("{}", name))
        answered(answer)
        assert answer.status in (404, 409, 422), (path, name, answer)
    assert (await desk.ask("GET", "/readyz", token="")).status == 200


@pytest.mark.parametrize("name", ["\x00", "!!", "a:b", "a/b", "-", "ü", "x" * 300, "\u202e"])
async def test_a_strange_name_in_a_body_harms_no_plan_that_is_there(desk: Desk, name: str) -> None:
    shown = await desk.get("/v1/plans/there")
    if shown.status == 404:
        assert (await desk.plan("there", "there-db")).status == 200
    for path, body in (
        ("run", {"vms": [name]}),
        ("start", {"vms": [name]}),
        ("stop", {"vms": [name]}),
        ("prioritise", {"vms": [name], "priority": 1}),
        ("recover", {"mode": "test", "vms": [name]}),
        ("recover", {"mode": "test", "checkpoint": name}),
        ("recover", {"mode": "test", "skip_scripts": [name]}),
        (f"vms/{quote(name, safe='')}/reset", {}),
    ):
        answer = await desk.command(f"/v1/plans/there/{path}", body)
        answered(answer)
        assert answer.status != 202 or answer.body.get("state") != "accepted", (path, answer)
    assert (await desk.get("/v1/plans/there")).body["version"] == 1
