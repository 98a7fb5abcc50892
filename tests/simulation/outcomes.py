"""The outcome rule of product.md §5 a second time: from what happened, by no code of the product.

What scripts came to is read from the machine that ran them, what people did from the commands that
were granted, who ran from the sites. What else a recovery tells of its parts is believed here and
judged by `told`. Every end is judged, also one that a retry took back.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import Any, Final

from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas.common import Command, CommandSettled
from schemas.ids import parts_of
from schemas.plans import ScriptDefinition
from shared.testing.scripts import Run
from tests.simulation import operations
from tests.simulation.facts import Fact, Facts
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper

SCRIPTS: Final = {"pre-script": "pre-recovery", "post-script": "post-recovery"}
BAD_CHOICES: Final = ("failed", "skip")
TELLING: Final = dt.timedelta(seconds=2)
"""How long after a cancel a script may still begin: it had been handed out already."""


class Happened:
    """What happened in a world, as far as it bears on outcomes."""

    def __init__(self, world: Plane, facts: Facts) -> None:
        self.facts = facts
        self.runs: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
        for run in world.machine.runs:
            stream, step, number = script_of(run.effect_id)
            self.runs[stream, step][number] = run
        self.unprepared = {script_of(effect)[:2] for effect in world.machine.not_prepared}
        bodies = {asked.body.command_id: asked.body for asked in world.asked}
        self.granted: list[tuple[dt.datetime, Command]] = [
            (row.meta.occurred_at, bodies[answer.command_id])
            for row, answer in facts.of(CommandSettled)
            if answer.outcome == "done" and answer.command_id in bodies
        ]

    def asked(self, kind: type[Any], streams: set[str], until: dt.datetime) -> list[Any]:
        """Commands about these jobs that were granted until then."""
        return [
            body
            for at, body in self.granted
            if isinstance(body, kind) and at <= until and body.job in streams
        ]


def script_of(effect_id: str) -> tuple[str, str, int]:
    """Stream, step and number of a script's run."""
    stream, step, *rest = effect_id.split("/")
    return stream, step, int(rest[0]) if rest else 1


def judged(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """Ends that are not what the rule makes of what happened."""
    happened = Happened(world, facts)
    broken: list[str] = []
    for stream in facts.streams(rec.RecoveryStarted):
        for row, body in facts.by_stream[stream]:
            if isinstance(body, rec.RecoveryFinished):
                recovery = _Recovery(happened, stream, row.meta.occurred_at, calm=temper.calm)
                expected, why = recovery.outcome()
                if body.state != expected:
                    broken.append(f"outcome: {stream} is {body.state}, not {expected}: {why}")
                broken += recovery.scripts_ran()
                broken += recovery.nothing_after_a_stop(world)
                broken += recovery.people_asked()
                broken += recovery.ran_once()
                if body.ready != len(recovery.usable):
                    broken.append(
                        f"outcome: {stream} says {body.ready} ready of {recovery.usable}"
                    )
    return broken


class _Recovery:
    """One recovery up to one of its ends."""

    def __init__(self, happened: Happened, job: str, until: dt.datetime, *, calm: bool) -> None:
        self._happened = happened
        self._until = until
        self._calm = calm
        self.job = job
        self.history = _until(happened.facts.by_stream[job], until)
        self.start: rec.RecoveryStarted = self.history[0][1]
        _, plan, key = parts_of(job)
        self.streams = {m.vm: f"vm-recovery:{plan}:{key}:{m.vm}" for m in self.start.members}
        self.vms = {
            vm: _until(happened.facts.by_stream.get(stream, []), until)
            for vm, stream in self.streams.items()
        }
        self.jobs = {job, *self.streams.values()}
        self.ends = {vm: _last(history, rec.VmFinished) for vm, history in self.vms.items()}
        self.usable = sorted(vm for vm, e in self.ends.items() if e and e.outcome == "ready")

    # The rule.

    def outcome(self) -> tuple[str, str]:
        """The first rule that fits, and what made it fit."""
        if self._happened.asked(rec.CancelRecoveryJob, {self.job}, self._until):
            return "cancelled", "somebody cancelled it"
        preflight = _last(self.history, rec.PreflightFinished)
        if preflight is None or preflight.problems:
            return "failed", "preflight found problems"
        if self.start.dry_run:
            return "completed", "it was a dry run"
        if self._attempted() and not self.usable:
            return "failed", f"of {self._attempted()} none is usable"
        bad = self._bad()
        if bad:
            return "partially-completed", ", ".join(bad)
        if len(self.usable) < len(self.streams):
            return "partially-completed", "not every VM is usable, and nothing says why"
        return "completed", "nothing failed"

    def _attempted(self) -> list[str]:
        tried = {vm for vm, end in self.ends.items() if end and end.outcome in ("ready", "failed")}
        return sorted(tried | self._unfenced() | self._unsynced())

    def _unsynced(self) -> set[str]:
        """VMs that an operation of all or none could not copy a last time."""
        if not operations.of(self.start.mode).together:
            return set()
        return {b.vm for _, b in self.history if _not_synced(b) and b.checkpoint_at is None}

    def _unfenced(self) -> set[str]:
        return {
            body.vm
            for _, body in self.history
            if isinstance(body, ops.MemberSecured) and body.state == "failed"
        }

    def _bad(self) -> list[str]:
        found = [f"{vm} still runs at its source" for vm in sorted(self._unfenced())]
        found += [f"last sync of {b.vm}" for _, b in self.history if _not_synced(b)]
        for body in self._happened.asked(steer.SkipStep, self.jobs, self._until):
            found.append(f"{body.step} was skipped")
        for stream in sorted(self.jobs):
            found += [f"{step} of {stream}" for step in SCRIPTS if self._script_bad(stream, step)]
            found += self._by_hand(stream)
        for vm, end in self.ends.items():
            if end is None or end.outcome not in ("ready", "failed"):
                continue
            if end.outcome == "failed":
                found.append(f"{vm} failed")
            found += [
                f"{step.name} of {vm}"
                for step in end.steps
                if step.state in ("failed", "unknown") and step.name not in SCRIPTS
            ]
        return found

    def _history(self, stream: str) -> list[Fact]:
        return self.history if stream == self.job else self.vms[_vm_of(stream)]

    def _by_hand(self, stream: str) -> list[str]:
        last: dict[str, str] = {}
        for _, body in self._history(stream):
            if isinstance(body, steer.RecoveryAnswered | steer.VmAnswered):
                last[body.step] = body.choice
        return [
            f"{step} by hand: {choice}"
            for step, choice in last.items()
            if choice in BAD_CHOICES and step not in SCRIPTS
        ]

    # Scripts.

    def _script_bad(self, stream: str, step: str) -> bool:
        """Whether the last run of a script did not do its work, as the machine saw it."""
        ended = [
            body
            for _, body in self._history(stream)
            if isinstance(body, rec.PlanScriptEnded | rec.VmScriptEnded) and body.step == step
        ]
        if not ended or ended[-1].timing.state == "cancelled":
            return False
        answer = self._answer(stream, step)
        if answer is not None:
            return answer in BAD_CHOICES
        run = self._happened.runs[stream, step].get(ended[-1].run)
        if run is None:
            return True
        # A guard that cannot be asked in time leaves the end unknown, though it was good.
        unheard = ended[-1].report.outcome == "unknown" and not self._calm
        return run.outcome != "done" or unheard

    def _answer(self, stream: str, step: str) -> str | None:
        """What a person said of its last run; None: nobody was asked, or it ran again."""
        answer = None
        for _, body in self._history(stream):
            match body:
                case steer.RecoveryAnswered() | steer.VmAnswered() if body.step == step:
                    answer = None if body.choice == "rerun" else str(body.choice)
                case rec.PlanScriptStarted() | rec.VmScriptStarted() if body.step == step:
                    answer = None
        return answer

    def scripts_ran(self) -> list[str]:
        """Scripts that should have begun and did not, or began though nothing was to."""
        start, policy = self.start, self.start.header.recovery
        cancel = _last(self.history, rec.RecoveryCancelRequested)
        preflight = _last(self.history, rec.PreflightFinished)
        if start.dry_run or preflight is None or preflight.problems:
            return [f"script: {s} of {self.job} ran" for s in SCRIPTS if self._began(self.job, s)]
        broken: list[str] = []
        wanted = [(self.job, "post-script", policy.post_script)] if cancel is None else []
        for vm in self.usable:
            enrolled: rec.VmEnrolled = self.vms[vm][0][1]
            wanted.append((self.streams[vm], "pre-script", enrolled.definition.pre_script))
            wanted.append((self.streams[vm], "post-script", enrolled.definition.post_script))
        for stream, step, script in wanted:
            if self._chosen(script, step, stream) and not self._began(stream, step):
                broken.append(f"script: {step} of {stream} never began")
        if cancel is not None and policy.post_script and not policy.post_script.always:
            run = self._happened.runs[self.job, "post-script"].get(1)
            if run is not None and cancel.at and run.started_at > cancel.at + TELLING:
                broken.append(f"script: post-script of {self.job} ran after its cancel")
        return broken

    def people_asked(self) -> list[str]:
        """Manual steps that were passed without anybody's answer."""
        if self.outcome()[0] != "completed" or self.start.dry_run:
            return []
        steps = [(self.job, self.start.header.recovery.manual_steps)]
        for vm, stream in self.streams.items():
            enrolled: rec.VmEnrolled = self.vms[vm][0][1]
            steps.append((stream, enrolled.definition.manual_steps))
        orders = {member.boot_order for member in self.start.members}
        post = self.start.header.recovery.post_script
        ends_by_script = self._chosen(post, "post-script", self.job)
        return [
            f"answer: nobody was asked for {step.name} of {stream}"
            for stream, each in steps
            for step in each
            if self.start.mode in step.operations
            and (step.boot_order is None or step.boot_order in orders)
            and (step.at != "before-post-script" or ends_by_script)
            and f"manual-{step.name}" not in self._answered(stream)
        ]

    def _answered(self, stream: str) -> set[str]:
        kinds = (steer.RecoveryAnswered, steer.VmAnswered)
        return {body.step for _, body in self._history(stream) if isinstance(body, kinds)}

    def ran_once(self) -> list[str]:
        """Scripts that ran more than once though neither the plan nor a person said so."""
        policy = self.start.header.recovery
        scripts = [(self.job, "pre-script", policy.pre_script)]
        scripts.append((self.job, "post-script", policy.post_script))
        for vm, stream in self.streams.items():
            vm_definition = self.vms[vm][0][1].definition
            scripts.append((stream, "pre-script", vm_definition.pre_script))
            scripts.append((stream, "post-script", vm_definition.post_script))
        return [
            f"script: {step} of {stream} ran {times} times"
            for stream, step, script in scripts
            if script is not None
            if (times := self._times(stream, step)) > 1
            if not (script.retries or script.on_unknown == "rerun")
            if not any(_has_it_run_again(body) for _, body in self._history(stream))
        ]

    def _times(self, stream: str, step: str) -> int:
        """How often a script had run by then."""
        runs = self._happened.runs.get((stream, step), {})
        return max((n for n, run in runs.items() if run.started_at <= self._until), default=0)

    def _chosen(self, script: ScriptDefinition | None, step: str, stream: str) -> bool:
        if script is None or self.start.mode not in script.operations:
            return False
        name = SCRIPTS[step] + ("" if stream == self.job else f":{_vm_of(stream)}")
        skipped = self._happened.asked(steer.SkipStep, self.jobs, self._until)
        return name not in self.start.skip_scripts and all(s.step != step for s in skipped)

    def _began(self, stream: str, step: str) -> bool:
        happened = self._happened
        return bool(happened.runs[stream, step]) or (stream, step) in happened.unprepared

    def nothing_after_a_stop(self, world: Plane) -> list[str]:
        """Where the plan's pre-script stops the operation, nothing has been touched."""
        script = self.start.header.recovery.pre_script
        again = self._happened.asked(steer.RetryJob | steer.SkipStep, self.jobs, self._until)  # type: ignore[arg-type]
        if script is None or again or not self._script_bad(self.job, "pre-script"):
            return []
        skipped = self._answer(self.job, "pre-script") == "skip"
        if skipped or (script.on_failure or self.start.on_error) != "stop":
            return []
        lines = [
            line
            for site in world.sites.values()
            for line in site.journal
            if line["job"] == self.job and line["key"] and line["outcome"] == "ok"
        ]
        at = self._until.isoformat()
        touched = sorted({line["call"] for line in lines if line["at"] <= at})
        return (
            [f"script: {self.job} was stopped before it began, and {touched}"] if touched else []
        )


def _not_synced(body: Any) -> bool:
    return isinstance(body, ops.MemberSynced) and body.state != "completed"


def _has_it_run_again(body: Any) -> bool:
    if isinstance(body, steer.RecoveryReopened | steer.VmRetried):
        return True
    answers = (steer.RecoveryAnswered, steer.VmAnswered)
    return isinstance(body, answers) and body.choice == "rerun"


def _vm_of(stream: str) -> str:
    return stream.rpartition(":")[2]


def _until(history: list[Fact], until: dt.datetime) -> list[Fact]:
    return [fact for fact in history if fact[0].meta.occurred_at <= until]


def _last(history: list[Fact], kind: type[Any]) -> Any:
    return next((body for _, body in reversed(history) if isinstance(body, kind)), None)
