"""Every refusal as RFC 9457 `application/problem+json`, with our code, message and remedy.

Any input gets an answer below 500: what cannot be read is the caller's mistake and named so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
import structlog
from aiohttp import web

from shared.errors import Permanent, Refused, SeawallError, Transient

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "version": 412,
    "too-large": 413,
    "invalid": 422,
    "idempotency-mismatch": 422,
    "stale": 503,
}
"""Refusal code → status; codes that begin with `unknown-` are 404, all others 409."""


class NotFound(Refused):
    """No such resource."""

    code = "not-found"


class Invalid(Refused):
    """The request's content is wrong; `details` says where."""

    code = "invalid"

    def __init__(
        self, message: str, *, remedy: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.details = details or {}


def status_of(code: str) -> int:
    """The HTTP status of a refusal's code."""
    return STATUS.get(code, 404 if code.startswith("unknown-") else 409)


def problem(
    status: int, *, code: str, message: str, remedy: str = "", details: Any = None
) -> web.Response:
    """A problem document. `type` is a stable URN, `title` the code in words."""
    body = {
        "type": f"urn:seawall:problem:{code}",
        "title": code.replace("-", " "),
        "status": status,
        "detail": message,
        "code": code,
        "message": message,
        "remedy": remedy,
        "details": details or {},
    }
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/problem+json"
    )


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into problem documents."""
    try:
        return await handler(request)
    except Refused as refused:
        return _of_refusal(refused)
    except (TimeoutError, Transient) as away:
        log.warning("gateway.away", error=str(away))
        return problem(
            503,
            code="unavailable",
            message="the database does not answer",
            remedy="try again in a few seconds; see /readyz",
        )
    except (msgspec.MsgspecError, UnicodeError, ValueError) as broken:
        return problem(
            422, code="invalid", message=f"the request cannot be read: {broken}",
            remedy="see /openapi.json for what is expected",
        )  # fmt: skip
    except web.HTTPException as http:
        if http.status < 400:
            raise
        return _of_http(http)
    except Permanent as broken:
        return _internal(broken)
    except SeawallError as broken:
        return _internal(broken)


def _of_refusal(refused: Refused) -> web.Response:
    status = status_of(refused.code)
    response = problem(
        status,
        code=refused.code,
        message=refused.message,
        remedy=refused.remedy,
        details=getattr(refused, "details", None),
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


_OF_HTTP = {
    404: ("not-found", "see /openapi.json for the paths there are"),
    405: ("method-not-allowed", "use one of the methods in the Allow header"),
    413: ("too-large", "send at most 8 MiB; split a plan, or shorten its scripts"),
}


def _of_http(http: web.HTTPException) -> web.Response:
    """What aiohttp refuses by itself."""
    code, remedy = _OF_HTTP.get(http.status, ("invalid", "see /openapi.json for what is expected"))
    response = problem(http.status, code=code, message=http.text or http.reason, remedy=remedy)
    if "Allow" in http.headers:
        response.headers["Allow"] = http.headers["Allow"]
    return response


def _internal(broken: SeawallError) -> web.Response:
    log.error("gateway.failed", exc_info=broken)
    return problem(500, code=broken.code, message=broken.message, remedy=broken.remedy)
