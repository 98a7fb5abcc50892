"""VMs that a full recovery did not bring up, when somebody wants to keep the rest.

Rules over the recovery's state: who they are, what may be done about them, and where they are
once a commit left them out. Left to themselves they would be stranded: no instance that is the VM,
no way to be recovered again, and what was made of them in the way. The commit is `commit`'s, the
removal `cleanup`'s.
"""

from __future__ import annotations

from typing import Final

from schemas.units import some_of
from services.recovery.domain.operations import of, securing
from services.recovery.domain.recovery_state import MemberState, Recovery, told
from services.recovery.domain.scripts import POST_STEP
from services.recovery.domain.vm_state import WAIT, vm_stream
from services.recovery.domain.windows_steps import VALIDATE
from shared.errors import Refused

NAMED_MAX: Final = 10

SKIPS_MAX: Final = 3
"""So many VMs are named with the step to skip; the others are kept in the same way."""

_BUILT_BEFORE: Final = (WAIT, VALIDATE, POST_STEP)
"""The steps that come after power-on: who goes on without one has the VM as it stands there."""


def not_ready(state: Recovery) -> tuple[str, ...]:
    """The VMs that failed, were cancelled or never begun; not those that stayed what they were,
    for they could not be fenced, and were given back when the recovery ended."""
    stayed = frozenset(securing.stayed(state.source))
    return tuple(
        vm
        for vm in state.roster
        if state.members.get(vm, MemberState()).outcome != "ready" and vm not in stayed
    )


def left_out(state: Recovery) -> frozenset[str]:
    """The VMs that were committed without: what they were before, they are again."""
    return state.without if state.window.committed else frozenset()


def check_commit(state: Recovery, job: str, *, without_failed: bool) -> tuple[str, ...]:
    """The VMs that a commit leaves out. Raises Refused `not-ready` where nobody said so, with
    what else may be done about them."""
    stranded = not_ready(state)
    if stranded and not without_failed:
        raise Refused(
            f"{some_of(stranded, NAMED_MAX)} of {job} did not come up: a commit must not leave "
            "them behind, switched off and in the way of their next recovery",
            code="not-ready",
            remedy="; ".join(_choices(state, job, stranded)),
        )
    return stranded


def _choices(state: Recovery, job: str, stranded: tuple[str, ...]) -> list[str]:
    ways: list[str] = []
    if _may_go_on(state, stranded):
        ways.append(f"bring them up: `seawall job retry {job}`")
        keepable = [vm for vm in stranded if _keepable(state, vm)]
        ways += [
            f"keep {vm} as it is: `seawall job skip {vm_stream(job, vm)} "
            f"{state.members[vm].failed_step}`"
            for vm in keepable[:SKIPS_MAX]
        ]
    ways.append(f"take all back: `seawall rollback {job}`")
    ways.append(
        f"keep the others: `seawall commit {job} --without-failed` deletes what was made of these"
    )
    return ways


def _may_go_on(state: Recovery, stranded: tuple[str, ...]) -> bool:
    """Whether a retry is worth naming; what else keeps it from going on is `steering`'s to say."""
    if all(securing.runs_still(state.source, vm) for vm in stranded):
        return False
    undone = state.finished is not None and state.finished.undone_by
    taken_back = state.source.restoring_at is not None
    return not (state.cancelling or state.without or taken_back or undone)


def _keepable(state: Recovery, vm: str) -> bool:
    """Whether the VM's instance runs and only what followed its power-on failed."""
    member = state.members.get(vm, MemberState())
    seen_off = securing.seen_off(state.source, vm)
    return member.outcome == "failed" and member.failed_step in _BUILT_BEFORE and seen_off


def check_removal(state: Recovery, job: str, *, commit: str) -> None:
    """Whether what was made of VMs that a commit leaves out may be removed: only while it runs.

    Raises Refused `not-committing`.
    """
    if not commit or state.window.committing != commit:
        raise Refused(
            f"{job} is not being committed by {commit or 'anybody'}", code="not-committing"
        )


def check_may_go_on(state: Recovery, job: str) -> None:
    """Raise Refused `left-out` where a commit began to remove what a retry would build upon."""
    if state.without:
        plan = told(state).plan
        raise Refused(
            f"a commit of {job} removed what was made of "
            f"{some_of(sorted(state.without), NAMED_MAX)}, or began to",
            code="left-out",
            remedy=f"`seawall commit {job} --without-failed`, then recover them again with "
            f"`seawall recover {plan} --vm VM`; or `seawall rollback {job}`",
        )


def note(state: Recovery, stranded: tuple[str, ...]) -> str:
    """Where VMs are that a commit left out, and how they run again; for people. "" of none.

    Nothing is switched on: whether a VM that did not come up is to run where it was is for a
    person to say, beside all that runs elsewhere by then.
    """
    if not stranded:
        return ""
    start = told(state)
    site, turns = start.header.protected.site, of(start.mode).turns
    names = some_of(stranded, NAMED_MAX)
    unseen = any(not securing.seen_off(state.source, vm) for vm in stranded)
    if turns:
        where = f"not failed back: replicated from {site} as before, from what is switched off"
    elif unseen:
        where = f"not brought up: the VM of {site} again, as it stands there"
    else:
        where = f"not brought up: the VM of {site} again, replicated, switched off"
    return (
        f"{names} {where}; run it by `seawall recover {start.plan} --mode {start.mode} --vm VM`, "
        f"or switch it on at {site}"
    )
