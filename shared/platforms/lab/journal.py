"""`calls.jsonl`: one line per platform call, appended by every process that uses the site.

Owns the line's shape and the append. One `write` on an O_APPEND descriptor is one whole line,
whoever else appends. Not synced: it survives the death of processes, not of the machine.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import msgspec

from shared.platforms.lab.folder import SiteFolder
from shared.platforms.ports import Call

T = TypeVar("T")

Outcome = Literal["ok", "known", "throttled", "fault", "error"]

JOURNAL: Final = "calls.jsonl"
_ENCODE: Final = msgspec.json.Encoder().encode


class CallJournal:
    """Appends lines; safe for threads. Data-path calls are added up until `settle`."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self.enabled = True
        self._fd = -1
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._asked: dict[tuple[str, str], Call] = {}
        self._admitted = threading.local()

    def close(self) -> None:
        """Write what was added up and close the file."""
        for call_name, subject in tuple(self._sums):
            self.settle(call_name, subject)
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def admitted(self, at: str, work: Callable[[], T]) -> T:
        """Do the work of a call that its quotas let pass at `at`: its lines say so."""
        self._admitted.at = at
        try:
            return work()
        finally:
            self._admitted.at = ""

    def line(
        self,
        name: str,
        call: Call | None,
        outcome: Outcome,
        *,
        size: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Append one line. Nothing is written where the site folder is gone."""
        if not self.enabled:
            return
        record = {
            "at": now_text(),
            "call": name,
            "key": call.key if call else "",
            "outcome": outcome,
            "job": call.job if call else "",
            "vm": call.vm if call else "",
            "bytes": size,
        }
        if call is not None and call.plan:
            record["plan"] = call.plan
        if asked_at := getattr(self._admitted, "at", ""):
            record["asked_at"] = asked_at
        if extra:
            record.update(extra)
        self._append(_ENCODE(record) + b"\n")

    def add(self, name: str, call: Call, subject: str, size: int) -> None:
        """Count one data-path call on a snapshot's or generation's disk; no line yet."""
        key = (name, subject)
        with self._lock:
            entry = self._sums[key]
            entry[0] += 1
            entry[1] += size
            self._asked.setdefault(key, call)

    def settle(self, name: str, subject: str) -> None:
        """One line for all calls counted under the name and subject: how many, how many bytes.

        Its key is empty, since it stands for many requests; `part_of` is the first one's.
        """
        with self._lock:
            entry = self._sums.pop((name, subject), None)
            call = self._asked.pop((name, subject), None)
        if entry is None or call is None:
            return
        extra = {"part_of": call.key, "object": subject, "count": entry[0]}
        asked = msgspec.structs.replace(call, key="")
        self.line(name, asked, "ok", size=entry[1], extra=extra)

    def position(self) -> int:
        """The journal's size now, to search on from by `holds_ok`."""
        try:
            return os.stat(self._folder.root / JOURNAL).st_size
        except FileNotFoundError:
            return 0

    def holds_ok(self, name: str, key: str, start: int) -> bool:
        """Whether an `ok` line of the call and key stands after position `start`."""
        wanted = (name, key, "ok")
        path = self._folder.root / JOURNAL
        if not path.exists():
            return False
        with open(path, "rb") as stream:
            stream.seek(start)
            for raw in stream:
                if key.encode() not in raw:
                    continue
                try:
                    line = msgspec.json.decode(raw)
                except msgspec.DecodeError:
                    continue
                if (line.get("call"), line.get("key"), line.get("outcome")) == wanted:
                    return True
        return False

    def _append(self, line: bytes) -> None:
        with self._lock:
            if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
                # Somebody took the journal away; go on in a new one, if the folder is there.
                os.close(self._fd)
                self._fd = -1
            if self._fd < 0:
                try:
                    self._fd = os.open(
                        self._folder.root / JOURNAL,
                        os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
                        0o644,
                    )
                except FileNotFoundError:
                    return
            os.write(self._fd, line)


def now_text() -> str:
    """This moment, UTC, to the microsecond, as every file of the lab writes it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
