"""How people steer a running recovery or cleanup: what they ask, what that does, what waits.

Part of the recovery service's language beside `schemas.recovery`. A *question* is one wait for a
person: a manual step of the plan, or a script whose end is unknown under `on_unknown: prompt`.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

from schemas.common import Command, Fact, HoldMode, Problem, StepTiming
from schemas.registry import published
from schemas.scheduler import RecoveryMode, SiteRef

QuestionKind = Literal["manual", "unknown-script"]
Choice = Literal["done", "failed", "skip", "rerun"]
PausedBy = Literal["job", "recovery"]

TIME_OUT: Final = "time-out"
"""Who answers a question that nobody answered in time."""


class Question(Fact, frozen=True, kw_only=True):
    """What a person is asked at a step. `number` counts the questions of its stream from 1.

    `default` is what stands at `until` without an answer.
    """

    step: str
    number: int
    kind: QuestionKind
    text: str
    owner: str = ""
    choices: tuple[Choice, ...]
    default: Choice
    at: dt.datetime
    until: dt.datetime


# ── Commands ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.pause-job")
class PauseJob(Command, frozen=True, kw_only=True):
    """No new step of a recovery, one of its VMs, or a cleanup starts."""

    job: str


@published("recovery.resume-job")
class ResumeJob(Command, frozen=True, kw_only=True):
    """A paused job goes on."""

    job: str


@published("recovery.retry-job")
class RetryJob(Command, frozen=True, kw_only=True):
    """Do again what failed: of a recovery all of it or one `step`, of a VM what it failed at.

    `source_gone`: a person's word, once more, that sources which were never seen off do not run;
    asked for where a full recovery has ended.
    """

    job: str
    step: str = ""
    source_gone: bool = False


@published("recovery.skip-step")
class SkipStep(Command, frozen=True, kw_only=True):
    """Go on without a failed step."""

    job: str
    step: str


@published("recovery.answer-question")
class AnswerQuestion(Command, frozen=True, kw_only=True):
    """A person's answer to what a job waits for at `step`."""

    job: str
    step: str
    choice: str


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.pause-vm")
class PauseVm(Fact, frozen=True, kw_only=True):
    """Parent to child: start no new step."""

    stream: str


@published("recovery.resume-vm")
class ResumeVm(Fact, frozen=True, kw_only=True):
    """Parent to child: go on."""

    stream: str


class SourceCheck(Fact, frozen=True, kw_only=True):
    """A VM's source that must not run when the VM is powered on: the VM at `site`, or what it
    runs as there. What was seen of it before a retry may be hours old."""

    site: SiteRef
    instance: str = ""


@published("recovery.retry-vm")
class RetryVm(Fact, frozen=True, kw_only=True):
    """Parent to child: do again what failed or, with `skip`, go on without that step.

    `boot`: its boot order is open, and it waits for no lower one. `round` counts its retries: news
    of an earlier one is old.
    """

    stream: str
    boot: bool
    round: int
    skip: str = ""
    actor: str = ""
    source: SourceCheck | None = None


@published("recovery.member-asks")
class MemberAsks(Fact, frozen=True, kw_only=True):
    """Child to parent: a person is asked at a step; not `open`: that is over."""

    job: str
    vm: str
    step: str
    at: dt.datetime
    open: bool
    round: int = 0


@published("scheduler.hold-again")
class HoldAgain(Fact, frozen=True, kw_only=True):
    """Recovery to scheduler: an ended recovery is to go on with these VMs; may it hold them?"""

    plan: str
    job: str
    mode: RecoveryMode
    checkpoint: str
    vms: tuple[str, ...]
    command_id: str


@published("recovery.holds-answered")
class HoldsAnswered(Fact, frozen=True, kw_only=True):
    """Scheduler to recovery: the VMs are held again, or why not."""

    job: str
    command_id: str
    problem: Problem | None = None


@published("recovery.answer-due")
class AnswerDue(Fact, frozen=True, kw_only=True):
    """Timer: nobody answered question `number` in time. Void where another one is open."""

    number: int


# ── Events of the parent ─────────────────────────────────────────────────────────────────────


@published("recovery.recovery-paused")
class RecoveryPaused(Fact, frozen=True, kw_only=True):
    """A person paused the recovery and with it its VMs."""

    at: dt.datetime
    actor: str = ""


@published("recovery.recovery-resumed")
class RecoveryResumed(Fact, frozen=True, kw_only=True):
    """It goes on."""

    at: dt.datetime
    actor: str = ""


@published("recovery.recovery-asked")
class RecoveryAsked(Fact, frozen=True, kw_only=True):
    """A step of the recovery itself waits for a person."""

    plan: str
    question: Question


@published("recovery.recovery-answered")
class RecoveryAnswered(Fact, frozen=True, kw_only=True):
    """A person, or the time-out, answered. `timing` is the step as it ended; none with a rerun."""

    plan: str
    step: str
    choice: Choice
    at: dt.datetime
    actor: str = ""
    timing: StepTiming | None = None


@published("recovery.member-asked")
class MemberAsked(Fact, frozen=True, kw_only=True):
    """A step of a VM waits for a person."""

    vm: str
    step: str
    at: dt.datetime


@published("recovery.member-answered")
class MemberAnswered(Fact, frozen=True, kw_only=True):
    """It waits no more."""

    vm: str
    step: str
    at: dt.datetime


@published("recovery.retry-requested")
class RetryRequested(Fact, frozen=True, kw_only=True):
    """A person wants an ended recovery to go on; the scheduler was asked for the holds.

    `steps` of the recovery itself and `vms` are done again; `skip` is the one step to go on
    without, of the recovery or, where it is named, of `vm`.
    """

    command_id: str
    steps: tuple[str, ...] = ()
    vms: tuple[str, ...] = ()
    skip: str = ""
    vm: str = ""
    actor: str = ""


@published("recovery.retry-refused")
class RetryRefused(Fact, frozen=True, kw_only=True):
    """The VMs could not be held again: the recovery stays as it ended."""

    command_id: str
    problem: Problem


@published("recovery.member-retried")
class MemberRetried(Fact, frozen=True, kw_only=True):
    """A VM that had ended goes on, for the `round`-th time. What it had reached stands.

    `held`: it boots once its boot order is opened again, after lower ones that are retried too.
    """

    vm: str
    round: int
    held: bool = False


@published("recovery.recovery-reopened")
class RecoveryReopened(Fact, frozen=True, kw_only=True):
    """An ended recovery goes on under its id: `vms` of its VMs, and these `steps` of its own.

    `waited_s`: how long it had been over, which was time that people took.
    """

    at: dt.datetime
    steps: tuple[str, ...] = ()
    vms: int = 0
    skip: str = ""
    actor: str = ""
    waited_s: float = 0.0


# ── Events of a VM's recovery ────────────────────────────────────────────────────────────────


@published("recovery.vm-paused")
class VmPaused(Fact, frozen=True, kw_only=True):
    """No new step of this VM starts; by its own job or with its recovery."""

    by: PausedBy
    at: dt.datetime
    actor: str = ""


@published("recovery.vm-resumed")
class VmResumed(Fact, frozen=True, kw_only=True):
    """One of its pauses is over."""

    by: PausedBy
    at: dt.datetime
    actor: str = ""


@published("recovery.vm-asked")
class VmAsked(Fact, frozen=True, kw_only=True):
    """A step of the VM waits for a person."""

    plan: str
    vm: str
    job: str
    question: Question


@published("recovery.vm-answered")
class VmAnswered(Fact, frozen=True, kw_only=True):
    """As RecoveryAnswered, for a VM's step."""

    plan: str
    vm: str
    step: str
    choice: Choice
    at: dt.datetime
    actor: str = ""
    timing: StepTiming | None = None


@published("recovery.vm-retried")
class VmRetried(Fact, frozen=True, kw_only=True):
    """What failed of the VM is done again or, with `skip`, gone on without.

    `steps` are those that are done again; `timing` is the skipped step as it stands now.
    """

    at: dt.datetime
    boot: bool
    round: int
    steps: tuple[str, ...] = ()
    skip: str = ""
    actor: str = ""
    timing: StepTiming | None = None
    source: SourceCheck | None = None


@published("recovery.vm-step-withdrawn")
class VmStepWithdrawn(Fact, frozen=True, kw_only=True):
    """A step that was asked for had not begun when the VM was paused: it begins later."""

    part: str


# ── Events of a cleanup ──────────────────────────────────────────────────────────────────────


@published("recovery.cleanup-paused")
class CleanupPaused(Fact, frozen=True, kw_only=True):
    """A person paused the cleanup."""

    at: dt.datetime
    actor: str = ""


@published("recovery.cleanup-resumed")
class CleanupResumed(Fact, frozen=True, kw_only=True):
    """It goes on."""

    at: dt.datetime
    actor: str = ""


# ── Events of the scheduler ──────────────────────────────────────────────────────────────────


@published("scheduler.recovery-held-again")
class RecoveryHeldAgain(Fact, frozen=True, kw_only=True):
    """An ended recovery of the plan goes on and holds VMs (and its checkpoint) again."""

    job: str
    mode: RecoveryMode
    checkpoint: str
    vms: tuple[str, ...]
    modes: tuple[HoldMode, ...]
