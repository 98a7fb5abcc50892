"""The files of an export: segments of a log in a hash chain, states, and the manifest.

Pure but for compression. A segment holds rows of one (service, topic, partition) in seq order, one
JSON document a line, under a header that names the SHA-256 of the segment before it. The manifest
names every file with its SHA-256, so that a missing end shows as well as a missing middle.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from shared.archive.errors import Broken, NotAnExport

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
ROWS_MAX: Final = 10_000
"""Rows in a segment: some megabytes, which is what an export or import holds in memory."""

_COMPRESSION: Final = 4
_NAMED: Final = 16
"""Digits of a SHA-256 in a name."""

T = TypeVar("T")


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One row of a log as it is kept; what it has in common with its segment is in the header."""

    seq: int
    stream: str
    version: int
    type: str
    schema_version: int
    data: msgspec.Raw
    meta: msgspec.Raw
    recorded_on: str


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a segment. `previous` is "" for the first of its partition."""

    format: int
    service: str
    topic: str
    partition: int
    epoch: int
    first: int
    last: int
    previous: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment in the manifest. `end_sha256` is of its last row: is this log still that one?"""

    name: str
    first: int
    last: int
    sha256: str
    end_sha256: str

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


class File(msgspec.Struct, frozen=True):
    """Any other file in the manifest."""

    name: str
    sha256: str


class ServiceFiles(msgspec.Struct, kw_only=True):
    """One service: its epoch, the state that goes with these rows, and its segments in order.

    `topics` maps a topic to its partitions, by number as text, to segments.
    """

    epoch: int
    state: File
    topics: dict[str, dict[str, list[Segment]]] = {}

    def segments(self) -> Iterator[Segment]:
        """All of them, in the order in which `topics` goes through them."""
        for partitions in self.topics.values():
            yield from itertools.chain.from_iterable(partitions.values())


class Manifest(msgspec.Struct, kw_only=True):
    """Everything an export consists of. All states and rows are of one moment, `taken_at`."""

    format: int = FORMAT
    taken_at: dt.datetime | None = None
    services: dict[str, ServiceFiles] = {}


class Effect(msgspec.Struct, frozen=True, array_like=True):
    """An effect that was not settled; one that ran is as good as ready."""

    effect_id: str
    stream: str
    partition: int
    stream_version: int
    kind: str
    type: str
    schema_version: int
    data: msgspec.Raw
    meta: msgspec.Raw
    work_class: int
    priority: int
    plan: str
    due: dt.datetime
    ready_at: dt.datetime
    interval_s: float
    needs: str
    attempt: int
    cancelled: bool


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A timer that has not fired."""

    stream: str
    name: str
    partition: int
    due: dt.datetime
    type: str
    schema_version: int
    data: msgspec.Raw
    meta: msgspec.Raw


class State(msgspec.Struct, kw_only=True):
    """What a service needs besides its log, at one moment. Rows are in the order of columns.

    Snapshots, leases of partitions and workers, and read models are not part of it: they come back
    by themselves. `claim_no` is the last number given to a claim (decision 0007).
    """

    cursors: list[tuple[str, str, int, int, int]] = []
    reservations: list[tuple[str, str]] = []
    parked: list[tuple[str, str, int, int, str, str, dt.datetime, str]] = []
    timers: list[Timer] = []
    effects: list[Effect] = []
    budgets: list[tuple[str, str, int, float, float]] = []
    seats: list[tuple[str, str]] = []
    blobs: list[str] = []
    claim_no: int = 0


_encode: Final = msgspec.json.Encoder().encode
_header: Final = msgspec.json.Decoder(Header).decode
_row: Final = msgspec.json.Decoder(Row).decode


def segment_name(header: Header, sha256: str) -> str:
    """Where a segment lies. Its content is in the name: rows never change, but how they were
    compressed, or which segment came before, may differ between two exports of them."""
    where = f"{header.service}/{header.topic}/{header.partition:02}"
    return f"{where}/{header.first:012}-{header.last:012}-{sha256[:_NAMED]}.jsonl.gz"


def state_name(service: str, taken_at: dt.datetime, sha256: str) -> str:
    """Where a state lies. Contents come back, names never do: a late export that deletes what it
    has replaced cannot meet a file of a newer one."""
    moment = taken_at.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return f"{service}/state-{moment}-{sha256[:_NAMED]}.json.gz"


def blob_name(sha256: str) -> str:
    """Where a blob lies, whichever service keeps it."""
    return f"blobs/{sha256[:2]}/{sha256}.gz"


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def line_of(row: Row) -> bytes:
    """A row as a line, without its end."""
    line = _encode(row)
    if b"\n" in line:
        # A document that somebody stored prettily: its line must stay one.
        line = msgspec.json.format(line, indent=-1)
    return line


def pack_segment(header: Header, lines: Sequence[bytes]) -> tuple[Segment, bytes]:
    """A segment's entry in the manifest, and its content."""
    content = compress(b"\n".join([_encode(header), *lines, b""]))
    sha256 = sha256_of(content)
    segment = Segment(
        name=segment_name(header, sha256),
        first=header.first,
        last=header.last,
        sha256=sha256,
        end_sha256=sha256_of(lines[-1]),
    )
    return segment, content


def short_tail(segments: Sequence[Segment], new_rows: int) -> Sequence[Segment]:
    """The last segments, in order, that are written again with the first of `new_rows` more.

    An export every few seconds would leave millions of tiny files. So that each row is written
    again only a few times, a segment is replaced only by one at least twice as long.
    """
    rows, count = min(new_rows, ROWS_MAX), 0
    for segment in reversed(segments):
        if segment.rows > rows or segment.rows + rows > ROWS_MAX:
            break
        rows += segment.rows
        count += 1
    return segments[len(segments) - count :]


def lines_of(segment: Segment, content: bytes | None) -> tuple[Header, list[bytes]]:
    """The header and the rows of a segment, unread. Raises Broken."""
    text = decompress(segment.name, segment.sha256, content)
    head, *lines = text.removesuffix(b"\n").split(b"\n")
    header = decoded(segment.name, Header, head)
    if (header.first, header.last) != (segment.first, segment.last):
        raise Broken(segment.name, "its header names other rows than the manifest")
    return header, lines


def rows_of(
    segment: Segment,
    content: bytes | None,
    *,
    where: tuple[str, str, int],
    previous: Segment | None,
) -> list[Row]:
    """The rows of a segment that follows `previous` in a log. Raises Broken naming the file."""
    header, lines = lines_of(segment, content)
    if (header.service, header.topic, header.partition) != where:
        raise Broken(segment.name, f"its header says it is of {header.service} {header.topic}")
    if header.previous != (previous.sha256 if previous else ""):
        raise Broken(segment.name, "it does not follow the segment before it: the chain is broken")
    if header.first != (previous.last if previous else 0) + 1:
        raise Broken(segment.name, f"it begins at row {header.first}, rows before it are missing")
    rows = [decoded(segment.name, Row, line) for line in lines]
    if [row.seq for row in rows] != list(range(header.first, header.last + 1)):
        raise Broken(segment.name, f"its rows are not {header.first} to {header.last}")
    return rows


def state_of(file: File, content: bytes | None) -> State:
    """The state of a service. Raises Broken."""
    return decoded(file.name, State, decompress(file.name, file.sha256, content))


def blob_of(sha256: str, content: bytes | None) -> bytes:
    """A blob. Raises Broken unless it is the one that its name says."""
    name = blob_name(sha256)
    if content is None:
        raise Broken(name, "it is missing")
    try:
        blob = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as wrong:
        raise Broken(name, f"it cannot be read: {wrong}") from wrong
    if sha256_of(blob) != sha256:
        raise Broken(name, "its content is not what its name says")
    return blob


def compress(content: bytes) -> bytes:
    """The same bytes for the same content, whenever it is written."""
    return gzip.compress(content, compresslevel=_COMPRESSION, mtime=0)


def decompress(name: str, sha256: str, content: bytes | None) -> bytes:
    """The content of a file that must be there and have this SHA-256. Raises Broken."""
    if content is None:
        raise Broken(name, "it is missing")
    if sha256_of(content) != sha256:
        raise Broken(name, "it is not the file that was written: its SHA-256 differs")
    return gzip.decompress(content)


def decoded(name: str, kind: type[T], content: bytes) -> T:
    """A document of a file. Raises Broken."""
    try:
        if kind is Header:
            return _header(content)  # type: ignore[return-value]
        if kind is Row:
            return _row(content)  # type: ignore[return-value]
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as wrong:
        raise Broken(name, f"it cannot be read: {wrong}") from wrong


def pack(document: Any) -> bytes:
    """Any other document of an export."""
    return compress(_encode(document))


def pack_manifest(manifest: Manifest) -> bytes:
    """The manifest, for people to read too."""
    return msgspec.json.format(_encode(manifest), indent=1)


def read_manifest(content: bytes | None) -> Manifest:
    """Raises NotAnExport for none or one of another format, Broken for one that is spoilt."""
    if content is None:
        raise NotAnExport(
            f"there is no {MANIFEST}", remedy="name the place that `seawall log export` wrote to"
        )
    manifest = decoded(MANIFEST, Manifest, content)
    if manifest.format != FORMAT:
        raise NotAnExport(
            f"the export is of format {manifest.format}, this build reads {FORMAT}",
            remedy="import it with the build that wrote it",
        )
    return manifest
