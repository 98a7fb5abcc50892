"""What a VM's recovery tells the prep pool of its site: that it needs a seat, now, or no more.

Derived from what it was before and after a decision, so that whatever ends a VM's need for a node
gives the seat back: prepared, failed, cancelled, skipped. Owns no state.
"""

from __future__ import annotations

from typing import Literal

from schemas.prep import LeaveSeat, TakeSeat
from services.recovery.domain.vm_state import (
    VmRecovery,
    definition,
    halted,
    is_step,
    vm_stream,
)
from services.recovery.domain.windows_steps import PREPARE, to_prepare
from shared.decider import Send


def need_of(state: VmRecovery) -> Literal["", "soon", "now"]:
    """Whether it needs a seat: *soon* from the moment that its copy is known to be of a Windows,
    so that the node comes up while disks are rebuilt; *now* once they are."""
    if any(is_step(part, PREPARE) for part in state.running):
        return "now"
    if state.enrolled is None or state.finished or halted(state) or state.copy is None:
        return ""
    if not to_prepare(state.enrolled, state.copy, state.windows):
        return ""
    rebuilt = all(disk.name in state.disks for disk in state.copy.disks)
    return "now" if rebuilt else "soon"


def seats(before: VmRecovery, after: VmRecovery) -> tuple[Send, ...]:
    """The messages that make the pool know what changed."""
    earlier, need = need_of(before), need_of(after)
    if need == earlier:
        return ()
    told = definition(after)
    site = told.header.recovery_site
    stream = vm_stream(told.job, told.definition.name)
    message = (
        TakeSeat(
            site=site,
            stream=stream,
            ready=need == "now",
            priority=told.definition.priority or told.header.replication.priority,
            boot_order=told.definition.boot_order,
        )
        if need
        else LeaveSeat(site=site.site, stream=stream)
    )
    return (Send(to="recovery", key=site.site, message=message),)
