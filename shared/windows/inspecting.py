"""Inspects the disks of one machine through a process of its own. Blocking; only reads.

Owns that process: its limits, its end, and what its failures mean. Call it on a thread. The
packages that read NTFS and registry hives are loaded there and never here (decision 0035).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from shared.windows.disks import ReadableDisk
from shared.windows.drivers import known_services
from shared.windows.errors import ReaderFailed, ReaderMissing, WindowsError
from shared.windows.reader import MISSING_STATUS, READ_BYTES_MAX, Answer, Read, Task, receive, send
from shared.windows.structs import WindowsFindings

_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("dissect.ntfs", "dissect.regf")
_STDERR_BYTES_KEPT: Final = 2048
_EXIT_TIMEOUT_S: Final = 5.0
# Made here: msgspec 0.22 must not meet a struct for the first time on two threads at once.
_MESSAGES: Final = msgspec.json.Decoder(Read | Answer)


class ReaderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one inspection may take. A Windows with a hive of 100 MB needs a tenth of it."""

    time_s: float = 120.0
    cpu_s: int = 60
    memory_bytes: int = 1 << 30
    read_bytes: int = 4 << 30


def inspect(
    disks: Sequence[ReadableDisk],
    services: Sequence[str] | None = None,
    *,
    limits: ReaderLimits | None = None,
) -> WindowsFindings:
    """What is on the disks, and how these drivers (all that are known, by default) start.

    Disks are in the order of the machine. Damage is told in the findings; raises `DiskFailed`,
    `ReaderMissing` where the optional packages are absent, and `ReaderFailed` where the disks are
    such that reading them found no end within the limits, or crashed.
    """
    limits = limits or ReaderLimits()
    wanted = known_services() if services is None else tuple(services)
    task = Task(
        sizes=tuple(disk.size for disk in disks),
        services=wanted,
        cpu_s_max=limits.cpu_s,
        memory_bytes_max=limits.memory_bytes,
    )
    return _Reading(disks, limits).run(task)


def reader_missing() -> ReaderMissing | None:
    """What `inspect` would raise on this machine for want of its packages. Loads none of them."""
    for package in _PACKAGES:
        # The first part is a namespace that any of its packages brings.
        with suppress(ModuleNotFoundError):
            if importlib.util.find_spec(package) is not None:
                continue
        return _missing()
    return None


def _missing() -> ReaderMissing:
    return ReaderMissing(
        "the packages that read Windows disks are not installed",
        remedy="pip install --require-hashes -r requirements-windows.txt "
        "into the environment that Seawall runs in",
    )


class _Reading:
    """One child process, from start to end."""

    def __init__(self, disks: Sequence[ReadableDisk], limits: ReaderLimits) -> None:
        self._disks = disks
        self._limits = limits
        self._bytes_left = limits.read_bytes
        # Why we ended the child, where we did.
        self._ended = ""

    def run(self, task: Task) -> WindowsFindings:
        """Start the child, serve it, and see that it is gone when this returns or raises."""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "shared.windows"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"},
        ) as child:
            why = f"took more than {self._limits.time_s:g} s"
            timer = threading.Timer(self._limits.time_s, self._end, args=(child, why))
            errors = _Tail(child.stderr)
            timer.start()
            errors.start()
            try:
                findings = self._serve(child, task)
            finally:
                timer.cancel()
                child.kill()
                errors.join()
                _close(child.stdin)
        if findings is None:
            raise self._failure(child.returncode, errors.last_line())
        return findings

    def _end(self, child: subprocess.Popen[bytes], why: str) -> None:
        self._ended = self._ended or why
        child.kill()

    def _serve(self, child: subprocess.Popen[bytes], task: Task) -> WindowsFindings | None:
        """Answer reads until the findings come; None where the child ended without."""
        assert child.stdin is not None and child.stdout is not None
        try:
            send(child.stdin, msgspec.json.encode(task))
            while (frame := receive(child.stdout)) is not None:
                message = _MESSAGES.decode(frame)
                if isinstance(message, Answer):
                    return message.findings
                if not self._is_granted(message):
                    self._end(child, f"asked for more than {self._limits.read_bytes} bytes")
                    break
                disk = self._disks[message.disk]
                send(child.stdin, disk.read_at(message.offset, message.length))
        except BrokenPipeError:
            pass  # It ended; its status says why.
        except msgspec.DecodeError:
            self._end(child, "spoke nonsense")
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_EXIT_TIMEOUT_S)
        return None

    def _is_granted(self, read: Read) -> bool:
        self._bytes_left -= max(0, read.length)
        inside = 0 <= read.disk < len(self._disks) and read.offset >= 0
        return inside and 0 <= read.length <= READ_BYTES_MAX and self._bytes_left >= 0

    def _failure(self, status: int, last_line: str) -> WindowsError:
        if status == MISSING_STATUS and not self._ended:
            return _missing()
        by_signal = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        why = self._ended or ": ".join(filter(None, (by_signal, last_line)))
        return ReaderFailed(
            f"the disks could not be read as those of a Windows machine: the reader {why}",
            remedy="the disks are damaged or hostile: recover from an older checkpoint, or skip "
            "the preparation if the drivers are boot-start already",
        )


def _close(pipe: IO[bytes] | None) -> None:
    """Close a pipe whose reader may be gone with bytes unsent."""
    if pipe is not None:
        with suppress(BrokenPipeError):
            pipe.close()


class _Tail(threading.Thread):
    """Drains a stream and keeps its end."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(name="windows-reader-errors", daemon=True)
        self._stream = stream
        self._kept = b""

    def last_line(self) -> str:
        """What a crash ends with: the exception, without the stack. Empty if there is nothing."""
        return self._kept.decode("utf-8", "replace").strip().rpartition("\n")[2]

    def run(self) -> None:
        assert self._stream is not None
        while piece := os.read(self._stream.fileno(), 4096):
            self._kept = (self._kept + piece)[-_STDERR_BYTES_KEPT:]
