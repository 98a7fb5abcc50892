"""The platform in memory: one site seen by one process."""

from __future__ import annotations

from shared.platforms.lab.limits import LabLimits
from shared.platforms.memory.compute import MemoryCompute
from shared.platforms.memory.inventory import MemoryInventory
from shared.platforms.memory.power import MemoryPower
from shared.platforms.memory.prep import MemoryGuests, MemoryPrep
from shared.platforms.memory.site import Frame, MemorySite
from shared.platforms.memory.source import MemorySource
from shared.platforms.memory.target import MemoryTarget
from shared.platforms.ports import Capabilities


class MemoryPlatform:
    """A site seen by one process."""

    def __init__(self, site: MemorySite, *, frame: Frame | None = None) -> None:
        """`frame`: what calls go through, where they meet more than the site itself."""
        frame = frame or Frame(site)
        self.site = site
        self.capabilities = Capabilities(
            changed_blocks=True,
            create_powered_off=True,
            consistent_groups=True,
            guest_agent=True,
            instance_sources=True,
        )
        self.limits = LabLimits(lambda: site.settings)
        self.inventory = MemoryInventory(frame)
        self.source = MemorySource(frame)
        self.power = MemoryPower(frame)
        self.target = MemoryTarget(frame)
        self.compute = MemoryCompute(frame)
        self.prep = MemoryPrep(frame)
        self.guests = MemoryGuests(frame)

    async def close(self) -> None:
        """Nothing to close; the site goes on without its viewer."""
