"""Where the source of a call lies: a VM of the site under `vms/`, or an instance that we made.

Owns how the two are told apart and that an instance is only touched for its own plan. What is
read from a source, or switched, is `source`'s and `power`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import Permanent, Refused
from shared.platforms.lab import machines
from shared.platforms.lab.folder import SiteFolder, component
from shared.platforms.lab.machines import InstanceRecord
from shared.platforms.lab.records import read_flat
from shared.platforms.lab.settings import VmSpec, read_vm
from shared.platforms.ports import Call


def folder_of(site: SiteFolder, *, vm: str, instance: str = "") -> Path:
    """Where the source's disks lie; nothing is read."""
    if instance:
        return site.root / "instances" / component(instance)
    return site.root / "vms" / component(vm)


def require(site: SiteFolder, call: Call | None, *, vm: str, instance: str = "") -> Path:
    """The folder of a source that is there.

    Permanent `no-such-vm` or `no-such-instance`; Refused `not-ours` for an instance of another
    plan than the call's.
    """
    path = folder_of(site, vm=vm, instance=instance)
    if instance:
        owned_instance(site, call, path)
        return path
    if not (path / "vm.yaml").exists():
        site.require()
        raise Permanent(
            f"there is no VM {vm} at {site.root}",
            code="no-such-vm",
            remedy="bring its folder back, or take the VM out of the plan",
        )
    return path


def spec_of(site: SiteFolder, path: Path) -> VmSpec:
    """What a source is: its `vm.yaml`, or the VM that an instance was made as."""
    record = read_flat(path / "instance.yaml", InstanceRecord)
    if record is None:
        return read_vm(path)
    return machines.instance_spec(path, record)


def owned_instance(site: SiteFolder, call: Call | None, path: Path) -> InstanceRecord:
    """The instance in a folder, if it is ours and of the call's plan."""
    record = read_flat(path / "instance.yaml", InstanceRecord)
    if record is None:
        site.require()
        if path.is_dir():
            raise not_ours(path.name, "nobody known")
        raise Permanent(
            f"there is no instance {path.name}",
            code="no-such-instance",
            remedy="run the recovery again; somebody deleted its instance",
        )
    if call is not None and call.plan and record.plan != call.plan:
        raise not_ours(path.name, record.plan)
    return record


def not_ours(object_id: str, owner: str) -> Refused:
    """The refusal to touch what was made for somebody else, or by nobody we know."""
    return Refused(
        f"{object_id} was not made for this plan (it belongs to {owner or 'nobody known'})",
        code="not-ours",
    )


def all_folders(site: SiteFolder) -> list[Path]:
    """Every folder that may have tracked disks: VMs first, then instances."""
    found: list[Path] = []
    for kind in ("vms", "instances"):
        root = site.root / kind
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            continue
        # A name with a dot before it is being built, or being deleted.
        found += [root / name for name in names if not name.startswith(".")]
    return found
