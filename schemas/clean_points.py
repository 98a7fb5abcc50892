"""Find clean point: the command, the search's facts, and the verdict that a checkpoint keeps.

The scheduler decides whether a search may start and holds its checkpoints; the search itself is a
stream `find-clean-point` of the recovery service.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

import msgspec

from schemas.common import Fact, Problem, ScriptReport, StepTiming
from schemas.plans import SCRIPT_TIMEOUT_DEFAULT_S, Runtime
from schemas.recovery import RecoveryState
from schemas.registry import published
from schemas.scheduler import PlanHeader
from schemas.scheduler_inbox import PatientCommand

Verdict = Literal["clean", "infected", "failed", "unknown"]
"""*infected*: the verdict script said no. *failed*: the checkpoint did not come up whole.
*unknown*: nobody can tell (the script ran out of time, was cut off, or could not be tried)."""

SearchOrder = Literal["newest-first", "bisect"]
SEARCH_ORDERS: Final[tuple[SearchOrder, ...]] = ("newest-first", "bisect")

CANDIDATES_MAX: Final = 400
"""Checkpoints that one search looks at: their names and verdicts fit into one event."""


class VerdictScript(Fact, frozen=True, kw_only=True):
    """The script that judges; `sha256` names its content, `run` is only for showing."""

    run: str
    runtime: Runtime
    sha256: str
    size: int
    timeout_s: float = SCRIPT_TIMEOUT_DEFAULT_S
    network: bool = False


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """A checkpoint that may be tried."""

    checkpoint: str
    created_at: dt.datetime


class Judged(msgspec.Struct, frozen=True, array_like=True):
    """A checkpoint that was tried, and its verdict."""

    checkpoint: str
    verdict: Verdict


# ── Asked of and said by the scheduler ───────────────────────────────────────────────────────


@published("scheduler.find-clean-point")
class FindCleanPoint(PatientCommand, frozen=True, kw_only=True):
    """Look for the newest clean checkpoint. The gateway made `job`, a stream id.

    `tries_max` 0: as many as there are. `keep`: the clean one's test stays up.
    """

    job: str
    verdict: VerdictScript
    order: SearchOrder = "newest-first"
    vms: tuple[str, ...] = ()
    tries_max: int = 0
    keep: bool = False
    skip_scripts: tuple[str, ...] = ()


@published("scheduler.clean-point-search-requested")
class CleanPointSearchRequested(Fact, frozen=True, kw_only=True):
    """A search was started. None of its `checkpoints` expires before it ends."""

    job: str
    checkpoints: tuple[str, ...]
    vms: tuple[str, ...]


@published("scheduler.record-verdict")
class RecordVerdict(Fact, frozen=True, kw_only=True):
    """A search to the scheduler: what it found out about a checkpoint."""

    plan: str
    checkpoint: str
    verdict: Verdict
    job: str
    at: dt.datetime
    script_sha256: str
    reason: str = ""


@published("scheduler.checkpoint-judged")
class CheckpointJudged(Fact, frozen=True, kw_only=True):
    """A checkpoint has a verdict: which, by which search and script, when. A later one counts."""

    checkpoint: str
    verdict: Verdict
    job: str
    at: dt.datetime
    script_sha256: str
    reason: str = ""


# ── The search ───────────────────────────────────────────────────────────────────────────────


@published("recovery.start-clean-point-search")
class StartCleanPointSearch(Fact, frozen=True, kw_only=True):
    """Scheduler to search: begin. `candidates` are newest first and kept until the end."""

    job: str
    plan: str
    plan_version: int
    header: PlanHeader
    verdict: VerdictScript
    order: SearchOrder = "newest-first"
    vms: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...]
    tries_max: int = 0
    keep: bool = False
    skip_scripts: tuple[str, ...] = ()
    requested_at: dt.datetime
    actor: str = ""


@published("recovery.clean-point-search-started")
class CleanPointSearchStarted(Fact, frozen=True, kw_only=True):
    """A search exists. Its steps are the checkpoints it tries, named as they are tried."""

    job: str
    plan: str
    plan_version: int
    header: PlanHeader
    verdict: VerdictScript
    order: SearchOrder = "newest-first"
    vms: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...]
    tries_max: int = 0
    keep: bool = False
    skip_scripts: tuple[str, ...] = ()
    requested_at: dt.datetime
    actor: str = ""
    definition_version: int = 1


@published("recovery.clean-point-test-asked")
class CleanPointTestAsked(Fact, frozen=True, kw_only=True):
    """A test recovery `job` of a checkpoint was asked for."""

    checkpoint: str
    job: str
    at: dt.datetime


@published("recovery.clean-point-test-started")
class CleanPointTestStarted(Fact, frozen=True, kw_only=True):
    """The test recovery holds its VMs and runs."""

    job: str


@published("recovery.clean-point-test-refused")
class CleanPointTestRefused(Fact, frozen=True, kw_only=True):
    """The test recovery was refused, for a reason that holds for every other too."""

    job: str
    problem: Problem


@published("recovery.clean-point-test-ended")
class CleanPointTestEnded(Fact, frozen=True, kw_only=True):
    """The test recovery ended. `up`: all its VMs are ready, so that the verdict script runs.

    `awaits_cleanup`: it made something.
    """

    job: str
    state: RecoveryState
    up: bool
    awaits_cleanup: bool


@published("recovery.verdict-script-started")
class VerdictScriptStarted(Fact, frozen=True, kw_only=True):
    """The verdict script is about to be started; recorded before its process exists."""

    trial: int


@published("recovery.clean-point-judged")
class CleanPointJudged(Fact, frozen=True, kw_only=True):
    """A checkpoint was tried. `timing` is its step, `report` how the script ended, if it ran."""

    checkpoint: str
    verdict: Verdict
    job: str
    at: dt.datetime
    timing: StepTiming
    report: ScriptReport | None = None
    reason: str = ""


@published("recovery.clean-point-test-kept")
class CleanPointTestKept(Fact, frozen=True, kw_only=True):
    """The clean one's test recovery stays up, as asked, until somebody cleans it up."""

    job: str


@published("recovery.clean-point-test-cleaning")
class CleanPointTestCleaning(Fact, frozen=True, kw_only=True):
    """A cleanup of a test recovery was asked for, for the `attempt`-th time."""

    job: str
    cleanup: str
    attempt: int


@published("recovery.clean-point-test-cleaned")
class CleanPointTestCleaned(Fact, frozen=True, kw_only=True):
    """A cleanup came back; with something `remaining` it is asked for again, or given up."""

    job: str
    remaining: int
    problem: Problem | None = None
    given_up: bool = False


@published("recovery.clean-again-due")
class CleanAgainDue(Fact, frozen=True, kw_only=True):
    """Timer: clean the test up once more."""

    attempt: int


@published("recovery.clean-point-search-cancel-requested")
class CleanPointSearchCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the search."""


@published("recovery.clean-point-search-finished")
class CleanPointSearchFinished(Fact, frozen=True, kw_only=True):
    """The search ended. `clean_point` is the newest clean checkpoint, or empty.

    `kept` is the test recovery that stays up, `left` one that could not be cleaned up.
    """

    plan: str
    state: RecoveryState
    clean_point: str = ""
    judged: tuple[Judged, ...] = ()
    kept: str = ""
    left: str = ""
    problem: Problem | None = None
