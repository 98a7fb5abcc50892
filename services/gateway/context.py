"""What every route works with, and the one way a command is asked and answered."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import orjson
from aiohttp import web
from structlog.contextvars import bound_contextvars

from schemas import units
from schemas.common import Command
from services.gateway.auth import ACTOR
from services.gateway.commands import Accepted, Asked, CommandBus, request_digest, wait_for
from services.gateway.following import COMMAND, JOB, TRACEPARENT
from services.gateway.forecasts import Forecasts
from services.gateway.owners import Owners
from services.gateway.parameters import is_plain
from services.gateway.past import Past
from services.gateway.problems import Invalid, problem, status_of
from services.gateway.pulse import POLL_S, Pulse, wait
from services.gateway.queries import Queries
from shared.errors import Transient
from shared.settings import Settings

POSITION_HEADER = "Seawall-Position"
POSITION_WAIT_S = 2.0
IDEMPOTENCY_KEY_MAX = 200
TEXT_CHARS_MAX = 4096
"""Of a text in a body: the longest path of a file."""

NAME_CHARS_MAX = 255
"""Of a name in a list: longer than any name and any `HOOK:VM`."""

VERSION_DIGITS_MAX = 9


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's own parts, shared by its routes."""

    settings: Settings
    commands: CommandBus
    queries: Queries
    past: Past
    forecasts: Forecasts
    owners: Owners
    pulse: Pulse


GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)


def gateway_of(request: web.Request) -> Gateway:
    """The gateway that serves the request."""
    return request.app[GATEWAY]


def answer(
    document: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=orjson.dumps(document),
        status=status,
        content_type="application/json",
        headers=headers,
    )


async def body_of(request: web.Request, *allowed: str) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object. Unknown fields are refused."""
    raw = await request.read()
    if not raw:
        return {}
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}", remedy="send a JSON object") from error
    if not isinstance(document, dict):
        raise Invalid("the body is not a JSON object", remedy='send {"…": …}')
    unknown = sorted(set(document) - set(allowed))
    if allowed and unknown:
        raise Invalid(
            f"unknown field {unknown[0]!r}",
            remedy=f"allowed fields: {', '.join(allowed)}",
            details={"unknown": unknown},
        )
    return document


def text(document: dict[str, Any], field: str, default: str | None = None) -> str:
    """A text field; required where there is no default."""
    value = document.get(field, default)
    if not isinstance(value, str) or (default is None and not value):
        found = "nothing" if value is None else repr(value)
        raise Invalid(f"{field}: found {found}", remedy=f"{field} is a non-empty text")
    _check_length(field, value, chars_max=TEXT_CHARS_MAX)
    _check_plain(field, value)
    return value


def _check_length(field: str, value: str, *, chars_max: int) -> None:
    if len(value) > chars_max:
        raise Invalid(
            f"{field}: found {value[:60]!r} and more, {len(value)} characters",
            remedy=f"{field} has at most {chars_max} characters",
        )


def _check_plain(field: str, value: str) -> None:
    if not is_plain(value):
        raise Invalid(
            f"{field}: found {value[:60]!r}",
            remedy=f"{field} is a text without control characters",
        )


def flag(document: dict[str, Any], field: str) -> bool:
    """An optional boolean field, false where absent."""
    value = document.get(field, False)
    if not isinstance(value, bool):
        raise Invalid(f"{field}: found {value!r}", remedy=f"{field} is true or false")
    return value


def names(document: dict[str, Any], field: str) -> tuple[str, ...]:
    """An optional list of names; one that is there twice counts once."""
    value = document.get(field, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Invalid(f"{field}: found {value!r}", remedy=f"{field} is a list of names")
    for each in value:
        _check_length(field, each, chars_max=NAME_CHARS_MAX)
        _check_plain(field, each)
    return tuple(dict.fromkeys(value))


def texts(document: dict[str, Any], field: str) -> dict[str, str]:
    """An optional object of texts."""
    value = document.get(field, {})
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise Invalid(f"{field}: not an object of texts", remedy=f'send {field} as {{"…": "…"}}')
    for name, each in value.items():
        _check_plain(f"{field}.{name}", name)
        _check_plain(f"{field}.{name}", each)
    return value


def moment(name: str, value: str) -> dt.datetime:
    """A moment that a parameter or field names, with its zone."""
    try:
        return units.parse_moment(value)
    except units.UnitError as error:
        raise Invalid(
            f"{name}: found {value[:60]!r}", remedy=f"allowed: {error.allowed}"
        ) from error


def moment_of(request: web.Request, name: str) -> dt.datetime | None:
    """The moment of a query parameter, None where it is not given."""
    value = request.query.get(name)
    return None if value is None else moment(name, value)


def wait_s_of(request: web.Request) -> float:
    """`?wait=10s`: how long to wait for the owner's decision."""
    asked = request.query.get("wait")
    if asked is None:
        return 0.0
    try:
        return units.parse_duration_s(asked)
    except units.UnitError as error:
        raise Invalid(f"wait: found {asked!r}", remedy=f"allowed: {error.allowed}") from error


def _idempotency_key(request: web.Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > IDEMPOTENCY_KEY_MAX or not key.isprintable():
        raise Invalid(
            f"Idempotency-Key: found {key[:40]!r} ({len(key)} characters)",
            remedy=f"send up to {IDEMPOTENCY_KEY_MAX} printable characters, a new key for each "
            "new request",
        )
    return key


async def ask(request: web.Request, asked: Asked, *, resource: str = "") -> web.Response:
    """Accept a command and answer as the caller wants it: at once, or once it is decided.

    `resource` is the path of what a command without a job leaves behind, as `sites/east`.
    """
    gateway = gateway_of(request)
    raw = await request.read()
    asked = msgspec.structs.replace(
        asked,
        actor=request[ACTOR],
        idempotency_key=_idempotency_key(request),
        request_sha256=request_digest(request.method, request.path, raw),
        traceparent=request[TRACEPARENT],
        body=_with_version(request, asked.body),
    )
    wait_s = wait_s_of(request)
    accepted = await gateway.commands.accept(asked)
    request[COMMAND], request[JOB] = accepted.command_id, accepted.job
    settled = None
    if wait_s > 0 or accepted.repeated:
        with bound_contextvars(correlation_id=accepted.command_id):
            settled = await wait_for(
                gateway.queries.command,
                accepted.command_id,
                pulse=gateway.pulse,
                timeout_s=wait_s,
            )
    if settled is None:
        return await _undecided(gateway, accepted, waited=wait_s > 0)
    return await _settled(gateway, accepted, settled, resource)


def _with_version(request: web.Request, body: Command) -> Command:
    """The command with the version that If-Match names; refused where there is none to match."""
    tag = request.headers.get("If-Match", "").strip().strip('"')
    if not tag or tag == "*":
        return body
    if not hasattr(body, "expected_version"):
        raise Invalid(
            f"If-Match: {request.path} has no version",
            remedy="leave the header out; only plans have versions",
        )
    if not (tag.isascii() and tag.isdigit() and len(tag) <= VERSION_DIGITS_MAX):
        raise Invalid(f"If-Match: found {tag!r}", remedy="send the ETag of GET /v1/plans/NAME")
    return msgspec.structs.replace(body, expected_version=int(tag))


async def _undecided(gateway: Gateway, accepted: Accepted, *, waited: bool) -> web.Response:
    """202: the command is durable; its state is asked for at Location."""
    parked = waited and await _is_parked(gateway, accepted.command_id)
    body = {
        "command_id": accepted.command_id,
        "state": "parked" if parked else "accepted",
        "job": accepted.job or None,
    }
    headers = {"Location": f"/v1/commands/{accepted.command_id}"}
    if accepted.position:
        headers[POSITION_HEADER] = accepted.position
    return answer(body, status=202, headers=headers)


async def _is_parked(gateway: Gateway, command_id: str) -> bool:
    try:
        found = await gateway.queries.command_state(command_id)
    except Transient:
        return False  # not known: the command itself is recorded, whatever can be read
    return found is not None and found["state"] == "parked"


async def _settled(
    gateway: Gateway, accepted: Accepted, settled: dict[str, Any], resource: str
) -> web.Response:
    headers = {POSITION_HEADER: settled.get("position") or ""}
    if settled["outcome"] == "refused":
        refused = problem(
            status_of(settled["code"]),
            code=settled["code"],
            message=settled["message"],
            remedy=settled["remedy"],
            details=settled.get("details"),
        )
        refused.headers.update(headers)
        return refused
    if accepted.job:
        headers["Location"] = f"/v1/jobs/{accepted.job}"
        job = await gateway.queries.job(accepted.job)
        return answer(job or {"id": accepted.job, "state": "queued"}, status=202, headers=headers)
    kind, _, name = resource.partition("/")
    document = await gateway.queries.resource(kind, name) if resource else None
    body = {**(document or {}), "command": settled}
    return answer(body, headers=headers)


async def stand_at(request: web.Request) -> None:
    """Wait until the read model has reached the position the caller brings, or refuse."""
    token = request.headers.get(POSITION_HEADER, "")
    if not token:
        return
    gateway = gateway_of(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + POSITION_WAIT_S
    while True:
        beat = gateway.pulse.now()
        if await gateway.queries.has_reached(token):
            return
        left_s = deadline - loop.time()
        if left_s <= 0:
            lag = await gateway.queries.as_of()
            raise _Stale(lag["lag_s"])
        await wait(beat, timeout_s=min(left_s, POLL_S))


class _Stale(Invalid):
    code = "stale"

    def __init__(self, lag_s: float) -> None:
        super().__init__(
            f"the read model is {lag_s:.1f} s behind and has not reached that position",
            remedy="ask again shortly, or without the Seawall-Position header",
            details={"lag_s": lag_s},
        )
