"""Which scripts a recovery leaves out, as `HOOK` (the plan's) or `HOOK:VM`.

Refuses what names no script of this recovery: a typing error would otherwise let the script run
that was to be left out. Which of the others run is the recovery service's (`scripts.chosen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.plans import RECOVERY_HOOKS, ScriptDefinition
from schemas.scheduler import PlanHeader
from schemas.units import some_of
from services.scheduler.domain.protected_vm import ProtectedVm
from shared.errors import Refused

NAMED_MAX = 20
"""Names that a refusal lists; more are counted."""


def check_skipped(
    skipped: Iterable[str], plan: PlanHeader, members: Mapping[str, ProtectedVm]
) -> None:
    """Raise Refused where an entry names no script of the plan or of the VMs to recover.

    Codes: `invalid` for a hook there is not, `unknown-vm`, `no-script`.
    """
    allowed = _configured(plan, members)
    for entry in skipped:
        if entry in allowed:
            continue
        hook, colon, vm = entry.partition(":")
        if hook not in RECOVERY_HOOKS:
            message, code = f"{entry!r} names no hook", "invalid"
        elif colon and vm not in members:
            message, code = f"{entry!r}: no VM {vm!r} is recovered here", "unknown-vm"
        else:
            whose = f"VM {vm!r}" if colon else f"plan {plan.name!r}"
            message, code = f"{whose} has no {hook} script to skip", "no-script"
        raise Refused(message, code=code, remedy=_remedy(allowed))


def _configured(plan: PlanHeader, members: Mapping[str, ProtectedVm]) -> tuple[str, ...]:
    """Every script that may be left out, the plan's first, then by VM in the plan's order."""
    policy = plan.recovery
    found = list(_hooks(policy.pre_script, policy.post_script))
    for vm, state in members.items():
        if state.setup is not None:
            definition = state.setup.definition
            hooks = _hooks(definition.pre_script, definition.post_script)
            found += [f"{hook}:{vm}" for hook in hooks]
    return tuple(found)


def _hooks(*scripts: ScriptDefinition | None) -> tuple[str, ...]:
    """The hooks at which one level has a script; `scripts` are in the order of the hooks."""
    named = zip(RECOVERY_HOOKS, scripts, strict=True)
    return tuple(hook for hook, script in named if script is not None)


def _remedy(allowed: tuple[str, ...]) -> str:
    hooks = " or ".join(RECOVERY_HOOKS)
    if not allowed:
        return f"a script is named {hooks}, for a VM's with :VM; this recovery has none to skip"
    shown = some_of(allowed, NAMED_MAX)
    return f"a script is named {hooks}, for a VM's with :VM; this recovery has {shown}"
