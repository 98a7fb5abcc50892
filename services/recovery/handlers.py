"""Which message concerns which streams of the recovery service, and who decides.

Owns the routing and nothing else: rules live in `domain`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from schemas import clean_points, lost_sites, prep, recovery_groups
from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.children import (
    CancelChild,
    ChildCleaned,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    CleanupGroup,
)
from schemas.directions import DirectionMarked, FreeInstances, NameSources, TakeInstances
from schemas.envelope import Received, commands_topic
from schemas.job_ids import is_job_id
from schemas.reversals import StartReversal
from services.recovery.domain import (
    clean_point,
    cleanup,
    commit,
    commit_window,
    group,
    group_cleanup,
    instances,
    lost_site,
    naming,
    parents,
    prep_pool,
    recovery,
    refusals,
    reversal,
    rollback,
    scripts,
    site_power_off,
    steering,
    vm_recovery,
    vm_steering,
    watch,
)
from services.recovery.domain.clean_point_state import Search
from services.recovery.domain.cleanup import Cleanup
from services.recovery.domain.commit import Commit
from services.recovery.domain.group import Group
from services.recovery.domain.group_cleanup import GroupCleanup
from services.recovery.domain.lost_site import lost_site_stream
from services.recovery.domain.operations import source
from services.recovery.domain.prep_state import pool_stream
from services.recovery.domain.recovery_state import Recovery
from services.recovery.domain.reversal import Reversal
from services.recovery.domain.rollback import Rollback
from services.recovery.domain.site_power_off import SitePowerOff
from services.recovery.domain.vm_state import VmRecovery, vm_stream
from shared.decider import (
    NOTHING,
    Decide,
    DecideMany,
    Decision,
    Family,
    Handler,
    on,
    on_many,
)
from shared.errors import Refused
from shared.fold import ServiceDefinition
from shared.scripts import stored

FAMILIES: Final[tuple[Family, ...]] = (
    stored.CONTENT,
    recovery.FAMILY,
    vm_recovery.FAMILY,
    watch.FAMILY,
    prep_pool.FAMILY,
    cleanup.FAMILY,
    clean_point.FAMILY,
    group.FAMILY,
    group_cleanup.FAMILY,
    source.FAMILY,
    commit.FAMILY,
    rollback.FAMILY,
    lost_site.FAMILY,
    site_power_off.FAMILY,
    reversal.FAMILY,
)


def _its_own(received: Received) -> str:
    return received.stream


def _to_stream(received: Received) -> str:
    return str(received.body.stream)


def _to_job(received: Received) -> str:
    return str(received.body.job)


def _to_asked_job(received: Received) -> str:
    """The job that a person names; one that is none of ours is found unknown."""
    return naming.stream_of_job(received.body.job)


def _to_recovery(received: Received) -> str:
    return str(received.body.recovery)


def _both(received: Received) -> tuple[str, ...]:
    m: said.StartCleanup | said.BeginCleanup | said_ops.StartCommit = received.body
    if not is_job_id(m.recovery, ("recovery",)):
        return (m.job,)
    return (m.job, m.recovery)


def _to_lost_site(received: Received) -> str:
    return lost_site_stream(received.body.site)


def _to_watched_site(received: Received) -> str:
    return lost_site_stream(received.body.site.site)


def _with_lost_site(received: Received) -> tuple[str, ...]:
    m: lost_sites.PowerOffOriginals = received.body
    return (m.job, lost_site_stream(naming.site_or_none(m.site)))


def _to_pool(received: Received) -> str:
    return pool_stream(naming.site_or_none(received.body.site))


def _to_parent(received: Received) -> str:
    return str(received.body.parent)


def _to_parent_only(received: Received) -> tuple[str, ...]:
    return (received.body.parent,)


def _with_group(received: Received) -> tuple[str, ...]:
    m: CleanupGroup = received.body
    if not is_job_id(m.group, ("recovery-group",)):
        return (m.job,)
    return (m.job, m.group)


def _named(
    check: Callable[[str], None], field: str, decide: Callable[..., Any]
) -> Callable[..., Any]:
    """`decide`, for a command whose `field` is checked first: it was routed by what it names."""

    def check_and_decide(states: Any, received: Received) -> Any:
        check(getattr(received.body, field))
        return decide(states, received)

    return check_and_decide


def _of_recovery(begin: DecideMany) -> DecideMany:
    return _named(naming.check_recovery, "recovery", begin)


def cancel_job(state: Any, received: Received) -> Decision:
    """Cancel a job of ours. Raises Refused; a VM is cancelled with its recovery."""
    match state:
        case Recovery():
            return recovery.cancel(state, received)
        case Cleanup():
            return cleanup.cancel(state, received)
        case Search():
            return clean_point.cancel(state, received)
        case Reversal():
            return reversal.cancel(state, received)
        case Group():
            return group.cancel(state, received)
        case GroupCleanup():
            return group_cleanup.cancel(state, received)
        case Commit() | Rollback():
            raise Refused(
                f"{received.body.job} cannot be cancelled: it would leave a recovery half decided",
                code="not-cancellable",
                remedy="let it end; what it could not do may be tried again",
            )
        case SitePowerOff():
            raise Refused(
                f"{received.body.job} cannot be cancelled: what was asked to end may end at any "
                "moment",
                code="not-cancellable",
                remedy="let it end; VMs that should run are powered on at their platform",
            )
    raise Refused(
        f"{received.body.job} cannot be cancelled by itself",
        code="not-cancellable",
        remedy="cancel the recovery it belongs to",
    )


def cancel_child(state: Any, received: Received) -> Decision:
    """A job cancels one that it asked for; one that ended meanwhile stays as it is."""
    try:
        return cancel_job(state, received)
    except Refused:
        return NOTHING


def sync_ended(state: Any, received: Received) -> Decision:
    """A VM's last iteration ended, for the recovery or the reversal that asked for it."""
    if isinstance(state, Reversal):
        return reversal.sync_ended(state, received)
    return recovery.last_sync_ended(state, received)


def source_news(state: Any, received: Received) -> Decision:
    """News of a VM's source, to the job that shuts it down or the roll back that undoes."""
    if isinstance(state, Rollback):
        return rollback.source_news(state, received)
    if isinstance(state, SitePowerOff):
        return site_power_off.source_news(state, received)
    return recovery.source_news(state, received)


def _by_job(
    *, of_recovery: Decide, of_vm: Decide, of_cleanup: Decide
) -> Callable[[Any, Received], Decision]:
    """One command for jobs of three kinds."""

    def decide(state: Any, received: Received) -> Decision:
        if isinstance(state, Recovery):
            return of_recovery(state, received)
        if isinstance(state, VmRecovery):
            return of_vm(state, received)
        if isinstance(state, Cleanup):
            return of_cleanup(state, received)
        raise refusals.no_job(received.body.job)

    return decide


answer_due = _by_job(
    of_recovery=steering.answer_due,
    of_vm=vm_steering.answer_due,
    of_cleanup=cleanup.asks_nothing,
)

STEERING: Final[tuple[Handler, ...]] = (
    on(
        steer.PauseJob,
        route=_to_asked_job,
        decide=_by_job(
            of_recovery=steering.pause, of_vm=vm_steering.pause, of_cleanup=cleanup.pause
        ),
    ),
    on(
        steer.ResumeJob,
        route=_to_asked_job,
        decide=_by_job(
            of_recovery=steering.resume, of_vm=vm_steering.resume, of_cleanup=cleanup.resume
        ),
    ),
    on(
        steer.AnswerQuestion,
        route=_to_asked_job,
        decide=_by_job(
            of_recovery=steering.answer,
            of_vm=vm_steering.answer,
            of_cleanup=cleanup.asks_nothing,
        ),
    ),
    on_many(steer.RetryJob, route=steering.route, decide=steering.retry),
    on_many(steer.SkipStep, route=steering.route, decide=steering.skip),
    on(steer.HoldsAnswered, route=_to_job, decide=steering.holds_answered),
    on(steer.MemberAsks, route=_to_job, decide=steering.member_asks),
    on(steer.PauseVm, route=_to_stream, decide=vm_steering.pause_with_recovery),
    on(steer.ResumeVm, route=_to_stream, decide=vm_steering.resume_with_recovery),
    on(steer.RetryVm, route=_to_stream, decide=vm_steering.retry),
    on(steer.AnswerDue, route=_its_own, decide=answer_due),
)
"""What people ask of running jobs, and what follows from it."""

HANDLERS: Final[tuple[Handler, ...]] = (
    *STEERING,
    # From the scheduler and the gateway.
    on(
        said.StoreRecoveryScript,
        route=lambda r: stored.script_stream(r.body.plan, r.body.sha256),
        decide=scripts.store_part,
    ),
    on(
        said.EnrolVm,
        route=lambda r: vm_stream(r.body.job, r.body.definition.name),
        decide=vm_recovery.enrol,
    ),
    on(said.StartRecovery, route=_to_job, decide=recovery.start),
    on(said.CancelRecoveryJob, route=_to_asked_job, decide=cancel_job),
    on_many(said.StartCleanup, route=_both, decide=_of_recovery(cleanup.begin)),
    on_many(said_ops.StartCommit, route=_both, decide=_of_recovery(commit.begin)),
    on_many(said_ops.StartRollback, route=_both, decide=_of_recovery(rollback.begin)),
    on_many(said_ops.BeginRollback, route=_both, decide=rollback.begin),
    on_many(
        lost_sites.PowerOffOriginals,
        route=_with_lost_site,
        decide=_named(naming.check_site, "site", site_power_off.begin),
    ),
    on(lost_sites.WatchLostSite, route=_to_watched_site, decide=lost_site.watch),
    on(lost_sites.LookAtLostSite, route=_to_lost_site, decide=lost_site.look_now),
    on(lost_sites.SiteReleased, route=_to_lost_site, decide=lost_site.released),
    on(said_ops.LastSyncEnded, route=_to_job, decide=sync_ended),
    on(NameSources, route=_to_job, decide=instances.name_sources),
    on_many(StartReversal, route=reversal.streams_of_groups, decide=reversal.begin),
    on(DirectionMarked, route=_to_job, decide=reversal.direction_marked),
    on(TakeInstances, route=_to_recovery, decide=instances.take),
    on(FreeInstances, route=_to_recovery, decide=instances.free),
    on_many(
        CleanupGroup,
        route=_with_group,
        decide=_named(naming.check_group, "group", group_cleanup.begin),
    ),
    on(clean_points.StartCleanPointSearch, route=_to_job, decide=clean_point.start),
    on(recovery_groups.StartRecoveryGroup, route=_to_job, decide=group.start),
    # Between jobs and the recoveries and cleanups that they ask for.
    on(ChildStarted, route=_to_parent, decide=parents.started),
    on(ChildRefused, route=_to_parent, decide=parents.refused),
    on_many(
        ChildEnded,
        route=lambda r: (r.body.parent, r.body.job),
        decide=parents.ended,
    ),
    on_many(ChildCleaned, route=_to_parent_only, decide=parents.cleaned, expand=parents.beyond),
    on(CancelChild, route=_to_job, decide=cancel_child),
    # Between a recovery, its VMs, its cleanups and the sites' watchers.
    on(said.LaunchVm, route=_to_stream, decide=vm_recovery.launch),
    on(said.BootVm, route=_to_stream, decide=vm_recovery.allow_boot),
    on(said.AbandonVm, route=_to_stream, decide=vm_recovery.abandon),
    on(said.InstanceReady, route=_to_stream, decide=vm_recovery.instance_ready),
    on(said.InstanceLate, route=_to_stream, decide=vm_recovery.instance_late),
    on(said.MemberNews, route=_to_job, decide=recovery.member_news),
    on(
        said.WatchInstance,
        route=lambda r: watch.watch_stream(r.body.site.site),
        decide=watch.watch,
    ),
    on(
        said.UnwatchInstance,
        route=lambda r: watch.watch_stream(r.body.site),
        decide=watch.unwatch,
    ),
    # Between VMs and the prep pools of their sites.
    on(prep.TakeSeat, route=lambda r: pool_stream(r.body.site.site), decide=prep_pool.take),
    on(prep.LeaveSeat, route=lambda r: pool_stream(r.body.site), decide=prep_pool.leave),
    on(prep.SeatGranted, route=_to_stream, decide=vm_recovery.seat_granted),
    on(prep.SeatRefused, route=_to_stream, decide=vm_recovery.seat_refused),
    on(
        prep.DrainNode,
        route=_to_pool,
        decide=_named(naming.check_site, "site", prep_pool.drain),
    ),
    on_many(said.BeginCleanup, route=_both, decide=cleanup.begin),
    on(said.CleanupNews, route=_to_recovery, decide=recovery.cleanup_news),
    on(said_ops.SecureSource, route=_to_stream, decide=source.secure),
    on(said_ops.RestoreSource, route=_to_stream, decide=source.restore),
    on(said_ops.SourceNews, route=lambda r: str(r.body.to), decide=source_news),
    on(said_ops.CommitEnded, route=_to_recovery, decide=commit_window.commit_ended),
    on(said_ops.RollbackCleaned, route=_to_job, decide=rollback.cleaned),
    on(said_ops.RollbackEnded, route=_to_recovery, decide=commit_window.rollback_ended),
    on(lost_sites.PowerOffEnded, route=_to_lost_site, decide=lost_site.power_off_ended),
    # Timers, and facts that a running script commits under its claim.
    on(said.BootDelayOver, route=_its_own, decide=recovery.delay_over),
    on(said.PollDue, route=_its_own, decide=watch.poll_due),
    on(said.AutoCleanupDue, route=_its_own, decide=recovery.auto_cleanup),
    on(clean_points.CleanAgainDue, route=_its_own, decide=clean_point.clean_again),
    on(clean_points.VerdictScriptStarted, route=_its_own, decide=clean_point.script_started),
    on(lost_sites.LostSiteLookDue, route=_its_own, decide=lost_site.look_due),
    on(said_ops.CommitReminder, route=_its_own, decide=commit_window.remind),
    on(said.PlanScriptStarted, route=_its_own, decide=recovery.script_started),
    on(said.VmScriptStarted, route=_its_own, decide=vm_recovery.script_started),
)

DEFINITION: Final = ServiceDefinition(
    name="recovery",
    families=FAMILIES,
    handlers=HANDLERS,
    subscriptions=tuple(
        (source, commands_topic("recovery")) for source in ("gateway", "scheduler", "recovery")
    ),
)
"""All the runner needs to know but the effect handlers (`effects.handlers`)."""
