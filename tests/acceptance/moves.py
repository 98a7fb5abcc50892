"""Judges of full recoveries: who ran when, on which bytes, and what is left.

Like `judge`, they look at the world outside alone: the sites' call journals and folders, and what
guests say (`live`). What jobs claim is compared with it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.platforms.lab import tools
from tests.acceptance.judge import Script, Verdict
from tests.acceptance.live import Line, LiveWorld
from tests.acceptance.world import VMS
from tests.waiting import wait_until

STAGED_S_MAX = 120.0

SWITCHED_OFF = ("shut_down_source", "power_off_source")
BUILT = ("hold", "rebuild_disk", "create_instance", "power_on")
NO_SCRIPT_YET = ("pending", "skipped", "cancelled")


def judge_moves(world: LiveWorld, full: Collection[str], verdict: Verdict) -> None:
    """No VM ran twice in production, and nothing was done out of order; `full` are the ids of
    full recoveries. Judged once, over all that happened."""
    calls = [*world.calls(world.east), *world.calls(world.west)]
    judge_order(calls, full, verdict)
    judge_barrier(calls, world.guest_lines(), full, verdict)
    judge_clashes(world.guest_lines(), verdict)


def judge_order(
    calls: Iterable[Mapping[str, Any]], full: Collection[str], verdict: Verdict
) -> None:
    """By the journals: an instance is powered on after its source was switched off, a source
    after every instance of its recovery was deleted, and no VM has two instances at a time.

    A line is written after its call was done, and what depends on the call is asked for after
    that: a line that stands too early is a call that came too early.
    """
    off: set[str] = set()
    made: Counter[tuple[str, str]] = Counter()
    done = (call for call in calls if call["outcome"] == "ok")
    for call in sorted(done, key=lambda call: str(call["at"])):
        vm, job = call["vm"], call["job"]
        name = "" if job not in full else call["call"]
        if name in SWITCHED_OFF:
            off.add(vm)
        elif name == "power_on_source":
            off.discard(vm)
            there = sorted({found for (of, found), count in made.items() if of == job and count})
            if there:
                verdict.doubled.append(f"{vm} was powered on beside instances of {there}")
        elif name == "create_instance":
            made[job, vm] += 1
            if made[job, vm] > 1:
                verdict.doubled.append(f"{vm} got a second instance of {job}")
        elif name == "power_on" and vm not in off:
            verdict.doubled.append(f"an instance of {vm} was powered on, and its source was on")
        elif name == "delete_instance":
            made[job, vm] -= 1


def judge_barrier(
    calls: Iterable[Mapping[str, Any]],
    lines: Iterable[Line],
    full: Collection[str],
    verdict: Verdict,
) -> None:
    """Nothing was held or built for a recovery before the last of its sources had ended.

    The journal tells which recovery asked a source to end, the source itself when it did: the
    n-th time it was asked, it ended for the n-th time.
    """
    asked: dict[str, list[str]] = {}
    built: dict[str, float] = {}
    for call in calls:
        if call["outcome"] != "ok" or call["job"] not in full:
            continue
        if call["call"] == "shut_down_source":
            asked.setdefault(call["vm"], []).append(call["job"])
        elif call["call"] in BUILT:
            at = dt.datetime.fromisoformat(call["at"]).timestamp()
            built[call["job"]] = min(at, built.get(call["job"], at))
    ended: dict[str, list[float]] = {}
    for word, vm, *rest in lines:
        if word == "left":
            ended.setdefault(vm, []).append(rest[-1])
    for vm, jobs in asked.items():
        for job, ended_at in zip(jobs, ended.get(vm, ()), strict=False):
            if built.get(job, ended_at) < ended_at:
                verdict.doubled.append(f"{job} was built before {vm} had ended")


def judge_clashes(lines: Iterable[Line], verdict: Verdict) -> None:
    """By the guests: none came up and found its address in use."""
    verdict.doubled += [
        f"{vm} came up as {where} while another copy of it ran"
        for word, vm, where, *_ in lines
        if word == "clash"
    ]


def judge_outcome(
    job: Mapping[str, Any],
    shown: Mapping[Script, str],
    verdict: Verdict,
    *,
    expected: str = "completed",
) -> None:
    """The job ended as `expected`; *completed* is *partially completed* with a script unknown."""
    if expected == "completed" and "unknown" in shown.values():
        expected = "partially-completed"
    if job["state"] != expected:
        told = f"{job['id']} ended {job['state']}, not {expected}: {job['error']}"
        verdict.lost.append(f"{told} {job.get('remaining') or ''}".rstrip())


def scripts_that_ran(shown: Mapping[Script, str]) -> dict[Script, str]:
    """The scripts of an operation that was taken back, without those whose turn never came."""
    return {script: state for script, state in shown.items() if state not in NO_SCRIPT_YET}


def judge_moved(
    world: LiveWorld, job: str, verdict: Verdict, *, as_left: bool, vms: Iterable[str] = VMS
) -> None:
    """Every VM runs once, at west, in production under its own name, and its source is off.

    `as_left`: on the very bytes that the source left when it was shut down; and these are still
    what lies at east.
    """
    power = {machine.name: machine.power for machine in tools.status(world.east)}
    left = world.left()
    records = [_record(path) for path in world.instances()]
    for vm in vms:
        if power[vm] != "off":
            verdict.doubled.append(f"the source of {vm} is {power[vm]} after {job}")
        made = [record for record in records if (record["vm"], record["job"]) == (vm, job)]
        if len(made) != 1:
            verdict.lost.append(f"{vm} has {len(made)} instances after {job}")
            continue
        (record,) = made
        folder = world.west / "instances" / record["id"]
        (machine,) = tools.status(folder)
        found = (machine.power, machine.heartbeat, record["network"], record["name"])
        if found != ("on", True, "prod", vm):
            verdict.lost.append(f"the instance of {vm} is {found}")
        if not as_left:
            continue
        if vm not in left:
            verdict.lost.append(f"{vm} was never shut down cleanly")
        for file, sha256 in left.get(vm, {}).items():
            for place, path in (("instance", folder / file), ("source", world.source(vm) / file)):
                if _sha256(path) != sha256:
                    verdict.lost.append(f"{vm}/{file} of the {place} is not as it was left")


def judge_returned(world: LiveWorld, verdict: Verdict) -> None:
    """Every source runs, and nothing of a recovery is left."""
    for machine in tools.status(world.east):
        if machine.kind == "vm" and machine.name in VMS:
            found = (machine.power, machine.heartbeat)
            if found != ("on", True):
                verdict.lost.append(f"the source of {machine.name} is {found}")
    judge_nothing_left(world, verdict)


def judge_nothing_left(
    world: LiveWorld, verdict: Verdict, *, within_s: float = STAGED_S_MAX
) -> None:
    """No instance, rebuilt disk or held copy, half removed ones included; and soon no staged
    generation: an iteration that a recovery does not wait for any more may still be ending."""
    left = [
        *(world.west / "instances").glob("*/"),
        *(world.west / "disks").glob("*/"),
        *(world.west / "replicas").glob("*/*/held-*.json"),
    ]
    try:
        wait_until(lambda: not _staged(world), "nothing is staged", within_s=within_s)
    except AssertionError:
        left += _staged(world)
    verdict.lost += [f"{path.relative_to(world.west)} is left at west" for path in left]


def _staged(world: LiveWorld) -> list[Path]:
    return list((world.west / "replicas").glob("*/*/staged/[!.]*"))


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "instance.yaml").read_text())
    return found


def _sha256(path: Path) -> str:
    """In hexadecimal; empty where there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
