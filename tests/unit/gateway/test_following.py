"""A request's trace is taken up and answered, a command is told of, a read is not traced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.gateway.following import COMMAND, JOB, TRACEPARENT, Following
from services.gateway.problems import as_problems
from shared.errors import Permanent
from shared.telemetry.otel import OtelTracing
from shared.telemetry.tracing import OFF, Tracing
from tests.unit.telemetry.traced import parent_of, place_of, trace

Client = TestClient[web.Request, web.Application]


async def _recover(request: web.Request) -> web.Response:
    request[COMMAND], request[JOB] = "command-1", "recovery:shop:1"
    return web.json_response({"place": request[TRACEPARENT]})


async def _broken(request: web.Request) -> web.Response:
    raise Permanent("it broke", code="broken")


@asynccontextmanager
async def gateway(tracing: Tracing) -> AsyncIterator[Client]:
    following = Following(tracing, copy="copy-1")
    application = web.Application(middlewares=[following.middleware, as_problems])
    application.router.add_post("/v1/plans/{plan}/recover", _recover)
    application.router.add_post("/broken", _broken)
    application.router.add_get("/v1/jobs", _recover)
    async with TestClient(TestServer(application)) as client:
        yield client


@asynccontextmanager
async def traced() -> AsyncIterator[tuple[Client, Sequence[ReadableSpan]]]:
    """A gateway whose spans are there once the block has ended."""
    exporter = InMemorySpanExporter()
    spans: list[ReadableSpan] = []
    tracing = OtelTracing("gateway", "copy-1", SimpleSpanProcessor(exporter))
    async with gateway(tracing) as client:
        yield client, spans
    spans += exporter.get_finished_spans()


async def test_a_command_is_under_its_caller_and_answers_where_it_is() -> None:
    async with traced() as (client, spans):
        answer = await client.post("/v1/plans/shop/recover", headers={"traceparent": trace(7)})
        place = (await answer.json())["place"]
    (span,) = spans
    assert span.name == "POST /v1/plans/{plan}/recover"
    assert parent_of(span) == trace(7)
    assert place_of(span) == place == answer.headers["traceparent"]
    about: dict[str, Any] = dict(span.attributes or {})
    assert about["seawall.correlation_id"] == "command-1"
    assert about["seawall.stream"] == "recovery:shop:1"
    assert about["http.response.status_code"] == 200


async def test_a_command_without_a_trace_begins_one() -> None:
    async with traced() as (client, spans):
        answer = await client.post("/v1/plans/shop/recover")
    assert parent_of(spans[0]) == ""
    assert answer.headers["traceparent"] == place_of(spans[0])


async def test_reads_are_traced_only_for_a_caller_who_does() -> None:
    async with traced() as (client, spans):
        answer = await client.get("/v1/jobs")
        await client.get("/v1/jobs", headers={"traceparent": trace(7)})
    assert "traceparent" not in answer.headers
    assert [parent_of(span) for span in spans] == [trace(7)]


async def test_what_breaks_and_what_is_not_there_are_told_by_status() -> None:
    async with traced() as (client, spans):
        await client.post("/broken")
        await client.post("/nowhere")
    broken, unknown = spans
    assert broken.status.description == "500"
    assert unknown.name == "POST unknown" and unknown.status.is_unset


@pytest.mark.parametrize("wrong", ["x", "00-0-0-0", trace(0)])
async def test_a_traceparent_that_is_none_is_not_taken_up(wrong: str) -> None:
    async with traced() as (client, spans):
        await client.post("/v1/plans/shop/recover", headers={"traceparent": wrong})
    assert parent_of(spans[0]) == ""


async def test_without_tracing_a_callers_trace_goes_on_as_it_came() -> None:
    async with gateway(OFF) as client:
        answer = await client.post("/v1/plans/shop/recover", headers={"traceparent": trace(7)})
        assert (await answer.json())["place"] == answer.headers["traceparent"] == trace(7)
        assert "traceparent" not in (await client.post("/v1/plans/shop/recover")).headers


async def test_one_line_tells_of_a_command() -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with gateway(OFF) as client:
            await client.post("/v1/plans/shop/recover", headers={"traceparent": trace(7)})
    (line,) = lines
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request.answered", "log_level": "info", "service": "gateway", "copy": "copy-1",
        "method": "POST", "path": "/v1/plans/shop/recover", "status": 200,
        "correlation_id": "command-1", "stream": "recovery:shop:1", "trace_id": trace(7)[3:35],
    }  # fmt: skip


@pytest.mark.usefixtures("every_line")
async def test_a_read_is_told_at_debug() -> None:
    with capture_logs() as lines:
        async with gateway(OFF) as client:
            await client.get("/v1/jobs")
    assert [line["log_level"] for line in lines] == ["debug"]
