"""Which VMs a plan protects, given the names its protected site holds right now."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from schemas import plans


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's VMs and the names it writes out that the site does not hold.

    `vms` still contains the missing ones: whether that is an error is the caller's decision.
    """

    vms: tuple[plans.VmDefinition, ...]
    missing: tuple[str, ...]


def resolve(definition: plans.PlanDefinition, inventory: Iterable[str]) -> Resolution:
    """The VMs of a plan: written ones in their order, then selected ones in order of name.

    `inventory` is every VM name at the protected site. Matching is case-sensitive.
    """
    names = set(inventory)
    written = {vm.name for vm in definition.vms}
    missing = tuple(vm.name for vm in definition.vms if vm.name not in names)
    selected: list[str] = []
    if definition.select is not None:
        pattern = definition.select
        selected = sorted(name for name in names - written if fnmatchcase(name, pattern))
    added = tuple(plans.VmDefinition(name=name) for name in selected)
    return Resolution(vms=definition.vms + added, missing=missing)
