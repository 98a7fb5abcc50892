"""What a simulation of a recovery is given and what it finds. Owns the shapes and the step list.

Where durations come from is the caller's: `DEFAULTS_S` stand where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

PRE: Final = "pre-script"
HOLD: Final = "hold-copy"
REBUILD: Final = "rebuild-disks"
PREP_NODE: Final = "prep-node"
PREPARE: Final = "prepare-windows"
CREATE: Final = "create-instance"
POWER_ON: Final = "power-on"
BOOT: Final = "wait-ready"
VALIDATE: Final = "validate-windows"
POST: Final = "post-script"

STEPS: Final = (
    PRE, HOLD, REBUILD, PREP_NODE, PREPARE, CREATE, POWER_ON, BOOT, VALIDATE, POST,
)  # fmt: skip
"""The steps of a VM, in order; the names are those of the recovery service's step list, but for
`prep-node`: the wait until the prep nodes, which come on when the first Windows is known, are on.
"""

OURS: Final = (HOLD, REBUILD, PREP_NODE, PREPARE, CREATE, POWER_ON, VALIDATE)
"""What an engine and a platform of no cost would do at once: their calls. Boot times and scripts
are the guests' and the plan's own."""

CALLS: Final[Mapping[str, str]] = {
    HOLD: "hold",
    REBUILD: "rebuild_disk",
    CREATE: "create_instance",
    POWER_ON: "power_on",
}
"""Step → platform call."""

WINDOWS_CALLS: Final[Mapping[str, str]] = {
    PREP_NODE: "power_on_node",
    PREPARE: "prepare_windows",
    VALIDATE: "validate_windows",
}
"""The same for the steps that only a Windows has."""

HOOKS: Final[Mapping[str, str]] = {PRE: "pre-recovery", POST: "post-recovery"}
"""Step → the hook of its script."""

WORKERS: Final = "workers"
PREP_NODES: Final = "prep-nodes"
BOOT_DELAY: Final = "boot-delay"
BEGIN: Final = "begin"

WINDOWS_PER_PREP_NODE: Final = 25

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    HOLD: (WORKERS,),
    REBUILD: ("CreateVolume", WORKERS),
    PREPARE: (PREP_NODES, WORKERS),
    VALIDATE: (WORKERS,),
    CREATE: ("RunInstances", WORKERS),
    POWER_ON: ("StartInstances", WORKERS),
    PRE: (WORKERS,),
    POST: (WORKERS,),
}
"""The limits a step spends, by the names that all platforms map theirs to."""

DEFAULTS_S: Final[Mapping[str, float]] = {
    BEGIN: 0.5,
    PRE: 5.0,
    HOLD: 0.05,
    REBUILD: 1.0,
    PREP_NODE: 60.0,
    PREPARE: 120.0,
    CREATE: 1.5,
    POWER_ON: 0.5,
    BOOT: 30.0,
    VALIDATE: 5.0,
    POST: 5.0,
}
"""Seconds of a step that nobody has seen yet and whose platform says nothing: guesses, and told as
such wherever they are used. `begin` is from the command until the first VM begins."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A VM to bring up. `seconds`: by step, that of one disk for `rebuild-disks`; absent is none.

    `validate`: a Windows is asked how it is once it is ready. Of one that is under way: `done` are
    the steps that are over, `begun_s` is for how long the next one has been going on, None where
    it has not begun, and `on_s` is how long ago it was powered on.
    Machines may share one mapping: nothing writes to it.
    """

    name: str
    boot_order: int = 1
    boot_delay_s: float = 0.0
    disks: int = 1
    windows: bool = False
    validate: bool = True
    pre_script: bool = False
    post_script: bool = False
    seconds: Mapping[str, float] = {}
    done: frozenset[str] = frozenset()
    begun_s: float | None = None
    on_s: float | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery to simulate. `begin_s`: before the first VM begins (holds, preflight).

    `early`: the platform creates instances powered off, so that they are built ahead too.
    """

    machines: tuple[Machine, ...]
    build_ahead: bool = True
    early: bool = True
    begin_s: float = 0.0
    pre_script_s: float = 0.0
    post_script_s: float = 0.0


class PlannedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a VM when it starts; `part` counts its disks, 0 for all other steps."""

    at_s: float
    step: str
    vm: str
    part: int = 0


class OrderForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One boot order, in seconds from the command. `binds` took the largest part (`binds_s`) of
    the way of its last VM since the order opened, the boot delay behind it included."""

    boot_order: int
    vms: int
    opens_s: float
    first_on_s: float
    last_on_s: float
    ready_s: float
    binds: str
    binds_s: float


class PhaseForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of step over all VMs. `binds`: the limit that made it wait, or the step itself."""

    step: str
    calls: int
    starts_s: float
    ends_s: float
    waited_s_max: float
    binds: str


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation found. `ready_s` is the RTO: the last VM usable; `total_s` the end.

    Infinite where a limit lets nothing pass. `binds` is what the way to the end spends most on.
    """

    total_s: float
    ready_s: float
    orders: tuple[OrderForecast, ...]
    phases: tuple[PhaseForecast, ...]
    calls: tuple[PlannedCall, ...]
    binds: str
    binds_s: float
