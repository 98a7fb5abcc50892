"""What is told of a request: one line of the log, and the trace that its command goes on in.

A caller's `traceparent` is taken up and answered. Reads are told at `debug`: people and programs
ask again and again while they wait.
"""

from __future__ import annotations

import logging
import time

import structlog
from aiohttp import web
from structlog.contextvars import bound_contextvars

from services.gateway.problems import Handler
from shared.telemetry import traceparent
from shared.telemetry.tracing import NoSpan, Span, Tracing

log = structlog.get_logger()

READS = frozenset({"GET", "HEAD", "OPTIONS"})

SERVER_ERROR = 500

TRACEPARENT = web.RequestKey("traceparent", str)
"""Where in a trace the request is; empty for none."""

COMMAND = web.RequestKey("command", str)
"""The id of the command that the request became."""

JOB = web.RequestKey("job", str)
"""The job that the command will be."""


class Following:
    """The outermost middleware: every answer passes it. `copy` names this copy of the gateway."""

    def __init__(self, tracing: Tracing, *, copy: str) -> None:
        self._tracing = tracing
        self._copy = copy

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bind the request's ids, answer it, tell of it."""
        began = time.monotonic()
        span = self._begin(request)
        place = request[TRACEPARENT] = span.traceparent
        trace = {"trace_id": traceparent.trace_id_of(place)} if place else {}
        with bound_contextvars(service="gateway", copy=self._copy, **trace):
            response = await handler(request)
            if place and not response.prepared:
                response.headers[traceparent.HEADER] = place
            _end(span, request, response.status)
            _tell(request, response.status, time.monotonic() - began)
            return response

    def _begin(self, request: web.Request) -> Span:
        """The request's span, where it is a command or its caller traces."""
        caller = traceparent.accepted(request.headers.get(traceparent.HEADER, ""))
        if request.method in READS and not caller:
            return NoSpan()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        return self._tracing.begin(
            f"{request.method} {route}",
            kind="server",
            parent=caller,
            attributes={"http.request.method": request.method, "http.route": route},
        )


def _end(span: Span, request: web.Request, status: int) -> None:
    about: dict[str, str | int] = {"http.response.status_code": status}
    if COMMAND in request:
        about["seawall.correlation_id"] = request[COMMAND]
    if request.get(JOB):
        about["seawall.stream"] = request[JOB]
    span.end(about, error=str(status) if status >= SERVER_ERROR else "")


def _tell(request: web.Request, status: int, seconds: float) -> None:
    level = logging.DEBUG if request.method in READS else logging.INFO
    if not log.is_enabled_for(level):
        return
    command = {}
    if COMMAND in request:
        command["correlation_id"] = request[COMMAND]
    if request.get(JOB):
        command["stream"] = request[JOB]
    log.log(
        level, "request.answered", method=request.method, path=request.path, status=status,
        seconds=round(seconds, 3), **command,
    )  # fmt: skip
