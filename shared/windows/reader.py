"""The process that reads the disks of a machine, and the frames it speaks with its parent.

Disks come from machines that anyone may have written to, and the packages that read them were
made for honest ones. So they run here: with limits on time and memory that the system enforces,
without a way to write, without anything of the parent's environment. All the process can do is
ask its parent for ranges of the disks and answer with findings.

Standard input and output carry frames: a length (4 bytes, big-endian), then JSON, or the bytes of
a range. The parent begins with a `Task`; the child sends `Read` or, last, `Answer`.
"""

from __future__ import annotations

import resource
import struct
import sys
from typing import IO, Final

import msgspec

from shared.windows.errors import DiskFailed
from shared.windows.structs import WindowsFindings

READ_BYTES_MAX: Final = 1 << 20
FRAME_BYTES_MAX: Final = 8 << 20
MISSING_STATUS: Final = 3
"""Exit status where the packages that read NTFS and hives are not installed."""

_LENGTH: Final = struct.Struct(">I")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at, and the limits that the process sets itself before it begins."""

    sizes: tuple[int, ...]
    services: tuple[str, ...]
    cpu_s_max: int
    memory_bytes_max: int


class Read(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Please, these bytes; the answer is shorter where the disk ends."""

    disk: int
    offset: int
    length: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All was read."""

    findings: WindowsFindings


def send(stream: IO[bytes], payload: bytes) -> None:
    """Write one frame."""
    stream.write(_LENGTH.pack(len(payload)))
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one frame; None where the other side has ended, or sent more than any frame has."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    if length > FRAME_BYTES_MAX:
        return None
    payload = stream.read(length)
    return payload if len(payload) == length else None


class AskedDisk:
    """A disk of the parent's, read by asking for it."""

    def __init__(self, number: int, size: int, asks: IO[bytes], answers: IO[bytes]) -> None:
        self._number = number
        self._size = size
        self._asks = asks
        self._answers = answers

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        pieces = []
        end = min(offset + length, self._size)
        while offset < end:
            piece = self._ask(offset, min(READ_BYTES_MAX, end - offset))
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def _ask(self, offset: int, length: int) -> bytes:
        request = Read(disk=self._number, offset=offset, length=length)
        send(self._asks, msgspec.json.encode(request))
        if (piece := receive(self._answers)) is None:
            raise DiskFailed("the parent process ended, or could not read")
        return piece


def main() -> int:
    """Read one task, work, answer; the exit status is for the parent alone."""
    asks, answers = sys.stdout.buffer, sys.stdin.buffer
    if (frame := receive(answers)) is None:
        return 1
    task = msgspec.json.decode(frame, type=Task)
    resource.setrlimit(resource.RLIMIT_CPU, (task.cpu_s_max, task.cpu_s_max))
    resource.setrlimit(resource.RLIMIT_AS, (task.memory_bytes_max, task.memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from shared.windows.reading import read_machine
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "dissect":
            raise
        return MISSING_STATUS
    disks = [AskedDisk(n, size, asks, answers) for n, size in enumerate(task.sizes)]
    try:
        findings = read_machine(disks, task.services)
    except DiskFailed:
        return 1  # The parent knows why: it is the one who reads.
    send(asks, msgspec.json.encode(Answer(findings=findings)))
    return 0
