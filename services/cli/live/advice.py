"""What a person may type next about a job, with the reason in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from services.cli.client import ENDED
from services.cli.live.waits import asked_step, question

QUESTIONS_MAX: Final = 5
RETRIED: Final = frozenset({"test-recovery", "failover", "migration"})

Part = Mapping[str, Any]


class Advice(NamedTuple):
    """A command to type, whole, and what it is for."""

    why: str
    command: str


def advice(job: Part, parts: Sequence[Part] = ()) -> list[Advice]:
    """Commands that make sense now, the one that the job waits for first."""
    if job["state"] in ENDED:
        return list(_after(job, parts))
    return list(_meanwhile(job, parts))


# ── While it runs ────────────────────────────────────────────────────────────────────────────


def _meanwhile(job: Part, parts: Sequence[Part]) -> Iterator[Advice]:
    asking = [each for each in (job, *parts) if asked_step(each) is not None]
    for each in asking[:QUESTIONS_MAX]:
        step = asked_step(each)
        assert step is not None, "it asks"
        choices = "|".join(step["waiting"]["choices"])
        who = f"VM {each['vm']}" if each.get("vm") else "it"
        command = f"seawall job answer {each['id']} {step['name']} {choices}"
        yield Advice(f"{who} waits at {step['name']}: {question(step)}", command)
    if len(asking) > QUESTIONS_MAX:
        more = f"{len(asking) - QUESTIONS_MAX} more VMs ask"
        yield Advice(more, f"seawall job list --parent {job['id']} --state waiting")
    if not asking and job.get("waiting_for"):
        who = ", ".join(job["waiting_for"][:QUESTIONS_MAX])
        yield Advice(
            f"to see what {who} ask", f"seawall job list --parent {job['id']} --state waiting"
        )
    if job["state"] == "paused":
        yield Advice("to go on", f"seawall job resume {job['id']}")


# ── Once it has ended ────────────────────────────────────────────────────────────────────────


def _after(job: Part, parts: Sequence[Part]) -> Iterator[Advice]:
    name, kind = job["id"], job["kind"]
    if undone := (job.get("facts") or {}).get("undone_by"):
        yield Advice("it is undone by itself, as its plan wants", f"seawall job watch {undone}")
        return
    code = (job.get("error") or {}).get("code")
    if code == "source-unreachable":
        yield Advice(
            "only if you know that its VMs do not run",
            f"seawall recover {job['plan']} --mode failover --source-gone",
        )
    if _can_be_retried(job):
        yield Advice("to do again what failed", f"seawall job retry {name} --wait")
    yield from _script_outputs((job, *parts))
    if job.get("awaits_commit"):
        if (job.get("vms") or {}).get("ready", 1):
            yield _keep(job)
        yield Advice("to take it back, losing what it wrote", f"seawall rollback {name}")
    elif job.get("awaits_cleanup"):
        yield Advice("to remove what it made", f"seawall cleanup {name} --wait")
    if kind == "find-clean-point" and job.get("checkpoint"):
        yield Advice(
            "to recover from the clean checkpoint",
            f"seawall recover {job['plan']} --mode failover --checkpoint {job['checkpoint']}",
        )
    if job["state"] in ("failed", "partially-completed"):
        yield from _once_more(job)


def _keep(job: Part) -> Advice:
    """The commit; where VMs did not come up, with the word that leaves them out."""
    vms = job.get("vms") or {}
    stayed = int((job.get("facts") or {}).get("source_failed", 0))
    if vms.get("total", 0) - stayed <= vms.get("ready", 0):
        return Advice("to keep what came up", f"seawall commit {job['id']}")
    return Advice(
        "to keep what came up, deleting what was made of the others",
        f"seawall commit {job['id']} --without-failed",
    )


def _can_be_retried(job: Part) -> bool:
    """Whether a retry may do something: what keeps it from doing so is the service's to say."""
    if job["kind"] not in RETRIED or job.get("dry_run") or job.get("vm"):
        return False
    if job["state"] not in ("failed", "partially-completed"):
        return False
    taken_back = any(step["name"] == "restore-sources" for step in job["steps"])
    return job["kind"] == "test-recovery" or (bool(job.get("awaits_commit")) and not taken_back)


def _script_outputs(jobs: Sequence[Part]) -> Iterator[Advice]:
    """Where the whole output of the first script that failed is."""
    for job in jobs:
        for step in job["steps"]:
            if step["state"] == "failed" and step.get("output_sha256"):
                yield Advice("its output", f"seawall job output {job['id']} {step['name']}")
                return


def _once_more(job: Part) -> Iterator[Advice]:
    kind = job["kind"]
    facts = job.get("facts") or {}
    if kind == "rollback":
        yield from _roll_back_again(job)
    elif (kind == "commit" and facts.get("without")) or (kind == "cleanup" and facts.get("vms")):
        # What a commit leaves out is cleaned by the commit alone.
        again = f"seawall commit {job['recovery']} --without-failed --wait"
        yield Advice("to try again", again)
    elif kind in ("cleanup", "commit") and job.get("recovery"):
        yield Advice("to try again", f"seawall {kind} {job['recovery']} --wait")
    elif kind in ("iteration", "replication-run"):
        yield Advice("to replicate now", f"seawall plan run {job['plan']} --wait")
    elif kind == "checkpoint":
        yield Advice("to make another", f"seawall checkpoint create {job['plan']} --wait")


def _roll_back_again(job: Part) -> Iterator[Advice]:
    """Nothing where VMs were left off by word: that is done."""
    facts = job.get("facts") or {}
    if "left_off" in facts or not job.get("recovery"):
        return
    again = f"seawall rollback {job['recovery']}"
    yield Advice("to try again", f"{again} --wait")
    if "leave_off" not in facts and ("untouched" in facts or facts.get("source_stays_off")):
        yield Advice("only if those VMs may stay off", f"{again} --leave-off --wait")
