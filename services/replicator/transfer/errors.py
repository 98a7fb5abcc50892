"""Errors of the data path itself. What platforms raise passes through it unchanged.

Transient
└── VerifyFailed     the target returned other bytes than were written to it
Permanent
├── BadExtents       the platform's list of changed extents contradicts itself or the disk
└── SizeDiffers      snapshot and staged generation do not have the same size
"""

from __future__ import annotations

from shared.errors import Permanent, Transient


class VerifyFailed(Transient):
    """The target returned other bytes than were written to it."""

    code = "verify-failed"


class BadExtents(Permanent):
    """The platform's list of changed extents contradicts itself or the disk's size."""

    code = "bad-extents"


class SizeDiffers(Permanent):
    """Snapshot and staged generation do not have the same size."""

    code = "size-differs"
