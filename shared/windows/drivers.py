"""Which drivers a Windows needs on each target, and how they must start. Data, no more.

Sources: the INF files of the drivers name service and binary. `stornvme`, `lsi_sas` and `storahci`
come with Windows; the others are installed by the guest tools of their platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

BOOT: Final = 0
ON_DEMAND: Final = 3
DISABLED: Final = 4


class DriverGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Services that do one job on a target; any one of them is enough, all that are installed
    are enabled."""

    any_of: tuple[str, ...]


class DriverTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine must be able to drive: storage at boot, network when it is found."""

    name: str
    storage: tuple[DriverGroup, ...] = ()
    network: tuple[DriverGroup, ...] = ()

    def services(self) -> tuple[str, ...]:
        """Every driver that is named, once."""
        groups = (*self.storage, *self.network)
        return tuple(dict.fromkeys(name for group in groups for name in group.any_of))


def driver_target(name: str, storage: Sequence[str], network: Sequence[str]) -> DriverTarget:
    """A target from lists of services, a site's settings for instance: one group per item, the
    alternatives in it joined by `|`."""
    return DriverTarget(
        name=name,
        storage=tuple(DriverGroup(any_of=tuple(item.split("|"))) for item in storage),
        network=tuple(DriverGroup(any_of=tuple(item.split("|"))) for item in network),
    )


TARGETS: Final[dict[str, DriverTarget]] = {
    target.name: target
    for target in (
        # Nitro: volumes are NVMe devices; Windows' own driver serves as well as Amazon's.
        driver_target("aws", ["AWSNVMe|stornvme"], ["ena"]),
        # Instance families before Nitro: the bus driver must be there before the disk's.
        driver_target("aws-xen", ["xenbus", "xenvbd"], ["xennet"]),
        driver_target("kvm", ["viostor"], ["netkvm"]),
        driver_target("kvm-scsi", ["vioscsi"], ["netkvm"]),
        driver_target("vsphere", ["pvscsi"], ["vmxnet3ndis6|vmxnet3"]),
        driver_target("vsphere-lsi", ["LSI_SAS"], ["vmxnet3ndis6|vmxnet3"]),
        # A lab has no hardware. Its VMs are prepared as if for KVM unless the site says otherwise.
        driver_target("lab", ["viostor"], ["netkvm"]),
    )
}


def known_services(*targets: DriverTarget) -> tuple[str, ...]:
    """The drivers of these targets, or of all known ones; what `inspect` should look for."""
    named = [name for each in (targets or TARGETS.values()) for name in each.services()]
    return tuple(dict.fromkeys(named))
