"""The lab as a platform: its name, what it can, the settings of a site, how to open one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from shared.errors import Refused
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.compute import LabCompute
from shared.platforms.lab.folder import SiteFolder
from shared.platforms.lab.inventory import LabInventory
from shared.platforms.lab.limits import LabLimits
from shared.platforms.lab.power import LabPower
from shared.platforms.lab.prep import LabGuests, LabPrep
from shared.platforms.lab.source import LabSource
from shared.platforms.lab.target import LabTarget
from shared.platforms.ports import Capabilities
from shared.platforms.structs import prepare_structs

prepare_structs()

NAME: Final = "lab"
SETTINGS: Final[Mapping[str, str]] = {"path": "the site's folder on this machine"}
CAPABILITIES: Final = Capabilities(
    changed_blocks=True,
    create_powered_off=True,
    consistent_groups=True,
    guest_agent=True,
    instance_sources=True,
)


class LabPlatform:
    """One lab site, open. Any number of them, in any number of processes, may share a folder."""

    def __init__(self, folder: SiteFolder) -> None:
        self.folder = folder
        self._frame = Frame(folder)
        self.capabilities = CAPABILITIES
        self.limits = LabLimits(self._frame.settings)
        self.source = LabSource(self._frame)
        self.power = LabPower(self._frame)
        self.target = LabTarget(self._frame)
        self.compute = LabCompute(self._frame)
        self.prep = LabPrep(self._frame)
        self.guests = LabGuests(self._frame)
        self.inventory = LabInventory(self._frame, self.compute.instance_count)

    async def close(self) -> None:
        """Finish calls in hand and close every file; nothing of the site changes by it."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._frame.stop()
        self.source.close()
        self.target.close()
        self._frame.close()


def open_platform(settings: Mapping[str, str]) -> LabPlatform:
    """The site of `path`. It is not looked at here: `inventory.check` says what is wrong."""
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown or not settings.get("path"):
        raise Refused(
            f"a lab site takes path=FOLDER; found {', '.join(unknown) or 'no path'}",
            code="bad-site-settings",
            remedy="seawall site add NAME --platform lab --set path=FOLDER",
        )
    return LabPlatform(SiteFolder(settings["path"]))
