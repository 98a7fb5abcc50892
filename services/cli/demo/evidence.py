"""What the demo's checks rest on: folders, the platform's listing, processes, journals, mails.

Nothing here asks the control plane.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
from email.message import EmailMessage
from pathlib import Path

import psutil

from shared.platforms.lab import tools
from shared.platforms.lab.manifest import open_platform


def snapshots(journal: Path, *, before: str) -> dict[str, dict[str, str]]:
    """VM → disk → SHA-256 of its last snapshot that was opened before a moment."""
    limit = dt.datetime.fromisoformat(before)
    found: dict[str, dict[str, str]] = {}
    for line in journal.read_text().splitlines():
        call = json.loads(line)
        opened = call["call"] == "open_snapshot" and call["outcome"] == "ok"
        if opened and dt.datetime.fromisoformat(call["at"]) <= limit:
            found[call["vm"]] = call["sha256"]
    return found


def processes_of(site: Path) -> list[int]:
    """The processes of a site's instances."""
    return [machine.pid for machine in tools.status(site) if machine.pid]


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked about yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_at(site: Path) -> list[str]:
    """What a test has left: files of instances and disks, and what the platform lists as ours."""
    files = [
        str(path.relative_to(site))
        for folder in ("instances", "disks")
        for path in (site / folder).rglob("*")
        if path.is_file() and path.name != ".lock"
    ]
    owned = asyncio.run(open_platform({"path": str(site)}).compute.list_owned())
    return [*files, *(f"{each.kind} {each.object_id}" for each in owned)]


def named(left: list[str]) -> str:
    """What is left, for the end of a sentence."""
    return f": {', '.join(left[:5])}" if left else ""


def text_of(mail: EmailMessage) -> str:
    """A mail's plain text."""
    body = mail.get_body(("plain",))
    return str(body.get_content()) if body is not None else ""


def sha256(path: Path) -> str:
    """A file's SHA-256, or that it is missing."""
    if not path.exists():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
