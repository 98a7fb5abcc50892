"""The lab's call names, and the quota each call spends.

One list: `latency`, `faults`, `quotas` of `site.yaml`, `calls.jsonl` and docs/lab.md use it.
Quota names follow the cloud whose limits they imitate.
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "check": ("DescribeInstances",),
    "list_vms": ("DescribeInstances",),
    "open_snapshot": ("CreateSnapshots",),
    "extents": ("ListChangedBlocks",),
    "read_chunk": ("GetBlock",),
    "close_snapshot": ("DeleteSnapshot",),
    "list_snapshots": ("DescribeSnapshots",),
    "source_state": ("DescribeInstances",),
    "shut_down_source": ("StopInstances",),
    "power_off_source": ("StopInstances",),
    "power_on_source": ("StartInstances",),
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
    "list_current": ("DescribeSnapshots",),
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
    "list_written": (),
    "list_prep_nodes": ("DescribeInstances",),
    "power_on_node": ("StartInstances",),
    "power_off_node": ("StopInstances",),
    "prepare_windows": (),
    "windows_readiness": (),
    "validate_windows": (),
    "list_owned": ("DescribeTags",),
    "find": ("DescribeTags",),
}
"""Every platform call and the quotas it spends, where `site.yaml` sets them."""

QUOTAS: Final[tuple[str, ...]] = tuple(
    sorted({quota for quotas in CALLS.values() for quota in quotas})
)

# Counts staged generations that exist, not calls in flight: a cloud counts pending snapshots.
SEATS: Final = "snapshot-writes"
