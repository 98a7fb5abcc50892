"""Judges of full recoveries: who ran when, on which bytes, and what is left.

Like `judge`, they look at the world outside alone: the sites' call journals and folders, and what
guests say (`live`). What jobs claim is compared with it. They hold in either direction: a VM
moves from whatever it runs as, at whichever site, to the other site.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.platforms.lab import tools
from shared.platforms.lab.copies import CopyFolder
from shared.platforms.lab.folder import SiteFolder
from tests.acceptance.judge import Script, Verdict, record_of
from tests.acceptance.live import Line, LiveWorld, boots_of, disks_of
from tests.acceptance.world import PLAN, VMS
from tests.waiting import wait_until

STAGED_S_MAX = 120.0

SWITCHED_OFF = ("shut_down_source", "power_off_source")
GONE = ("power_off", "delete_instance")
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
    """By the journals: an instance is powered on when nothing else of its VM is on, what a VM ran
    as is powered on again after every instance of that recovery was deleted, and no VM has two
    instances of one recovery at a time.

    A line is written after its call was done, and what depends on the call is asked for after
    that: a line that stands too early is a call that came too early.
    """
    on: dict[str, set[str]] = defaultdict(lambda: {""})  # what a VM ran as before, or a recovery
    source: dict[tuple[str, str], set[str]] = {}
    made: Counter[tuple[str, str]] = Counter()
    done = (call for call in calls if call["outcome"] == "ok" and call["job"] in full)
    for call in sorted(done, key=lambda call: str(call["at"])):
        vm, job, name = call["vm"], call["job"], call["call"]
        if name in SWITCHED_OFF:
            source[vm, job] = source.get((vm, job), set()) | on[vm] - {job}
            on[vm] -= source[vm, job]
        elif name == "power_on_source":
            there = sorted({found for (of, found), count in made.items() if of == job and count})
            again = source.get((vm, job), {""})
            if there or on[vm] - again:
                beside = f"instances of {there}" if there else "what it had moved to"
                verdict.doubled.append(f"{vm} was powered on beside {beside}")
            on[vm] |= again
        elif name == "create_instance":
            made[job, vm] += 1
            if made[job, vm] > 1:
                verdict.doubled.append(f"{vm} got a second instance of {job}")
        elif name == "power_on":
            if on[vm] - {job}:
                verdict.doubled.append(f"an instance of {vm} was powered on while it ran")
            on[vm].add(job)
        elif name in GONE:
            on[vm].discard(job)
            made[job, vm] -= name == "delete_instance"


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
    for call in sorted(calls, key=lambda call: str(call["at"])):
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
    """Every VM runs once, at the other site, in production under its own name, and what it ran as
    is off.

    `as_left`: on the very bytes that were left when it was shut down; and these are still what
    lies where they were left.
    """
    left = world.left()
    made = [(folder, record_of(folder)) for folder in world.instances()]
    for vm in vms:
        source = world.source(vm)
        (was,) = tools.status(source)
        if was.power != "off":
            verdict.doubled.append(f"the source of {vm} is {was.power} after {job}")
        of_vm = [each for each in made if (each[1]["vm"], each[1]["job"]) == (vm, job)]
        if len(of_vm) != 1:
            verdict.lost.append(f"{vm} has {len(of_vm)} instances after {job}")
            continue
        ((folder, record),) = of_vm
        if site_of(folder) == site_of(source):
            verdict.lost.append(f"{vm} came up at {site_of(folder).name}, where it was")
        (machine,) = tools.status(folder)
        found = (machine.power, machine.heartbeat, record["network"], record["name"])
        if found != ("on", True, "prod", vm):
            verdict.lost.append(f"the instance of {vm} is {found}")
        if not as_left:
            continue
        if not left.get(source):
            verdict.lost.append(f"{vm} was never shut down cleanly")
        there = {"instance": disks_of(folder), "source": disks_of(source)}
        for file, sha256 in left.get(source, {}).items():
            for place, disks in there.items():
                if disks.get(file) != sha256:
                    verdict.lost.append(f"{vm}/{file} of the {place} is not as it was left")


def judge_retired(world: LiveWorld, verdict: Verdict) -> None:
    """What VMs do not run as any more was never powered on again, and holds what it was left
    with: originals for ever, instances until they are deleted."""
    for folder, was in world.retired.items():
        if not folder.exists():
            if folder == world.original(was.vm):
                verdict.lost.append(f"the original of {was.vm} is gone")
            continue
        where = folder.relative_to(world.root)
        (machine,) = tools.status(folder)
        if machine.power != "off" or boots_of(folder) != was.boots:
            verdict.doubled.append(f"{where} was powered on again")
        if disks_of(folder) != was.disks:
            verdict.lost.append(f"{where} was written to after {was.vm} had left it")


def judge_copies(
    world: LiveWorld, verdict: Verdict, *, plan: str = PLAN, vms: Iterable[str] = VMS
) -> None:
    """The copy of every VM at the other site is what its disks hold, byte for byte."""
    for vm in vms:
        source = world.source(vm)
        (target,) = {world.east, world.west} - {site_of(source)}
        copied = _copied(CopyFolder(SiteFolder(target), plan, vm))
        for file, sha256 in disks_of(source).items():
            if copied.get(file) != sha256:
                told = "differs from its source" if file in copied else "is not there"
                verdict.lost.append(f"the copy of {vm}/{file} at {target.name} {told}")


def _copied(home: CopyFolder) -> dict[str, str]:
    """Disk file → SHA-256, of the current copy put together from its layers."""
    current = home.current()
    if current is None:
        return {}
    found = {}
    for each in current.disks:
        view, disk = home.open_view(current.copy_id, each.name)
        try:
            content = bytearray(disk.size)
            view.read(memoryview(content), 0)
        finally:
            view.close()
        found[disk.file] = hashlib.sha256(content).hexdigest()
    return found


def judge_returned(world: LiveWorld, verdict: Verdict) -> None:
    """Every source runs, and nothing of a recovery is left."""
    for vm in VMS:
        (machine,) = tools.status(world.source(vm))
        found = (machine.power, machine.heartbeat)
        if found != ("on", True):
            verdict.lost.append(f"the source of {vm} is {found}")
    judge_nothing_left(world, verdict)


def judge_nothing_left(
    world: LiveWorld, verdict: Verdict, *, within_s: float = STAGED_S_MAX
) -> None:
    """At neither site an instance that no VM runs as, a rebuilt disk or a held copy, half removed
    ones included; and soon no staged generation: an iteration that a recovery does not wait for
    any more may still be ending."""
    sources = {world.source(vm) for vm in VMS}
    left: list[Path] = []
    for site in (world.east, world.west):
        left += [path for path in site.glob("instances/*/") if path not in sources]
        left += [*site.glob("disks/*/"), *site.glob("replicas/*/*/held-*.json")]
    try:
        wait_until(lambda: not _staged(world), "nothing is staged", within_s=within_s)
    except AssertionError:
        left += _staged(world)
    verdict.lost += [f"{path.relative_to(world.root)} is left" for path in left]


def site_of(machine: Path) -> Path:
    """The site that a machine's folder is at."""
    return machine.parent.parent


def _staged(world: LiveWorld) -> list[Path]:
    sites = (world.east, world.west)
    return [path for site in sites for path in site.glob("replicas/*/*/staged/[!.]*")]
