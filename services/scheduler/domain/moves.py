"""VMs that run elsewhere after a full recovery, and quarantined sites: what that forbids.

Pure rules over the states; who moves and returns is decided in `full_recoveries`, quarantine in
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from schemas.plans import PlanDefinition
from schemas.scheduler_operations import PlanQuarantined, PlanQuarantineEnded
from services.scheduler.domain.names import site_stream, vm_stream
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm
from services.scheduler.domain.site import Site
from shared.errors import Refused


def check_quarantine(plan: Plan, name: str) -> None:
    """Raise Refused `quarantined` where nothing may replicate from or to one of its sites."""
    if plan.quarantined:
        site = plan.quarantined[0]
        raise Refused(
            f"site {site!r} of plan {name!r} is quarantined: a failover gave up VMs that could "
            "not be reached there",
            code="quarantined",
            remedy=f"power off originals that run there (`seawall site power-off {site}`), then "
            f"`seawall site release {site}`",
        )


def at_home(
    states: Mapping[str, Any], plan: str, vms: tuple[str, ...], *, named: bool
) -> tuple[str, ...]:
    """The VMs that run at their protected site, for a command about replication.

    Raises Refused `failed-over` or `migrated` where there is none, or one was asked for by name
    (`named`) that runs elsewhere.
    """
    found: list[str] = []
    away: ProtectedVm | None = None
    for vm in vms:
        state: ProtectedVm = states[vm_stream(plan, vm)]
        if not state.moved:
            found.append(vm)
            continue
        away = away or state
    if away is not None and (named or not found):
        raise moved_elsewhere(away)
    return tuple(found)


def moved_elsewhere(state: ProtectedVm) -> Refused:
    """The refusal for a VM that does not run where the plan protects it."""
    assert state.setup is not None and state.moved, "it was protected before it moved"
    words = state.moved.replace("-", " ")
    return Refused(
        f"VM {state.setup.vm!r} is {words}: it runs at {state.setup.recovery_site.site} since "
        f"{state.moved_by}",
        code=state.moved,
        remedy=f"`seawall rollback {state.moved_by}` brings it back while that is not committed",
    )


def quarantine_changes(
    states: Mapping[str, Any], plan: Plan, definition: PlanDefinition
) -> tuple[PlanQuarantined | PlanQuarantineEnded, ...]:
    """What a plan must be told that begins to use a quarantined site, or uses it no more."""
    sites = dict.fromkeys((definition.protected_site, definition.recovery_site))
    changes = ended_quarantines(plan, definition.name, kept=sites)
    found: list[PlanQuarantined | PlanQuarantineEnded] = [*changes]
    for name in sites:
        site: Site = states[site_stream(name)]
        if site.quarantined and name not in plan.quarantined:
            found.append(PlanQuarantined(plan=definition.name, site=name, job=""))
    return tuple(found)


def ended_quarantines(
    plan: Plan, name: str, *, kept: Collection[str] = ()
) -> tuple[PlanQuarantineEnded, ...]:
    """The plan has nothing to do any more with its quarantined sites, but for those `kept`."""
    return tuple(
        PlanQuarantineEnded(plan=name, site=site) for site in plan.quarantined if site not in kept
    )
