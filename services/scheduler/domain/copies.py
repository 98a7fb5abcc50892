"""What a recovery reads from: is there a copy of every VM, or a PIT checkpoint that holds them.

Pure rules over the states, asked when a recovery is requested and again when it starts later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from schemas import scheduler as said
from schemas.sync_state import SyncFacts
from schemas.units import some_of
from services.scheduler.domain.patience import NotYet
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm, copy_is_coming
from shared.errors import Refused

LATEST: Final = "latest"
NAMED_MAX: Final = 10
"""VMs without a copy that a refusal names."""


def check_copies(plan: Plan, m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    """Raise Refused `no-copy` or as `check_checkpoint`; NotYet where the copy is being made."""
    if m.mode == "reverse":
        # It makes copies; it needs none.
        return
    if m.checkpoint != LATEST:
        check_checkpoint(plan, m.plan, checkpoint=m.checkpoint, vms=members)
        return
    without_copy = [vm for vm, state in members.items() if not usable(state.sync)]
    if without_copy:
        coming = all(copy_is_coming(members[vm]) for vm in without_copy)
        raise _no_copy(without_copy, NotYet if coming else Refused)


def check_checkpoint(plan: Plan, name: str, *, checkpoint: str, vms: Collection[str]) -> None:
    """Raise Refused `unknown-checkpoint` where a PIT checkpoint is not available (NotYet while it
    is being made), `no-copy` where it does not hold all `vms`."""
    entry = plan.checkpoints.get(checkpoint)
    if entry is None or entry.state != "available":
        found = "is not available" if entry is not None else "does not exist"
        refusal = NotYet if entry is not None and entry.state == "creating" else Refused
        raise refusal(
            f"checkpoint {checkpoint!r} of plan {name!r} {found}",
            code="unknown-checkpoint",
            remedy=f"`seawall checkpoint list {name}` shows those that are available",
        )
    without_copy = sorted(set(vms) - set(entry.vms))
    if without_copy:
        raise _no_copy(without_copy, Refused)


def usable(sync: SyncFacts) -> bool:
    """Whether there is a copy to recover from. One to be made anew is still the last good one."""
    return sync.has_copy


def _no_copy(vms: list[str], refusal: type[Refused]) -> Refused:
    return refusal(
        f"no finished copy of VM {some_of(vms, NAMED_MAX)}",
        code="no-copy",
        remedy="let replication finish first, or choose other VMs with --vm",
    )
