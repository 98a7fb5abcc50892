"""Judges a trial by the world outside: platform folders, call journals, script files, hashes.

Never looks at the control plane's own tables. What jobs show, through the API, is judged too: as
a claim about scripts that the scripts' own lines must bear out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.acceptance.client import Accepted
from tests.acceptance.world import PLANS, VMS, World

RESUME_S_MAX = 10.0
START_S_IDLE = 5.0
"""Twice what six processes take to start on two idle cores, after which they answer."""

Script = tuple[str, str]
"""A script's name and the recovery it was started for."""


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """How long after a restart the first call came, and after what part of that all that had
    been started said that it runs."""

    resume_s: float = 0.0
    start_s: float = 0.0

    @property
    def late(self) -> bool:
        """Whether the product took its time: what starting took beyond `START_S_IDLE` was the
        machine's, where others want its processors too."""
        return self.resume_s - max(0.0, self.start_s - START_S_IDLE) > RESUME_S_MAX


class Verdict(msgspec.Struct, kw_only=True):
    """What was found wrong, and how it went.

    `unknown` are the script steps that jobs show as unknown; `unfounded` those of them that have
    not a start line without an end line, and scripts cut off that are shown as anything else.
    `killed` is who was killed, `resumes` how it went on, kill by kill.
    """

    lost: list[str] = []
    doubled: list[str] = []
    unfinished: list[str] = []
    unfounded: list[str] = []
    unknown: int = 0
    resumes: tuple[Resume, ...] = ()
    killed: tuple[str, ...] = ()

    @property
    def worst(self) -> Resume:
        """The kill after which it took longest to go on."""
        return max(self.resumes, key=lambda each: each.resume_s, default=Resume())

    @property
    def late(self) -> bool:
        """Whether it took too long after any kill."""
        return any(each.late for each in self.resumes)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.lost or self.doubled or self.unfinished or self.unfounded
        return not wrong and not self.late


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


def judge_scripts(
    lines: Iterable[tuple[str, str, str]], shown: Mapping[Script, str], verdict: Verdict
) -> None:
    """Every script of an ended recovery was run, and its step's state is what its lines tell.

    Both lines: completed. A start alone: unknown. A script without its start line may be shown
    as nothing: it has not run, and should have.
    """
    found = set(lines)
    verdict.unknown += sum(state == "unknown" for state in shown.values())
    for script, state in shown.items():
        begun, over = ("start", *script) in found, ("end", *script) in found
        told = "completed" if over else "unknown" if begun else "not run"
        if state == "unknown" and told != "unknown":
            verdict.unfounded.append(f"{script} is shown unknown and is {told}")
        elif told == "unknown" and state != "unknown":
            verdict.unfounded.append(f"{script} was cut off and is shown {state}")
        elif state not in ("completed", "unknown") or told == "not run":
            verdict.lost.append(f"{script} is shown {state} and is {told}")


def judge_accepted(world: World, accepted: Iterable[Accepted], verdict: Verdict) -> None:
    """Every command that was answered 202 has its result at the sites."""
    done = [
        (
            call["call"],
            call["job"] if call["call"] != "delete_instance" else call["key"],
            call["vm"],
        )
        for site in (world.east, world.west)
        for call in world.calls(site)
        if call["outcome"] == "ok"
    ]
    for each in accepted:
        missing = [found for found in _results(each) if not _holds(world, found, done)]
        verdict.lost += [f"{each.path}: no {' '.join(found)}" for found in missing]


def _results(command: Accepted) -> list[tuple[str, str, str]]:
    """What must be found at the sites: (call, start of its job or key, VM)."""
    match command.path.strip("/").split("/")[1:]:
        case ["sites"]:
            return [("check", "", command.body["name"])]
        case ["plans"]:
            plan = command.body["plan"]["name"]
            return [("copy", plan, vm) for vm in PLANS[plan]]
        case ["plans", plan, "run"]:
            return _iterations(plan, command.job.rpartition(":")[2] or "none")
        case ["plans", plan, "recover"]:
            job = command.job or "none"
            mode = command.body.get("mode", "test")
            if mode == "reverse":
                return _iterations(plan, f"reverse-{job.rpartition(':')[2]}")
            # Whether its instances should be there is seen from what became of it.
            seen = ["shut_down_source"] if mode != "test" else ["create_instance", "power_on"]
            return [(call, job, vm) for call in seen for vm in PLANS[plan]]
        case ["jobs", _, "commit"]:
            return []  # It calls nothing: its instances are judged.
        case ["jobs", recovery, "rollback"]:
            plan, number = recovery.split(":")[1], command.job.rpartition(":")[2] or "none"
            cleanup = f"cleanup:{plan}:rollback-{number}/"
            return [
                result
                for vm in PLANS[plan]
                for result in (
                    ("delete_instance", cleanup, vm),
                    ("power_on_source", recovery, vm),
                )
            ]
        case ["jobs", recovery, "cleanup"]:
            plan = recovery.split(":")[1]
            return [("delete_instance", f"{command.job or 'none'}/", vm) for vm in PLANS[plan]]
    raise AssertionError(f"nobody knows what {command.path} leads to")


def _iterations(plan: str, number: str) -> list[tuple[str, str, str]]:
    """What iterations of all VMs of a plan leave."""
    calls = ("open_snapshot", "finalize", "close_snapshot")
    jobs = {vm: f"iteration:{plan}:{vm}:{number}" for vm in PLANS[plan]}
    return [(call, jobs[vm], vm) for call in calls for vm in PLANS[plan]]


def _holds(world: World, found: tuple[str, str, str], done: list[tuple[str, str, str]]) -> bool:
    call, owner, vm = found
    match call:
        case "check":
            return any(each["call"] == "check" for each in world.calls(world.root / vm))
        case "copy":
            return (world.west / "replicas" / owner / vm / "current.json").exists()
    return any(name == call and job.startswith(owner) and of == vm for name, job, of in done)


def judge_recovery(world: World, job: dict[str, Any], verdict: Verdict) -> None:
    """Every VM of an ended recovery is up once, on the bytes of its source's snapshot."""
    made = [(path, record_of(path)) for path in world.instances()]
    of_job = {record["vm"]: path for path, record in made if record["job"] == job["id"]}
    if len(of_job) != sum(record["job"] == job["id"] for _, record in made):
        verdict.doubled.append(f"a VM has two instances of {job['id']}")
    for vm in PLANS.get(job["plan"], VMS):
        path = of_job.get(vm)
        if path is None or record_of(path)["power"] != "on":
            verdict.lost.append(f"{vm} is not up after {job['id']} {job['state']}")
            continue
        _judge_disks(world, vm, path, verdict)


def record_of(instance: Path) -> dict[str, Any]:
    """What an instance's site says of it."""
    found: dict[str, Any] = yaml.safe_load((instance / "instance.yaml").read_text())
    return found


def _judge_disks(world: World, vm: str, folder: Path, verdict: Verdict) -> None:
    """Of all snapshots at both sites the last one counts: it was of what the VM ran as."""
    snapshots = [
        (call["at"], call["sha256"])
        for site in (world.east, world.west)
        for call in world.calls(site)
        if call["call"] == "open_snapshot" and call["outcome"] == "ok" and call["vm"] == vm
    ]
    if not snapshots:
        verdict.lost.append(f"{vm} was recovered and no snapshot of it was ever opened")
        return
    _, last = max(snapshots, key=lambda each: str(each[0]))
    for disk in sorted(last):
        content = (folder / f"{disk}.raw").read_bytes()
        if hashlib.sha256(content).hexdigest() != last[disk]:
            verdict.lost.append(f"{vm}/{disk} differs from its last snapshot")


def judge_cleanup(world: World, job: dict[str, Any], verdict: Verdict) -> None:
    """Nothing of the recovery is left, and the cleanup says so."""
    if job["state"] != "completed":
        verdict.lost.append(f"cleanup {job['state']}: {job['error']} {job['remaining']}")
    verdict.lost += [f"{path.relative_to(world.root)} is left" for path in world.left_over()]


def judge_snapshots(world: World, verdict: Verdict) -> None:
    """Every source snapshot that was opened was closed."""
    for site in (world.east, world.west):
        done = [call for call in world.calls(site) if call["outcome"] == "ok"]
        opened = Counter(call["vm"] for call in done if call["call"] == "open_snapshot")
        closed = Counter(call["vm"] for call in done if call["call"] == "close_snapshot")
        verdict.lost += [
            f"a snapshot of {vm} is left open at {site.name}"
            for vm, count in opened.items()
            if closed[vm] < count
        ]
