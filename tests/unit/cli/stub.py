"""A control plane that answers what a test tells it, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

Told = tuple[int, Any]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


class Stub:
    """Answers by (method, path): in turn, the last one for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Told]] = {}

    def tell(self, method: str, path: str, *answers: Told) -> None:
        """What to answer there. Bytes go as a text/event-stream, anything else as JSON."""
        self._answers[method, path] = list(answers)

    def answer(self, asked: Asked) -> Told:
        """The next answer."""
        self.asked.append(asked)
        left = self._answers.get((asked.method, asked.path))
        if left is None:
            message = f"the stub was not told of {asked.method} {asked.path}"
            return 404, {"code": "not-found", "message": message, "remedy": "tell it"}
        return left.pop(0) if len(left) > 1 else left[0]

    def bodies(self, path: str) -> list[Any]:
        """The bodies that came to a path."""
        return [asked.body for asked in self.asked if asked.path == path]


@contextmanager
def stub_server() -> Iterator[Stub]:
    """A stub on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            asked = Asked(
                method=self.command,
                path=unquote(parts.path),
                query=dict(parse_qsl(parts.query)),
                body=json.loads(raw) if raw else None,
                headers=dict(self.headers.items()),
            )
            status, document = stub.answer(asked)
            streams = isinstance(document, bytes)
            data = document if streams else json.dumps(document).encode()
            self.send_response(status)
            kind = "text/event-stream" if streams else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def job(state: str, **fields: Any) -> dict[str, Any]:
    """A job's document."""
    return {
        "id": "recovery:shop:r1", "kind": "test-recovery", "plan": "shop", "vm": None,
        "disk": None, "parent_id": None, "state": state, "percent": 50.0, "actor": "admin",
        "created_at": "2026-11-22T20:00:00Z", "started_at": None, "ended_at": None,
        "bytes_done": 0, "bytes_total": 0, "rto_s": None, "error": None, "steps": [],
        "children": [], "instances": [], **fields,
    }  # fmt: skip


def listing(*items: Any, following: str | None = None) -> dict[str, Any]:
    """A page."""
    return {"items": list(items), "next": following, "as_of": {"position": 9, "lag_s": 0.1}}


def refusal(code: str, message: str = "it cannot be", **details: Any) -> dict[str, Any]:
    """A problem document."""
    return {"code": code, "message": message, "remedy": "do otherwise", "details": details}
