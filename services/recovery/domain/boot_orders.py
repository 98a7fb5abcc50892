"""Boot orders of a recovery: who is told to begin, and when the next order may boot.

Saga, a part of `recovery`. All VMs of one number boot together, the next number when every VM of
this one is ready or has failed and is past its delay. Builds ahead where the plan lets it. Does
not decide what a VM does once it was told (`vm_recovery`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas import recovery as said
from services.recovery.domain.recovery_draft import RecoveryDraft
from services.recovery.domain.recovery_state import Recovery, gate, more_to_open, told
from services.recovery.domain.scripts import PRE_STEP
from shared.decider import Timer

PLAN_OUTPUTS_BYTES_MAX: Final = 4096
"""Larger outputs of the plan's pre-script are not handed to every VM: they would travel per VM."""

NAMED_MAX: Final = 500
"""VMs that one event names: it stays below 64 KiB."""

DELAY_TIMER: Final = "boot-delay"


def launch(draft: RecoveryDraft) -> None:
    """Tell the VMs to begin: all of them when building ahead, else the first boot order.

    Lower boot orders hear of it first: of 2,000 messages the last is read half a second later.
    A manual step before that order keeps it from booting, not from being built ahead.
    """
    state = draft.state
    start, first = told(state), state.orders[0]
    everyone = start.header.recovery.build_ahead
    waits = gate(state, first) is not None
    if waits and not everyone:
        draft.ask_gate(first)
        return
    # A VM whose source could not be fenced has ended before it began.
    vms = [
        m
        for m in start.members
        if (everyone or m.boot_order == first) and not _has_ended(state, m.vm)
    ]
    vms.sort(key=lambda member: member.boot_order)
    outputs = state.plan_outputs.get(PRE_STEP, {})
    if len(msgspec.json.encode(outputs)) > PLAN_OUTPUTS_BYTES_MAX:
        outputs = {}
    for member in vms:
        draft.tell_vm(
            member.vm,
            said.LaunchVm,
            boot=member.boot_order == first and not waits,
            requested_at=start.requested_at,
            plan_outputs=outputs,
        )
    draft.say(_launched([member.vm for member in vms]))
    if not waits:
        draft.say(said.BootOrderOpened(boot_order=first, at=draft.now))


def open_due(draft: RecoveryDraft) -> None:
    """Let every VM boot whose boot order's time has come: of a retry first, then of new ones."""
    _open_again(draft)
    _open_orders(draft)


def _gives_up(state: Recovery) -> bool:
    return state.stopping or state.cancelling


def _has_ended(state: Recovery, vm: str) -> bool:
    member = state.members.get(vm)
    return member is not None and member.ended


def _launched(vms: list[str]) -> said.VmsLaunched:
    named = tuple(vms) if len(vms) <= NAMED_MAX else ()
    return said.VmsLaunched(count=len(vms), vms=named)


def _open_again(draft: RecoveryDraft) -> None:
    """Let VMs boot that a retry holds back, once all lower orders are settled and past delays."""
    if _gives_up(draft.state):
        return
    opened = draft.state.orders[: draft.state.opened]
    waiting = [number for number in opened if draft.state.by_order[number].held]
    for number in opened[: opened.index(waiting[-1]) + 1] if waiting else ():
        if held := draft.state.by_order[number].held:
            draft.say(said.BootOrderOpened(boot_order=number, at=draft.now))
            for vm in held:
                draft.tell_vm(vm, said.BootVm)
        if _waits(draft, number):
            return


def _waits(draft: RecoveryDraft, number: int) -> bool:
    """Whether an open boot order keeps the next one closed; a delay has its timer set."""
    order = draft.state.by_order[number]
    if order.unsettled:
        return True
    if order.not_before is None or draft.now >= order.not_before:
        return False
    message = said.BootDelayOver(boot_order=number)
    draft.timers.append(Timer(name=DELAY_TIMER, due=order.not_before, message=message))
    return True


def _open_orders(draft: RecoveryDraft) -> None:
    """Open every boot order whose predecessor is settled and past its delays.

    A manual step before it is asked for then.
    """
    while more_to_open(draft.state):
        state = draft.state
        if _gives_up(state):
            return
        if state.opened and _waits(draft, state.orders[state.opened - 1]):
            return
        if draft.ask_gate(state.orders[state.opened]):
            return
        _open_next(draft)


def _open_next(draft: RecoveryDraft) -> None:
    state = draft.state
    order = state.orders[state.opened]
    start = told(state)
    # One that ended already was given up, or failed while it was built ahead.
    vms = [
        member.vm
        for member in start.members
        if member.boot_order == order and not _has_ended(state, member.vm)
    ]
    if not start.header.recovery.build_ahead:
        draft.say(_launched(vms))
    draft.say(said.BootOrderOpened(boot_order=order, at=draft.now))
    for vm in vms:
        if start.header.recovery.build_ahead:
            draft.tell_vm(vm, said.BootVm)
        else:
            draft.tell_vm(vm, said.LaunchVm, boot=True, requested_at=start.requested_at)
