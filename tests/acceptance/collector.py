"""An OTLP receiver on loopback: spans of every process, as their bytes came and decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it arrived; ids in hex, `parent` empty for a root."""

    trace: str
    span: str
    parent: str
    name: str
    service: str
    about: Mapping[str, Any]
    links: int = 0
    error: bool = False


class Collector:
    """What arrived, in files of `folder`: one request each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.headers: list[Mapping[str, str]] = []
        self._lock = threading.Lock()
        folder.mkdir()

    def take(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Keep a request."""
        with self._lock:
            self.headers.append(headers)
            file = self.folder / f"{len(self.headers):06}.pb"
            file.with_suffix(".part").write_bytes(body)
            file.with_suffix(".part").rename(file)

    def spans(self) -> Sequence[Seen]:
        """All spans so far."""
        return [span for file in sorted(self.folder.glob("*.pb")) for span in _spans(file)]


def _spans(file: Path) -> Iterator[Seen]:
    request = ExportTraceServiceRequest.FromString(file.read_bytes())
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    service=service,
                    about=_values(span.attributes),
                    links=len(span.links),
                    error=span.status.code == span.status.STATUS_CODE_ERROR,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collector(folder: Path) -> Iterator[tuple[Collector, str]]:
    """A collector that listens, and its address."""
    found = Collector(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.take(body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Tests keep what they need."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
