"""What may still be decided about a full recovery that has ended, and what that decision ends.

Rules over the recovery's state. The jobs that carry a decision out are `commit`, `rollback` and
`cleanup`; by default nothing happens by itself (product.md §5).
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from schemas import operations as said
from schemas.common import HoldMode
from schemas.envelope import Received
from schemas.lost_sites import LookAtLostSite
from schemas.recovery import RecoveryFinished
from schemas.scheduler import ReleaseHolds
from schemas.units import some_of
from services.recovery.domain import instances, stranded
from services.recovery.domain.operations import of, securing
from services.recovery.domain.recovery_state import Recovery, told
from shared.decider import NOTHING, Decision, Send, Timer
from shared.errors import Refused

REMIND_AFTER_S: Final = 24 * 3600.0
"""A window that is open for longer is an alert: instances drift away from what they replaced."""

REMINDER: Final = "commit-reminder"

NAMED_MAX: Final = 10


# ── Who may decide ───────────────────────────────────────────────────────────────────────────


def check_open(state: Recovery, job: str, *, verb: str) -> RecoveryFinished:
    """The recovery's end, where its commit window is open and nobody is deciding.

    Raises Refused: `unknown-job`, `still-running`, `no-commit-window`, `already-committed`,
    `already-rolled-back`, `being-committed`, `being-rolled-back`.
    """
    if state.started is None:
        raise Refused(f"there is no recovery {job}", code="unknown-job", remedy="see `job list`")
    if state.finished is None:
        raise Refused(
            f"{job} is still running",
            code="still-running",
            remedy="wait for its end, or cancel it",
        )
    if state.retrying is not None:
        raise Refused(f"{job} is about to be retried", code="still-running", remedy="wait for it")
    window = state.window
    if window.committed:
        raise Refused(
            f"{job} was committed by {window.committed}: its instances are the VMs now",
            code="already-committed",
        )
    if window.rolled_back:
        raise Refused(f"{job} was rolled back already", code="already-rolled-back")
    if window.committing:
        raise Refused(f"{window.committing} is committing {job}", code="being-committed")
    if window.rolling_back:
        raise Refused(f"{window.rolling_back} is rolling {job} back", code="being-rolled-back")
    if not state.finished.awaits_commit:
        test = of(state.started.mode).ends_with == "cleanup"
        raise Refused(
            f"{job} left nothing to {verb}",
            code="no-commit-window",
            remedy=f"`seawall cleanup {job}` removes what a test made" if test else "",
        )
    return state.finished


def check_whole(state: Recovery, job: str) -> None:
    """Raise Refused `half-undone` where a roll back undid a part: only another one is left."""
    if state.window.half_undone:
        raise Refused(
            f"a roll back of {job} undid a part of it: sources may run, instances may be gone",
            code="half-undone",
            remedy=f"`seawall rollback {job}` undoes the rest; with --leave-off also where a "
            "source cannot come back",
        )


def check_cleanup(state: Recovery, job: str, *, confirm: str) -> None:
    """Whether a person may clean up after a full recovery that has ended.

    Nothing is to be typed once a committed failback brought all of them back.
    Raises Refused: `awaits-commit`, `being-rolled-back`, `already-cleaned`, `in-production`,
    `confirm`.
    """
    start, window = told(state), state.window
    if window.rolled_back:
        raise Refused(f"{job} was rolled back: nothing is left of it", code="already-cleaned")
    if window.rolling_back:
        raise Refused(f"{window.rolling_back} is rolling {job} back", code="being-rolled-back")
    if not window.committed:
        raise Refused(
            f"{job} awaits its commit or roll back: its instances are in production",
            code="awaits-commit",
            remedy=f"`seawall rollback {job}` removes them and brings the sources back",
        )
    if window.taken:
        raise Refused(
            f"{job} made the instances that VM {some_of(sorted(window.taken), NAMED_MAX)} runs "
            "as, and is replicated from",
            code="in-production",
            remedy=f"`seawall recover {start.plan} --mode failback`, committed, brings it back; "
            "then its instances may go",
        )
    # One that counts as failed may run in production all the same, by its people's hands.
    made = {vm for vm, member in state.members.items() if member.made}
    if made and made <= window.home:
        return
    if confirm != start.plan:
        raise Refused(
            f"{job} is committed: its instances are VMs in production, and would be deleted",
            code="confirm",
            remedy="where they are no longer needed, type the plan's name: "
            f"`seawall cleanup {job} --confirm {start.plan}`",
        )


def given_up(state: Recovery) -> tuple[str, ...]:
    """The VMs whose originals a failover could not reach and that it replaced all the same.

    None of one whose instances a roll back removed or is removing, or that ended without having
    made anything, and none that it was committed without: their originals are the VMs (again).
    """
    window = state.window
    gone = window.half_undone and (state.cleaned or not state.made)
    undone = window.rolled_back or gone or bool(window.rolling_back)
    if state.started is None or undone:
        return ()
    if state.finished is not None and not state.finished.awaits_commit:
        return ()
    back = stranded.left_out(state)
    if state.source.lost:
        return tuple(vm for vm in state.roster if vm not in back)
    return tuple(
        vm for vm, secured in state.source.states.items() if secured == "gone" and vm not in back
    )


# ── What became of it ────────────────────────────────────────────────────────────────────────


def commit_ended(state: Recovery, received: Received) -> Decision:
    """A commit ended: the window closes for good, or stays open.

    VMs that it left out are given back before the holds are.
    """
    m: said.CommitEnded = received.body
    if state.window.committing != m.commit:
        return NOTHING
    if not m.done:
        return Decision(events=(said.RecoveryCommitRefuted(commit=m.commit),))
    without = stranded.not_ready(state)
    event = said.RecoveryCommitted(plan=told(state).plan, commit=m.commit, without=without)
    facts, sends = instances.committed(state, commit=m.commit, without=without)
    sends += (given_back(state), *(_look_again(state) if without else ()))
    return Decision(events=(event, *facts), sends=sends, cancel_timers=(REMINDER,))


def rollback_ended(state: Recovery, received: Received) -> Decision:
    """A roll back ended: everything is as it was, or it may be repeated."""
    m: said.RollbackEnded = received.body
    if state.window.rolling_back != m.rollback:
        return NOTHING
    if not m.done:
        incomplete = said.RecoveryRollbackIncomplete(rollback=m.rollback, untouched=m.untouched)
        return Decision(events=(incomplete,))
    event = said.RecoveryRolledBack(plan=told(state).plan, rollback=m.rollback)
    sends = (given_back(state), *_look_again(state))
    return Decision(events=(event,), sends=sends, cancel_timers=(REMINDER,))


def _look_again(state: Recovery) -> tuple[Send, ...]:
    """Originals are the VMs again: who watches them hears so before the next beat."""
    if not securing.gives_up_unreached(state.source):
        return ()
    site = told(state).header.protected.site
    return (Send(to="recovery", key=site, message=LookAtLostSite(site=site)),)


def remind(state: Recovery, received: Received) -> Decision:
    """The window has been open for long: people are told, once."""
    window = state.window
    if state.finished is None or window.committed or window.rolled_back:
        return NOTHING
    since = received.at - dt.timedelta(seconds=REMIND_AFTER_S)
    return Decision(events=(said.CommitOverdue(plan=told(state).plan, since=since),))


def opens(state: Recovery) -> bool:
    """Whether a full recovery left anything that a roll back would undo."""
    return state.launched > 0 or bool(securing.left_off(state.source))


def given_back_at_end(
    state: Recovery, end: RecoveryFinished, stayed: tuple[str, ...]
) -> tuple[ReleaseHolds, ...]:
    """What a recovery gives back when it ends: all but the instances that wait for their fate.

    `stayed` are VMs whose sources were left alone: nobody but their replication holds them.
    """
    start = told(state)
    test = of(start.mode).ends_with == "cleanup"
    copy: HoldMode = "read-copy" if test else "write-copy"
    keeps = state.made if test else end.awaits_commit
    modes: tuple[HoldMode, ...] = (copy,) if keeps else (copy, "own-instance")
    release = ReleaseHolds(
        plan=start.plan, job=start.job, modes=modes, release_checkpoint=not keeps
    )
    if not stayed:
        return (release,)
    alone: tuple[HoldMode, ...] = (copy, "own-instance")
    return release, ReleaseHolds(plan=start.plan, job=start.job, modes=alone, vms=stayed)


def reminder(now: dt.datetime) -> Timer:
    """Set when the window opens."""
    due = now + dt.timedelta(seconds=REMIND_AFTER_S)
    return Timer(name=REMINDER, due=due, message=said.CommitReminder())


def given_back(state: Recovery) -> Send:
    """The holds that outlast a full recovery."""
    start = told(state)
    release = ReleaseHolds(
        plan=start.plan, job=start.job, modes=("own-instance",), release_checkpoint=True
    )
    return Send(to="scheduler", key=start.plan, message=release)
