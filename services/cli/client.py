"""The Python client of `/v1`, used by the command line and by anyone's scripts.

Every method is one request. A refusal raises ApiError with the server's code, message and
remedy; a control plane that does not answer raises Unreachable.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp
import orjson

from shared.errors import SeawallError

REQUEST_TIMEOUT_S = 75.0
CONNECT_TIMEOUT_S = 5.0
DECISION_WAIT = "10s"
JOB_POLL_S = 0.5
LINE_BYTES_MAX = 4 * 1024 * 1024
STREAM_SILENCE_S = 60.0
RESUME_PAUSE_S = 0.5
RESUME_S_MAX = 120.0

ENDED = frozenset({"completed", "partially-completed", "failed", "cancelled"})


class Unreachable(SeawallError):
    """The control plane does not answer."""

    code = "unreachable"


class WrongSetting(SeawallError):
    """Where the control plane is, or what is shown to it, cannot be what was set."""

    code = "wrong-setting"


class Undecided(SeawallError):
    """The command is durable, and its owner has not decided it yet."""

    code = "undecided"


class ApiError(SeawallError):
    """The control plane answered with a problem document; `status` is the HTTP status."""

    code = "refused"

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(
            str(document.get("message") or document.get("detail") or f"HTTP {status}"),
            remedy=str(document.get("remedy", "")),
            code=str(document.get("code", "refused")),
        )
        self.status = status
        self.document = document
        self.details: dict[str, Any] = document.get("details") or {}


def home_folder() -> Path:
    """The home of this user's control plane."""
    return Path(os.environ.get("SEAWALL_HOME", "~/.seawall")).expanduser().absolute()


def default_url() -> str:
    """Where the control plane answers: SEAWALL_URL, else what it wrote at its start."""
    if url := os.environ.get("SEAWALL_URL", "").strip():
        return _checked_url(url)
    try:
        return (home_folder() / "endpoint").read_text(encoding="ascii").strip()
    except OSError:
        return f"http://127.0.0.1:{os.environ.get('SEAWALL_PORT', '8640')}"


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WrongSetting(
            f"SEAWALL_URL: found {url!r}",
            remedy="set it to an address such as http://127.0.0.1:8640, or unset it",
        )
    return url.rstrip("/")


def default_token() -> str:
    """The token to show: SEAWALL_TOKEN, else the admin token of the home folder."""
    if token := os.environ.get("SEAWALL_TOKEN", "").strip():
        if not (token.isascii() and token.isprintable()):
            raise WrongSetting(
                "SEAWALL_TOKEN is no token: it has characters that none has",
                remedy="set it to what the file `token` of the home folder holds, or unset it",
            )
        return token
    try:
        return (home_folder() / "token").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Client:
    """A session with one control plane. Use as an async context."""

    def __init__(self, url: str = "", token: str = "") -> None:
        self.url = url or default_url()
        self._token = token or default_token()
        self._session: aiohttp.ClientSession | None = None
        self.following = ""
        """The job whose end is waited for: who interrupts the wait is told that it goes on."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            read_bufsize=LINE_BYTES_MAX,
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request; the decoded answer. Raises ApiError and Unreachable."""
        if self._session is None:
            raise Unreachable("the client is not open")
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(
                method, self.url + path, data=data, params=query, headers=headers
            ) as response:
                raw = await response.read()
                return _decoded(response.status, raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> Unreachable:
        return Unreachable(
            f"no control plane answers at {self.url}: {error}",
            remedy="start one with `seawall up`, or point SEAWALL_URL at one that runs",
        )

    async def get(self, path: str, **query: str | None) -> Any:
        """GET with the filters that are not None."""
        chosen = {name: value for name, value in query.items() if value is not None}
        return await self.request("GET", path, query=chosen)

    async def command(
        self, path: str, body: Any = None, *, method: str = "POST", within_s: float = 0.0
    ) -> Any:
        """Ask for something and wait for the owner's decision, 10 s and, where that is longer,
        `within_s`. Raises Undecided afterwards: the command stands."""
        answer = await self.request(method, path, body=body or {}, query={"wait": DECISION_WAIT})
        if answer.get("state") in ("accepted", "parked") and "command_id" in answer:
            return await self._decided(answer, within_s=within_s)
        return answer

    async def _decided(self, answer: dict[str, Any], *, within_s: float) -> dict[str, Any]:
        """The answer once its command is decided; raises ApiError where it is refused."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while answer["state"] == "accepted" and loop.time() < deadline:
            await asyncio.sleep(JOB_POLL_S)
            found = await self.get(f"/v1/commands/{answer['command_id']}")
            if found["state"] == "refused":
                raise ApiError(_status_of(found["code"]), found)
            if found["state"] == "done":
                return {**answer, "state": "queued", "id": answer["job"], "command": found}
            answer = {**answer, "state": found["state"]}
        raise await self._undecided(answer)

    async def _undecided(self, answer: dict[str, Any]) -> Undecided:
        command = answer["command_id"]
        if answer["state"] == "accepted":
            return Undecided(
                f"command {command} is not decided after {DECISION_WAIT}",
                remedy="it will be; --wait waits for it, `seawall doctor` tells what is behind",
            )
        found = await self.get(f"/v1/commands/{command}")
        return Undecided(
            f"command {command} is parked: {found.get('reason', '')}",
            remedy="what was set aside must be taken up or skipped first; see /readyz",
        )

    async def everything(self, path: str, **query: str | None) -> dict[str, Any]:
        """A listing in one piece, as fresh as its first page."""
        whole: dict[str, Any] = await self.get(path, limit="1000", **query)
        while (cursor := whole["next"]) is not None:
            page = await self.get(path, cursor=cursor, limit="1000", **query)
            whole["items"] += page["items"]
            whole["next"] = page["next"]
        return whole

    async def job(self, job: str) -> dict[str, Any]:
        """A job with its steps and children."""
        found: dict[str, Any] = await self.get(f"/v1/jobs/{quote(job, safe='')}")
        return found

    async def wait_job(self, job: str, *, timeout_s: float) -> dict[str, Any]:
        """The job once it has ended. Raises TimeoutError; the job goes on."""
        self.following = job
        async with asyncio.timeout(timeout_s):
            while True:
                found = await self.job(job)
                if found["state"] in ENDED:
                    return found
                await asyncio.sleep(JOB_POLL_S)

    async def events(
        self, *, after: int | None = None, plan: str | None = None, job: str | None = None
    ) -> AsyncIterator[Any]:
        """CloudEvents as they happen, after a position or from now on, without end.

        A connection that is lost is made again and goes on after the last event, so that none is
        missed or told twice. Raises Unreachable after RESUME_S_MAX without an answer.
        """
        query = {k: v for k, v in (("plan", plan), ("job", job)) if v is not None}
        last = after
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while True:
            try:
                async for position, event in self._stream(query, last):
                    heard_at = loop.time()
                    if event is None:
                        last = position if last is None else last
                        continue
                    last = position
                    yield event
            except Unreachable:
                if last is None or loop.time() - heard_at > RESUME_S_MAX:
                    raise
            await asyncio.sleep(RESUME_PAUSE_S)

    async def _stream(
        self, query: dict[str, str], after: int | None
    ) -> AsyncIterator[tuple[int, Any]]:
        """One connection's events with their positions; first where it stands, without event."""
        if self._session is None:
            raise Unreachable("the client is not open")
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=STREAM_SILENCE_S)
        position = after or 0
        try:
            async with self._session.get(
                self.url + "/v1/events/stream", params=query, headers=headers, timeout=timeout
            ) as response:
                if response.status != 200:
                    _decoded(response.status, await response.read())
                async for line in response.content:
                    if line.startswith(b"id: "):
                        position = int(line[4:])
                    elif line.startswith(b": at "):
                        yield int(line[5:]), None
                    elif line.startswith(b"data: "):
                        yield position, orjson.loads(line[6:])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error


def _status_of(code: str) -> int:
    """The HTTP status that a refusal would have had, had it come in time."""
    if code.startswith("unknown-") or code == "not-found":
        return 404
    return {"version": 412, "invalid": 422}.get(code, 409)


def _decoded(status: int, raw: bytes) -> Any:
    try:
        document = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        document = {"message": raw[:200].decode(errors="replace")}
    if status >= 400:
        raise ApiError(status, document if isinstance(document, dict) else {})
    return document
