"""Windows *prepare*: makes a copied Windows boot on other hardware, by four-byte writes in place.

`inspect` reads the disks, `plan` decides, `apply` writes and verifies; `readiness` says what to
mend in the source before it is needed. All block: call them on a platform's own threads.
docs/windows.md says what is refused and why.
"""

from shared.windows.applying import apply
from shared.windows.disks import Disk, FileDisk, ReadableDisk
from shared.windows.drivers import (
    TARGETS,
    DriverGroup,
    DriverTarget,
    driver_target,
    known_services,
)
from shared.windows.inspecting import ReaderLimits, inspect, reader_missing
from shared.windows.preparing import plan, readiness

__all__ = [
    "TARGETS",
    "Disk",
    "DriverGroup",
    "DriverTarget",
    "FileDisk",
    "ReadableDisk",
    "ReaderLimits",
    "apply",
    "driver_target",
    "inspect",
    "known_services",
    "plan",
    "reader_missing",
    "readiness",
]
