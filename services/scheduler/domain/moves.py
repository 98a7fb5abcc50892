"""VMs that run elsewhere after a full recovery, and quarantined sites: what that forbids.

Pure rules over the states; who moves and returns is decided in `full_recoveries`, quarantine in
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from schemas.plans import PlanDefinition
from schemas.scheduler import VmProtected
from schemas.scheduler_operations import PlanQuarantined, PlanQuarantineEnded
from services.scheduler.domain.names import site_stream, vm_stream, vm_streams
from services.scheduler.domain.patience import NotYet
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm
from services.scheduler.domain.site import Site
from shared.errors import Refused


def check_quarantine(plan: Plan, name: str) -> None:
    """Raise Refused `quarantined` where nothing may replicate from or to one of its sites."""
    if plan.quarantined:
        raise _quarantined(plan.quarantined[0], name)


def check_new_sites(states: Mapping[str, Any], plan: Plan, definition: PlanDefinition) -> None:
    """Raise Refused `quarantined` where a plan would begin to use a quarantined site.

    One that uses it already may be applied again: its VMs are stopped, and stay so.
    """
    used: tuple[str, ...] = ()
    if plan.header is not None:
        used = (plan.header.protected.site, plan.header.recovery_site.site)
    for name in (definition.protected_site, definition.recovery_site):
        site: Site = states[site_stream(name)]
        if site.quarantined and name not in used:
            raise _quarantined(name, definition.name)


def check_sites_kept(states: Mapping[str, Any], plan: Plan, definition: PlanDefinition) -> None:
    """Raise Refused where a plan would change its sites while VMs of it run on the other side
    (`failed-over`, `migrated`), or are replicated from what was brought up there (`reversed`).

    With other sites it would forget where they run, and copy what they ran as before.
    """
    before = plan.header
    if before is None or (
        before.protected.site == definition.protected_site
        and before.recovery_site.site == definition.recovery_site
    ):
        return
    for key in vm_streams(definition.name, plan.vms):
        state: ProtectedVm = states[key]
        if state.moved:
            raise _moved_from_sites(state)
        if state.direction.reverse or state.direction.instance:
            assert state.setup is not None, "it was protected before it turned"
            raise Refused(
                f"VM {state.setup.vm!r} runs as instance {state.direction.instance}, and is "
                "replicated between the plan's sites as they are",
                code="reversed",
                remedy="keep the plan's sites as they are",
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
    setup = state.setup
    # A committed failback turns its VMs; that it was committed may not have been heard of yet.
    refusal = NotYet if state.direction.reverse else Refused
    return refusal(
        _whereabouts(state, setup),
        code=state.moved,
        remedy=f"`seawall rollback {state.moved_by}` brings it back while that is not committed; "
        f"afterwards `seawall recover {setup.plan} --mode reverse` replicates it from there",
    )


def _moved_from_sites(state: ProtectedVm) -> Refused:
    setup = state.setup
    assert setup is not None and state.moved, "it was protected before it moved"
    return Refused(
        f"{_whereabouts(state, setup)}; with other sites the plan would forget that, and "
        "replicate what it ran as before",
        code=state.moved,
        remedy="keep the plan's sites as they are; "
        f"`seawall recover {setup.plan} --mode reverse` replicates it from where it runs",
    )


def _whereabouts(state: ProtectedVm, setup: VmProtected) -> str:
    site = setup.protected if state.direction.reverse else setup.recovery_site
    words = state.moved.replace("-", " ")
    return f"VM {setup.vm!r} is {words}: it runs at {site.site} since {state.moved_by}"


def _quarantined(site: str, plan: str) -> Refused:
    return Refused(
        f"site {site!r} of plan {plan!r} is quarantined: a failover gave up VMs that could "
        "not be reached there",
        code="quarantined",
        remedy=f"power off originals that run there (`seawall site power-off {site}`), then "
        f"`seawall site release {site}`",
    )


def quarantine_changes(
    states: Mapping[str, Any], plan: Plan, definition: PlanDefinition
) -> tuple[PlanQuarantined | PlanQuarantineEnded, ...]:
    """What a plan must be told that uses a quarantined site no more, or uses one and has not heard
    of it: the news is on its way, and stops its VMs when it comes."""
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
