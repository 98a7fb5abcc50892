"""A platform held in memory, for simulations and tests: same ports, same rules, no files.

    site = MemorySite("east")
    vm = site.add_vm(MemoryVm("db", {"sda": bytes(8192)}))
    platform = MemoryPlatform(site)

Any number of platforms may look at one site, as processes would. Disks are a few KiB of bytes.
It passes the contract suite of the platforms (tests/contract/platforms).
"""

from shared.platforms.memory.manifest import MemoryPlatform
from shared.platforms.memory.site import MemorySite, MemoryVm

__all__ = ["MemoryPlatform", "MemorySite", "MemoryVm"]
