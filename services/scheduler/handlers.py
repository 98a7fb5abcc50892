"""Which message concerns which streams of the scheduler, and who decides.

Owns the routing and nothing else: rules live in `domain`.
"""

from __future__ import annotations

from typing import Any, Final

from schemas import scheduler as said
from schemas.children import ParentEnded, RecoverChild
from schemas.clean_points import FindCleanPoint, RecordVerdict
from schemas.directions import CancelSync, MarkDirection, TurnVms
from schemas.envelope import Received, commands_topic
from schemas.ids import family_of
from schemas.lost_sites import OriginalsFound
from schemas.recovery_groups import RecoverGroup
from schemas.recovery_steering import HoldAgain
from services.scheduler.domain import (
    application,
    checkpoints,
    clean_points,
    direction,
    full_recoveries,
    groups,
    membership,
    parents,
    plan,
    prerequisites,
    protected_vm,
    quarantine,
    recoveries,
    rehold,
    rpo,
    site,
    switching,
    ticks,
)
from services.scheduler.domain.names import plan_stream, site_stream, vm_stream
from services.scheduler.domain.patience import patient
from shared.decider import Decision, Family, Handler, on, on_many
from shared.fold import ServiceDefinition

FAMILIES: Final[tuple[Family, ...]] = (site.FAMILY, plan.FAMILY, protected_vm.FAMILY)


def _its_own(received: Received) -> str:
    return received.stream


def _its_own_only(received: Received) -> tuple[str, ...]:
    return (received.stream,)


def _to_site(received: Received) -> str:
    return site_stream(received.body.site)


def _to_plan(received: Received) -> str:
    return plan_stream(received.body.plan)


def _to_plan_only(received: Received) -> tuple[str, ...]:
    return (plan_stream(received.body.plan),)


def _to_childs_plan(received: Received) -> tuple[str, ...]:
    return (plan_stream(received.body.recover.plan),)


def _to_asker(received: Received) -> str:
    return str(received.body.for_stream)


def _to_vm(received: Received) -> tuple[str, ...]:
    m: said.IterationEnded = received.body
    return (vm_stream(m.plan, m.vm),)


def _plan_of_run(states: Any, received: Received) -> tuple[str, ...]:
    """The plan counts for a run's members, and where a recovery waits for the iteration to end;
    a routine one leaves it alone."""
    (state,) = states.values()
    return (plan_stream(received.body.plan),) if state.run or state.claim else ()


def _plan_and_sites(received: Received) -> tuple[str, ...]:
    definition = received.body.definition
    sites = dict.fromkeys((definition.protected_site, definition.recovery_site))
    return (plan_stream(definition.name), *map(site_stream, sites))


def site_inspected(state: Any, received: Received) -> Decision:
    """A site's answer, to the site itself or to the plan that asked."""
    if family_of(received.body.for_stream) == "plan":
        return application.site_answered(state, received)
    return site.site_inspected(state, received)


def inspection_due(state: Any, received: Received) -> Decision:
    """A site did not answer in time."""
    if family_of(received.stream) == "plan":
        return application.overdue(state, received)
    return site.inspection_overdue(state, received)


def _on_plan_and_vms(message: type, decide: Any) -> Handler:
    """A command that concerns a plan and, once that is known, all its VMs."""
    return on_many(message, route=_to_plan_only, decide=decide, expand=groups.streams_of_plan)


HANDLERS: Final[tuple[Handler, ...]] = (
    on(said.AddSite, route=_to_site, decide=site.add_site),
    on(said.CheckSite, route=_to_site, decide=site.check_site),
    on(said.RemoveSite, route=_to_site, decide=site.remove_site),
    on(said.SiteInspected, route=_to_asker, decide=site_inspected),
    on(said.InspectionDue, route=_its_own, decide=inspection_due),
    on_many(said.ApplyPlan, route=_plan_and_sites, decide=application.request),
    on_many(
        said.FinishApplication,
        route=_to_plan_only,
        decide=application.finish,
        expand=application.streams_to_finish,
        follow=application.plans_to_follow,
    ),
    on(said.NamesDue, route=_its_own, decide=application.names_due),
    on_many(
        said.DeletePlan,
        route=_to_plan_only,
        decide=patient(membership.delete_plan),
        expand=membership.streams_to_delete,
    ),
    _on_plan_and_vms(said.StartPlan, switching.start_plan),
    _on_plan_and_vms(said.StopPlan, switching.stop_plan),
    _on_plan_and_vms(said.PrioritisePlan, switching.prioritise_plan),
    _on_plan_and_vms(said.ResetVm, switching.reset_vm),
    _on_plan_and_vms(said.RunPlan, groups.run_plan),
    on(said.TickDue, route=_its_own, decide=ticks.tick_due),
    on_many(said.IterationEnded, route=_to_vm, decide=ticks.iteration_ended, expand=_plan_of_run),
    on_many(
        said.GroupTickDue,
        route=_its_own_only,
        decide=groups.group_tick_due,
        expand=groups.streams_of_plan,
    ),
    on_many(
        said.GroupCheckDue,
        route=_its_own_only,
        decide=groups.group_check_due,
        expand=groups.streams_of_run,
    ),
    on(said.RpoDue, route=_its_own, decide=rpo.rpo_due),
    on_many(
        said.CheckpointDue,
        route=_its_own_only,
        decide=checkpoints.checkpoint_due,
        expand=groups.streams_of_plan,
    ),
    _on_plan_and_vms(said.CreateCheckpoint, patient(checkpoints.create_checkpoint)),
    on(said.CheckpointEnded, route=_to_plan, decide=checkpoints.checkpoint_ended),
    on(said.RetentionDue, route=_its_own, decide=checkpoints.retention_due),
    on_many(
        said.ChangeCheckpoint,
        route=_to_plan_only,
        decide=patient(checkpoints.change_checkpoint),
    ),
    _on_plan_and_vms(said.Recover, patient(recoveries.recover)),
    on_many(
        said.ReleaseHolds,
        route=_to_plan_only,
        decide=recoveries.release_holds,
        expand=recoveries.streams_to_release,
    ),
    *(
        on_many(message, route=_to_plan_only, decide=decide, expand=recoveries.streams_to_release)
        for message, decide in (
            (said.RecoveryEnded, parents.recovery_ended),
            (said.SyncLast, full_recoveries.sync_last),
            (said.ReturnVms, full_recoveries.return_vms),
        )
    ),
    *(
        on_many(message, route=_to_plan_only, decide=decide, expand=expand)
        for message, decide, expand in (
            (MarkDirection, direction.mark_direction, direction.streams_of_sources),
            (TurnVms, direction.turn_vms, direction.streams_of_sources),
            (CancelSync, direction.cancel_sync, recoveries.streams_to_release),
        )
    ),
    on_many(
        said.ClaimDue,
        route=_its_own_only,
        decide=parents.claim_due,
        expand=full_recoveries.streams_awaited,
    ),
    on(said.SiteLost, route=_to_site, decide=quarantine.site_lost),
    on(OriginalsFound, route=_to_site, decide=quarantine.originals_found),
    on(said.ReleaseSite, route=_to_site, decide=quarantine.release_site),
    _on_plan_and_vms(said.QuarantinePlan, quarantine.quarantine_plan),
    on(said.EndPlanQuarantine, route=_to_plan, decide=quarantine.end_plan_quarantine),
    on_many(
        HoldAgain,
        route=_to_plan_only,
        decide=rehold.hold_again,
        expand=rehold.streams_to_hold,
    ),
    on_many(
        RecoverChild,
        route=_to_childs_plan,
        decide=parents.recover_child,
        expand=groups.streams_of_plan,
    ),
    on(ParentEnded, route=_to_plan, decide=parents.parent_ended),
    on_many(
        RecoverGroup,
        route=_to_plan_only,
        decide=patient(parents.recover_group),
        follow=lambda states, received: prerequisites.plans_named(states),
    ),
    _on_plan_and_vms(FindCleanPoint, patient(clean_points.find_clean_point)),
    on(RecordVerdict, route=_to_plan, decide=clean_points.record_verdict),
)

DEFINITION: Final = ServiceDefinition(
    name="scheduler",
    families=FAMILIES,
    handlers=HANDLERS,
    subscriptions=tuple(
        (source, commands_topic("scheduler"))
        for source in ("gateway", "replicator", "recovery", "scheduler")
    ),
)
"""All the runner needs to know; the scheduler has no effects of its own."""
