"""The data path: copies one disk of an open snapshot into a staged generation, verified.

`copy_disk` is the way in; `SitePace` paces the calls to one site. Everything else is its parts:
plan, window, frontier (pure), lanes, calls, pieces, marker (moving).
"""

from services.replicator.transfer.disk import copy_disk
from services.replicator.transfer.errors import BadExtents, SizeDiffers, VerifyFailed
from services.replicator.transfer.pace import Pace, SitePace
from services.replicator.transfer.records import (
    Mark,
    Progress,
    TransferRequest,
    TransferResult,
    TransferSettings,
)

__all__ = [
    "BadExtents",
    "Mark",
    "Pace",
    "Progress",
    "SitePace",
    "SizeDiffers",
    "TransferRequest",
    "TransferResult",
    "TransferSettings",
    "VerifyFailed",
    "copy_disk",
]
