"""The documents that queries answer with: the JSON of surface.md §5, as structs.

Each stored document folds the facts of one stream family and nothing else. What belongs together
from several families, or depends on the moment of asking, is joined by `schemas.joins`; such
fields are at their default in the stored form and say so here. Names are a promise; fields may be
added. Durations are seconds, sizes bytes, moments aware.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from schemas.clean_points import Verdict
from schemas.common import HoldMode, JobState, StepState
from schemas.notifier import Severity
from schemas.plans import RecoveryHook
from schemas.recovery_steering import QuestionKind
from schemas.scheduler import PlanHeader, RecoveryMode
from schemas.sync_state import SyncFacts

JobKind = Literal[
    "replication-run",
    "iteration",
    "checkpoint",
    "checkpoint-delete",
    "test-recovery",
    "failover",
    "migration",
    "reverse",
    "failback",
    "cleanup",
    "find-clean-point",
    "recovery-group",
    "commit",
    "rollback",
    "site-power-off",
]
PlanState = Literal[
    "initializing",
    "running",
    "partial",
    "stopped",
    "failed-over",
    "migrated",
    "reversed",
]
AlertState = Literal["open", "acknowledged", "snoozed", "resolved"]
CheckpointState = Literal["creating", "available", "failed", "expiring", "deleted"]

ENDED: frozenset[JobState] = frozenset({"completed", "partially-completed", "failed", "cancelled"})
"""The states a job does not leave."""


class Document(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of everything a query answers with. Every field is always there.

    Documents are trees: without cycles the collector need not look at the many that are cached.
    """


class Error(Document, frozen=True, kw_only=True):
    """Why something failed or was refused; HTTP adds RFC 9457's `type, title, status`."""

    code: str
    message: str
    remedy: str = ""
    details: dict[str, Any] = {}


# ── Sites ────────────────────────────────────────────────────────────────────────────────────


class Site(Document, frozen=True, kw_only=True):
    """A site. `credentials` is a reference. `error` is set while the last check failed.

    `quarantined`: a failover gave its VMs up; nothing replicates from or to it until released.
    `originals` of them were found running there when it answered last, None: it has not since;
    `doubled` of them beside their recovered instances. `originals_named` are the first of them.
    """

    name: str
    platform: str
    settings: dict[str, str]
    credentials: str = ""
    state: Literal["unchecked", "ok", "unreachable"] = "unchecked"
    facts: dict[str, Any] = {}
    error: Error | None = None
    quarantined: bool = False
    originals: int | None = None
    doubled: int = 0
    originals_named: tuple[str, ...] = ()
    added_at: dt.datetime
    checked_at: dt.datetime | None = None


class Node(Document, frozen=True, kw_only=True):
    """What replicates at a site, or prepares Windows VMs there.

    *replication*: the replicator acts as the one node of each site in this version; `capacity`
    and `in_use` count disks copied at once, `state` is that of the site. *prep*: they count seats
    of Windows VMs; it is *off* while nobody needs it, and a `drained` one takes no new work.
    `error` is why it last failed to come on.
    """

    name: str
    site: str
    kind: Literal["replication", "prep"] = "replication"
    state: Literal["online", "offline", "unknown", "off", "starting", "stopping"] = "unknown"
    capacity: int = 0
    in_use: int = 0
    drained: bool = False
    error: Error | None = None


class PrepNode(Document, frozen=True, kw_only=True):
    """A prep node as the pool of its site knows it; joined into `Node` with what is listed."""

    site: str
    node: str
    seats: int = 0
    power: Literal["on", "off", "unknown", "starting", "stopping"] = "off"
    in_use: int = 0
    drained: bool = False
    error: Error | None = None


# ── Plans and their VMs ──────────────────────────────────────────────────────────────────────


class Rpo(Document, frozen=True, kw_only=True):
    """Age of the plan's oldest newest copy. Joined: `achieved_s`, `breached`."""

    target_s: float | None = None
    achieved_s: float | None = None
    breached: bool = False


class Rto(Document, frozen=True, kw_only=True):
    """Time to recover. Joined, in a plan's own document: `forecast_s`, from the command until the
    last VM is usable; null in listings, at another moment, and where it cannot be told."""

    target_s: float | None = None
    forecast_s: float | None = None
    last_s: float | None = None


class LastRecovery(Document, frozen=True, kw_only=True):
    """The plan's last recovery that ended."""

    job: str
    mode: RecoveryMode
    state: str
    rto_s: float | None = None
    ended_at: dt.datetime


class VmHold(Document, frozen=True, kw_only=True):
    """A job that holds the VM."""

    job: str
    modes: tuple[HoldMode, ...]


class Vm(Document, frozen=True, kw_only=True):
    """A protected VM. Joined: `rpo_s`, the age of its newest copy.

    `last_checkpoint_at` is the moment of that copy's source snapshot. `iteration` is the running
    job's id or empty; `queued` says that a tick waits for it; `missed` counts ticks since the last
    success. `error` is the last failure until the next success. `priority` is the one that holds,
    and `priority_from` who gave it. `moved`: it runs at the other site since the job
    `moved_by`. `direction`: *reverse* where it runs, and is replicated from, the plan's recovery
    site; `instance` is what it runs as, where that is no VM of the site's own. `marked_…` are what
    both become once a reversal under way has ended well.
    `recovery_scripts` are the hooks at which it has a script.
    """

    name: str
    plan: str
    sync_state: str
    last_checkpoint_at: dt.datetime | None = None
    next_due_at: dt.datetime | None = None
    rpo_s: float | None = None
    replicating: bool = False
    boot_order: int = 1
    boot_delay_s: float = 0.0
    recovery_scripts: tuple[RecoveryHook, ...] = ()
    priority: int = 3
    priority_from: Literal["plan", "definition", "operator"] = "plan"
    defined_priority: int | None = None
    protected_site: str = ""
    recovery_site: str = ""
    rpo_target_s: float | None = None
    rpo_breached: bool = False
    iteration: str = ""
    queued: bool = False
    sync: SyncFacts = SyncFacts()
    last_state: str = ""
    last_ended_at: dt.datetime | None = None
    missed: int = 0
    holds: tuple[VmHold, ...] = ()
    moved: Literal["", "failed-over", "migrated"] = ""
    moved_by: str = ""
    direction: Literal["original", "reverse"] = "original"
    instance: str = ""
    marked_direction: Literal["", "original", "reverse"] = ""
    marked_instance: str = ""
    error: Error | None = None
    protected_at: dt.datetime


class Plan(Document, frozen=True, kw_only=True):
    """A protection plan. Joined: `state`, `vms`, and within `rpo`.

    `definition` is the plan without its VMs, as it was applied; `vm_names` are those of this
    version. `quarantined` are those of its sites that nothing may replicate from or to. Joined:
    `direction`, *mixed* where some of its VMs are replicated in reverse.
    """

    name: str
    version: int
    state: PlanState = "stopped"
    direction: Literal["original", "reverse", "mixed"] = "original"
    protected_site: str
    recovery_site: str
    rpo: Rpo = Rpo()
    rto: Rto = Rto()
    vms: tuple[Vm, ...] = ()
    vm_names: tuple[str, ...] = ()
    digest: str = ""
    priority: int = 3
    definition: PlanHeader
    last_recovery: LastRecovery | None = None
    quarantined: tuple[str, ...] = ()
    actor: str = ""
    created_at: dt.datetime
    applied_at: dt.datetime


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────


class CheckpointCopy(Document, frozen=True, kw_only=True):
    """One VM's copy in a checkpoint; `taken_at` is the moment of its source snapshot."""

    vm: str
    taken_at: dt.datetime | None = None
    copy_id: str = ""
    error: Error | None = None


class CheckpointVerdict(Document, frozen=True, kw_only=True):
    """What the last search for a clean point, job `job`, found out about a checkpoint.

    `script_sha256` names the verdict script's content, `reason` says why it is not clean.
    """

    verdict: Verdict
    job: str
    at: dt.datetime
    script_sha256: str
    reason: str = ""


class Checkpoint(Document, frozen=True, kw_only=True):
    """A PIT checkpoint; its id is also that of the job that makes it.

    `reverse` are those of its VMs (`*`: all) that were replicated in reverse: their copies are at
    the protected site. Joined: `preserved` and `verdict`, null where no search has tried it.
    """

    id: str
    plan: str
    plan_version: int
    state: CheckpointState
    preserved: bool = False
    created_at: dt.datetime
    ended_at: dt.datetime | None = None
    vms: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()
    copies: tuple[CheckpointCopy, ...] = ()
    error: Error | None = None
    verdict: CheckpointVerdict | None = None


class CheckpointMark(Document, frozen=True, kw_only=True):
    """What the scheduler says about a checkpoint: whether it expires, whether it is clean."""

    id: str
    plan: str
    preserved: bool
    verdict: CheckpointVerdict | None = None


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────


class Waiting(Document, frozen=True, kw_only=True):
    """A question to a person: what is to be done or judged, by whom (`owner`, as the plan says),
    which answers there are, and what stands at `until` without one."""

    kind: QuestionKind
    text: str
    owner: str = ""
    choices: tuple[str, ...] = ()
    default: str
    since: dt.datetime
    until: dt.datetime


class Answer(Document, frozen=True, kw_only=True):
    """What a person chose, or the time-out (`actor` is `time-out`)."""

    choice: str
    actor: str
    at: dt.datetime


class Step(Document, frozen=True, kw_only=True):
    """A named part of a job. `output` is the masked end of what a script printed; where it printed
    more, up to 64 KiB are kept under `output_sha256`, see `/v1/jobs/ID/steps/STEP/output`.
    `waiting` is set while a person is asked, `answer` afterwards. `warning` is what a person must
    know of a step, whatever its state: of a script, that it was not kept from the network."""

    name: str
    state: StepState = "pending"
    attempts: int = 0
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    percent: float = 0.0
    error: Error | None = None
    output: str = ""
    output_sha256: str = ""
    waiting: Waiting | None = None
    answer: Answer | None = None
    warning: str = ""


class Instance(Document, frozen=True, kw_only=True):
    """A recovered instance."""

    vm: str
    instance_id: str
    addresses: tuple[str, ...] = ()
    ready_at: dt.datetime | None = None
    powered_on_at: dt.datetime | None = None
    boot_order: int | None = None


class Counts(Document, frozen=True, kw_only=True):
    """How far the VMs (or disks) of a job are."""

    total: int = 0
    powered_on: int = 0
    ready: int = 0
    ended: int = 0
    failed: int = 0


class Job(Document, frozen=True, kw_only=True):
    """Any orchestrated action, per plan, per VM (`vm`) or per disk (`vm` and `disk`).

    Joined: `children`; the `instances` of a plan's recovery and the bytes of any plan's job;
    `bytes_done`, `percent`, `rate` (bytes/s) and `eta_s` while it runs: what the bytes left take
    at that rate, of the parts that have begun, null where nothing moves. `vms` counts the VMs of a
    plan's job, `disks` a VM's. `boot_open`: the VM's boot order is open. `recovery` is what a
    cleanup cleans, a commit commits, a roll back undoes; `remaining` (kind, id, vm) is what could
    not be removed. `awaits_commit`: a full recovery waits for *commit* or *roll back*;
    `committed`: its instances are VMs in production. `rto_s` counts from the operator's command,
    waits included; `waited_s` is how long of all that the job was paused, waited for a person, or
    was over and then retried. `waiting_for` are the VMs whose own jobs ask something. `left` says
    in what state a cancelled job leaves things.
    """

    id: str
    kind: JobKind
    plan: str
    vm: str | None = None
    disk: str | None = None
    parent_id: str | None = None
    state: JobState
    percent: float = 0.0
    actor: str = ""
    created_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float | None = None
    eta_s: float | None = None
    forecast_s: float | None = None
    rto_s: float | None = None
    waited_s: float = 0.0
    error: Error | None = None
    steps: tuple[Step, ...] = ()
    children: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    vms: Counts | None = None
    disks: Counts | None = None
    boot_order: int | None = None
    boot_open: bool = False
    checkpoint: str | None = None
    recovery: str | None = None
    awaits_cleanup: bool = False
    awaits_commit: bool = False
    committed: bool = False
    cancelling: bool = False
    paused: bool = False
    waiting_for: tuple[str, ...] = ()
    left: str = ""
    dry_run: bool = False
    note: str = ""
    facts: dict[str, Any] = {}
    remaining: tuple[tuple[str, str, str], ...] = ()


class Progress(Document, frozen=True, kw_only=True):
    """How far a running job is at this moment; lossy, outside every promise. `rate` in bytes/s."""

    job: str
    bytes_done: int
    bytes_total: int
    percent: float
    rate: float
    at: dt.datetime


# ── Alerts ───────────────────────────────────────────────────────────────────────────────────


class Alert(Document, frozen=True, kw_only=True):
    """A condition that a person must look at; one row per condition and subject.

    A condition that comes back after it was resolved opens the same alert again: `opened_at`
    and `count` begin anew.
    """

    id: str
    condition: str
    subject: str
    severity: Severity
    state: AlertState
    plan: str
    job: str = ""
    title: str
    text: str = ""
    remedy: str = ""
    count: int = 1
    opened_at: dt.datetime
    last_at: dt.datetime
    changed_by: str = ""
    acknowledged_at: dt.datetime | None = None
    snoozed_until: dt.datetime | None = None
    resolved_at: dt.datetime | None = None
    resolved_by: Literal["", "condition", "person"] = ""


# ── Commands ─────────────────────────────────────────────────────────────────────────────────


class AcceptedCommand(Document, frozen=True, kw_only=True):
    """What the gateway recorded about a command."""

    command_id: str
    to: str
    type: str
    key: str
    actor: str
    job: str = ""
    accepted_at: dt.datetime


class SettledCommand(Document, frozen=True, kw_only=True):
    """The owner's answer. (`source`, `partition`, `seq`) is where it stands in its log."""

    command_id: str
    outcome: Literal["done", "refused"]
    code: str = ""
    message: str = ""
    remedy: str = ""
    details: dict[str, Any] = {}
    stream: str = ""
    version: int = 0
    source: str
    partition: int
    seq: int
    settled_at: dt.datetime


# ── Events ───────────────────────────────────────────────────────────────────────────────────


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event as CloudEvents 1.0 JSON; an attribute that would be empty is left out.

    `id` is unique for ever, `subject` the stream, `type` is `seawall.` and the stored name.
    """

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: dt.datetime
    datacontenttype: Literal["application/json"]
    data: msgspec.Raw
    seawallplan: str = ""
    seawalljob: str = ""
    correlationid: str = ""
    causationid: str = ""
    actor: str = ""
