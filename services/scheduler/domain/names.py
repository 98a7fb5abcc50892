"""Names the scheduler derives: streams, ticks, jobs, reservations. Nothing here is invented."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final, get_args

from schemas.ids import parts_of
from schemas.plans import Operation
from schemas.scheduler import RecoveryMode


def site_stream(site: str) -> str:
    """The stream of a site."""
    return f"site:{site}"


def plan_stream(plan: str) -> str:
    """The stream of a plan."""
    return f"plan:{plan}"


def vm_stream(plan: str, vm: str) -> str:
    """The stream of a protected VM."""
    return f"protected-vm:{plan}:{vm}"


def vm_streams(plan: str, vms: Iterable[str]) -> tuple[str, ...]:
    """The streams of several VMs of a plan."""
    return tuple(f"protected-vm:{plan}:{vm}" for vm in vms)


def tick_id(tick_at: dt.datetime) -> str:
    """A moment as part of an id: `20261122T200000Z`, microseconds only where there are any."""
    text = tick_at.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%S")
    return f"{text}-{tick_at.microsecond:06}Z" if tick_at.microsecond else f"{text}Z"


def iteration_id(plan: str, vm: str, tick: str) -> str:
    """The iteration's stream id. Members of a run carry the run's own last part as `tick`."""
    return f"iteration:{plan}:{vm}:{tick}"


def run_id(plan: str, tick_at: dt.datetime) -> str:
    """The group job of a synchronized tick."""
    return f"replication-run:{plan}:{tick_id(tick_at)}"


def tick_of_run(run: str) -> str:
    """What the iterations of a run have in common."""
    return parts_of(run)[-1]


_MODES: Final[frozenset[str]] = frozenset(get_args(RecoveryMode))


def last_sync_run(job: str, mode: RecoveryMode) -> str:
    """The group job of a recovery's last sync: `replication-run:shop:failover-<its key>`."""
    _, plan, key = parts_of(job)
    return f"replication-run:{plan}:{mode}-{key}"


def key_of_job(job: str) -> str:
    """What tells the jobs of one plan apart, as part of a name."""
    return parts_of(job)[-1]


def recovery_of(run: str) -> str:
    """The recovery whose last sync a run is; empty for any other run, and for none."""
    mode, _, key = tick_of_run(run).partition("-") if run else ("", "", "")
    family = "reversal" if mode == "reverse" else "recovery"
    return f"{family}:{parts_of(run)[1]}:{key}" if mode in _MODES else ""


def operation_of(run: str) -> Operation:
    """What the iterations of a run are part of."""
    if not recovery_of(run):
        return "replication"
    mode = tick_of_run(run).partition("-")[0]
    return next(each for each in get_args(Operation) if each == mode)


def checkpoint_id(plan: str, due_at: dt.datetime) -> str:
    """The job and id of a scheduled checkpoint."""
    return f"checkpoint:{plan}:{tick_id(due_at)}"


def vm_reservation(site: str, vm: str) -> str:
    """The name a plan reserves for a VM: no two plans protect one VM."""
    return f"vm:{site}/{vm}"
