"""Judges a trial by the world outside: platform folders, call journals, script files, hashes.

Never looks at the control plane's own tables.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.acceptance.world import VMS, World


class Verdict(msgspec.Struct, kw_only=True):
    """What was found wrong; `unknown` are script starts without an end."""

    lost: list[str] = []
    doubled: list[str] = []
    unfinished: list[str] = []
    unknown: int = 0
    resume_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.unfinished) and self.resume_s <= 10.0


def judge_doubles(world: World, verdict: Verdict) -> None:
    """No platform object and no script start more than once per key."""
    for site in (world.east, world.west):
        done = Counter(
            (call["call"], call["key"])
            for call in world.calls(site)
            if call["outcome"] == "ok" and call["key"]
        )
        verdict.doubled += [f"{key} {count}×" for key, count in done.items() if count > 1]
    starts = Counter(line[1:] for line in world.script_lines() if line[0] == "start")
    verdict.doubled += [f"script {key} {count}×" for key, count in starts.items() if count > 1]
    ends = sum(line[0] == "end" for line in world.script_lines())
    verdict.unknown = sum(starts.values()) - ends


def judge_recovery(world: World, job: dict[str, Any], verdict: Verdict) -> None:
    """Every VM of an ended recovery is up once, on the bytes of its source's snapshot."""
    records = [yaml.safe_load((path / "instance.yaml").read_text()) for path in world.instances()]
    of_job = {record["vm"]: record for record in records if record["job"] == job["id"]}
    if len(of_job) != sum(record["job"] == job["id"] for record in records):
        verdict.doubled.append(f"a VM has two instances of {job['id']}")
    for vm in VMS:
        record = of_job.get(vm)
        if record is None or record["power"] != "on":
            verdict.lost.append(f"{vm} is not up after {job['id']} {job['state']}")
            continue
        _judge_disks(world, vm, world.west / "instances" / record["id"], verdict)


def _judge_disks(world: World, vm: str, folder: Path, verdict: Verdict) -> None:
    snapshots = [
        call["sha256"]
        for call in world.calls(world.east)
        if call["call"] == "open_snapshot" and call["outcome"] == "ok" and call["vm"] == vm
    ]
    for disk in sorted(snapshots[-1] if snapshots else {}):
        content = (folder / f"{disk}.raw").read_bytes()
        if hashlib.sha256(content).hexdigest() != snapshots[-1][disk]:
            verdict.lost.append(f"{vm}/{disk} differs from its last snapshot")


def judge_cleanup(world: World, job: dict[str, Any], verdict: Verdict) -> None:
    """Nothing of the recovery is left, and the cleanup says so."""
    if job["state"] != "completed":
        verdict.lost.append(f"cleanup {job['state']}: {job['error']} {job['remaining']}")
    verdict.lost += [f"{path.name} is left at west" for path in world.instances()]


def judge_snapshots(world: World, verdict: Verdict) -> None:
    """Every source snapshot that was opened was closed."""
    calls = world.calls(world.east)
    opened = Counter(
        c["vm"] for c in calls if c["call"] == "open_snapshot" and c["outcome"] == "ok"
    )
    closed = Counter(
        c["vm"] for c in calls if c["call"] == "close_snapshot" and c["outcome"] == "ok"
    )
    verdict.lost += [
        f"a snapshot of {vm} is left open" for vm, count in opened.items() if closed[vm] < count
    ]
