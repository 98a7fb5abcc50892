"""The lab's call names, the quota each call spends, and the budgets of a site.

One list: `latency`, `faults`, `quotas` of `site.yaml`, `calls.jsonl` and docs/lab.md use it.
Owns no enforcement (`quotas`). Quota names follow the cloud whose limits they imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shared.platforms.ports import BudgetFacts

if TYPE_CHECKING:
    from shared.platforms.lab.settings import SiteSettings

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "check": ("DescribeInstances",),
    "list_vms": ("DescribeInstances",),
    "open_snapshot": ("CreateSnapshots",),
    "extents": ("ListChangedBlocks",),
    "read_chunk": ("GetBlock",),
    "close_snapshot": ("DeleteSnapshot",),
    "list_snapshots": ("DescribeSnapshots",),
    "open_generation": ("StartSnapshot", "snapshot-writes"),
    "write_chunk": ("PutBlock",),
    "zero_range": (),
    "digest_chunk": (),
    "read_back": ("GetBlock",),
    "flush": (),
    "adopt": (),
    "finalize": ("CompleteSnapshot",),
    "discard": ("DeleteSnapshot",),
    "hold": (),
    "release": (),
    "current": ("DescribeSnapshots",),
    "create_checkpoint": ("CopySnapshot",),
    "delete_checkpoint": ("DeleteSnapshot",),
    "list_checkpoints": ("DescribeSnapshots",),
    "list_generations": ("DescribeSnapshots",),
    "rebuild_disk": ("CreateVolume",),
    "create_instance": ("RunInstances",),
    "power_on": ("StartInstances",),
    "power_off": ("StopInstances",),
    "delete_instance": ("TerminateInstances",),
    "delete_disk": ("DeleteVolume",),
    "list_instances": ("DescribeInstances",),
    "list_owned": ("DescribeTags",),
    "find": ("DescribeTags",),
}
"""Every platform call and the quotas it spends, where `site.yaml` sets them."""

QUOTAS: Final[tuple[str, ...]] = tuple(
    sorted({quota for quotas in CALLS.values() for quota in quotas})
)

# Counts staged generations that exist, not calls in flight: a cloud counts pending snapshots.
SEATS: Final = "snapshot-writes"


class LabLimits:
    """The budgets that `site.yaml` sets at this moment; a quota it leaves out is no budget."""

    def __init__(self, settings: Callable[[], SiteSettings]) -> None:
        self._settings = settings

    def budgets(self) -> tuple[BudgetFacts, ...]:
        """One per quota of the site."""
        return tuple(
            BudgetFacts(
                name=name,
                concurrent=quota.concurrent,
                burst=quota.burst,
                per_second=quota.per_second,
            )
            for name, quota in sorted(self._settings().quotas.items())
        )

    def needs(self, call_name: str) -> tuple[str, ...]:
        """The budgets a call spends; KeyError for a name that is no call."""
        quotas = self._settings().quotas
        return tuple(name for name in CALLS[call_name] if name in quotas)
