"""The normalised protection plan: what a valid plan document means, with units and defaults gone.

Owns the shape that services decide on. Does not own how a document is read or checked
(`schemas.definitions`), nor who protects what at this moment (the scheduler).

Fields that stand at their default are left out of the stored form, so that a later version with
more fields reads an unchanged document as unchanged.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

Runtime: TypeAlias = Literal["sh", "bash", "python", "go"]
OnError: TypeAlias = Literal["continue", "stop"]
OnFailure: TypeAlias = Literal["continue", "fail_vm", "stop"]
OnUnknown: TypeAlias = Literal["fail", "prompt", "rerun"]
Operation: TypeAlias = Literal["replication", "test", "failover", "migrate", "reverse", "failback"]
HookKind: TypeAlias = Literal["plan-replication", "vm-replication", "plan-recovery", "vm-recovery"]
RecoveryHook: TypeAlias = Literal["pre-recovery", "post-recovery"]
ReadyKind: TypeAlias = Literal["heartbeat", "tcp", "http"]
ManualPoint: TypeAlias = Literal[
    "before-pre-script",
    "after-pre-script",
    "before-boot-order",
    "before-post-script",
    "before-boot",
    "after-boot",
]
OnTimeout: TypeAlias = Literal["fail", "continue"]

RUNTIMES: Final[tuple[Runtime, ...]] = ("sh", "bash", "python", "go")
ON_ERROR: Final[tuple[OnError, ...]] = ("continue", "stop")
ON_UNKNOWN: Final[tuple[OnUnknown, ...]] = ("fail", "prompt", "rerun")
RECOVERY_HOOKS: Final[tuple[RecoveryHook, ...]] = ("pre-recovery", "post-recovery")
ON_TIMEOUT: Final[tuple[OnTimeout, ...]] = ("fail", "continue")
PLAN_MANUAL_POINTS: Final[tuple[ManualPoint, ...]] = (
    "before-pre-script",
    "after-pre-script",
    "before-boot-order",
    "before-post-script",
)
VM_MANUAL_POINTS: Final[tuple[ManualPoint, ...]] = ("before-boot", "after-boot")
_RESYNC: Final[Mapping[HookKind, str]] = {
    "plan-replication": "resync",
    "vm-replication": "resync",
}
_MOVE: Final[Mapping[HookKind, str]] = {
    "plan-replication": "final sync",
    "vm-replication": "final sync",
    "plan-recovery": "recovery",
    "vm-recovery": "recovery",
}
HOOKS: Final[Mapping[Operation | Literal["cleanup"], Mapping[HookKind, str]]] = {
    "replication": {"plan-replication": "synchronized tick", "vm-replication": "iteration"},
    "test": {"plan-recovery": "recovery", "vm-recovery": "recovery"},
    "failover": _MOVE,
    "migrate": _MOVE,
    "reverse": _RESYNC,
    "failback": _MOVE,
    "cleanup": {},
}
"""The one table of hooks: each operation, the kinds of scripts that run in it, and around what.

A kind stands for its pre- and its post-script. What a plan may declare, and what runs where it
declares nothing, follows from it.
"""


def operations_of(kind: HookKind) -> tuple[Operation, ...]:
    """The operations that scripts of a kind run in, in the table's order."""
    return tuple(name for name, kinds in HOOKS.items() if name != "cleanup" and kind in kinds)


RECOVERY_OPERATIONS: Final = operations_of("vm-recovery")
REPLICATION_OPERATIONS: Final = operations_of("vm-replication")

# Without `start_at` ticks fall on whole multiples of the interval in UTC (…:00, :15, :30, :45).
START_AT_DEFAULT: Final = datetime(1970, 1, 1, tzinfo=UTC)
PRIORITY_DEFAULT: Final = 3
SCRIPT_TIMEOUT_DEFAULT_S: Final = 300.0
READY_WITHIN_DEFAULT_S: Final = 300.0
# A person who was not there for a day will not come: the wait ends by the step's `on_timeout`.
MANUAL_TIMEOUT_DEFAULT_S: Final = 86_400.0
TEST_NETWORK_DEFAULT: Final = "isolated"


class _Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all parts of a definition have in common."""


class ScriptDefinition(_Definition, frozen=True, kw_only=True):
    """One script at one hook. `sha256` names its content; `run` is only for showing."""

    run: str
    runtime: Runtime
    sha256: str
    size: int
    operations: tuple[Operation, ...]
    timeout_s: float = SCRIPT_TIMEOUT_DEFAULT_S
    # None: the operation's on-error policy decides.
    on_failure: OnFailure | None = None
    on_unknown: OnUnknown = "fail"
    retries: int = 0
    # Plan post-recovery script only: run also after cancel.
    always: bool = False
    # Whether it may reach the network; its step says so where the system cannot keep it from that.
    network: bool = False


class ManualStep(_Definition, frozen=True, kw_only=True):
    """Something that a person does, at one point of a recovery. `boot_order` only where named."""

    name: str
    text: str
    at: ManualPoint
    operations: tuple[Operation, ...]
    owner: str = ""
    boot_order: int | None = None
    timeout_s: float = MANUAL_TIMEOUT_DEFAULT_S
    on_timeout: OnTimeout = "fail"


class DailyBlackout(_Definition, frozen=True, kw_only=True, tag="daily"):
    """Local time of day, from (included) to (excluded); wraps past midnight where to < from.

    `days` are the weekdays on which the window starts, Monday = 0.
    """

    from_minute: int
    to_minute: int
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    time_zone: str = "UTC"


class OnceBlackout(_Definition, frozen=True, kw_only=True, tag="once"):
    """One window between two moments, the first included, the second not."""

    starts_at: datetime
    ends_at: datetime


Blackout: TypeAlias = DailyBlackout | OnceBlackout


class ReplicationPolicy(_Definition, frozen=True, kw_only=True):
    """When and how copies are made. Ticks are exactly `start_at + n * interval_s`."""

    interval_s: float
    start_at: datetime = START_AT_DEFAULT
    synchronize: bool = False
    priority: int = PRIORITY_DEFAULT
    compression: bool = False
    quiesce: bool = False
    spread_s: float = 0.0
    blackouts: tuple[Blackout, ...] = ()
    over_capacity: bool = False
    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None


class CheckpointPolicy(_Definition, frozen=True, kw_only=True):
    """PIT checkpoints: exactly one of `every_s` and `cron`, at least one of the two keep rules.

    `every_s` counts from the replication's `start_at`; `cron` has five fields in `time_zone`.
    """

    every_s: float | None = None
    cron: str | None = None
    time_zone: str = "UTC"
    keep_last: int | None = None
    keep_for_s: float | None = None


class Targets(_Definition, frozen=True, kw_only=True):
    """What the plan promises; None where nothing was promised."""

    rpo_s: float | None = None
    rto_s: float | None = None


class RecoveryNetworks(_Definition, frozen=True, kw_only=True):
    """Network names at the recovery site. None: the names the VM has at its own site."""

    test: str = TEST_NETWORK_DEFAULT
    production: str | None = None


class RecoveryPolicy(_Definition, frozen=True, kw_only=True):
    """How every recovery of the plan goes unless the operator says otherwise.

    `auto_rollback`: tests and migrations of which a VM did not come up are undone by themselves.
    """

    on_error: OnError = "continue"
    networks: RecoveryNetworks = RecoveryNetworks()
    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None
    build_ahead: bool = True
    auto_cleanup_after_s: float | None = None
    auto_rollback: bool = False
    manual_steps: tuple[ManualStep, ...] = ()


class ReadyProbe(_Definition, frozen=True, kw_only=True):
    """When a VM counts as ready. `http` without a port asks the guest's own default port."""

    kind: ReadyKind = "heartbeat"
    port: int | None = None
    path: str | None = None
    within_s: float = READY_WITHIN_DEFAULT_S


class WindowsPolicy(_Definition, frozen=True, kw_only=True):
    """What is done for a VM whose copy is of a Windows. `validate`: ask it how it is."""

    validate: bool = True


class ReplicationScripts(_Definition, frozen=True, kw_only=True):
    """A VM's scripts around each of its iterations."""

    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None


class VmDefinition(_Definition, frozen=True, kw_only=True):
    """One protected VM. None for priority or quiesce: the plan's value holds."""

    name: str
    boot_order: int = 1
    boot_delay_s: float = 0.0
    priority: int | None = None
    quiesce: bool | None = None
    ready: ReadyProbe = ReadyProbe()
    # Name → reference such as `file:secrets/db-admin`; never a secret itself.
    credentials: dict[str, str] = {}
    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None
    replication: ReplicationScripts = ReplicationScripts()
    windows: WindowsPolicy = WindowsPolicy()
    manual_steps: tuple[ManualStep, ...] = ()


class PlanDefinition(_Definition, frozen=True, kw_only=True):
    """A whole plan. `select` is a glob over the protected site's VM names.

    Without `select`, `vms` are the VMs; with it, `vms` are overrides for some of those it matches
    (`schemas.definitions.resolve` gives the members). `after` are the plans that must be usable
    before this one is recovered, when they are recovered together.
    """

    name: str
    protected_site: str
    recovery_site: str
    replication: ReplicationPolicy
    checkpoints: CheckpointPolicy | None = None
    targets: Targets = Targets()
    recovery: RecoveryPolicy = RecoveryPolicy()
    select: str | None = None
    vms: tuple[VmDefinition, ...] = ()
    after: tuple[str, ...] = ()
