"""Errors of Windows prepare.

WindowsError
├── NotPreparable   (Refused)   a rule forbids the write; `code` is one of problems.py
├── DiskFailed      (Transient) a disk could not be read or written just now
├── ReaderMissing   (Permanent) the packages that read NTFS and registry hives are not installed
├── ReaderFailed    (Permanent) the reader of the disks crashed, or went over its limits
├── Damaged         (Permanent) what lies on the disk contradicts itself
└── NotVerified     (Permanent) the disk reads differently from what was written

What is merely found on a disk is never an error: it is a `Problem` in the findings.
"""

from __future__ import annotations

from shared.errors import Permanent, Refused, SeawallError, Transient


class WindowsError(SeawallError):
    """Root of the errors of Windows prepare."""


class NotPreparable(WindowsError, Refused):
    """The disks may not be changed; nothing was written."""

    code = "not-preparable"


class DiskFailed(WindowsError, Transient):
    """A disk refused a read or a write."""

    code = "disk-failed"


class ReaderMissing(WindowsError, Permanent):
    """The optional packages that read NTFS and registry hives are absent on this machine."""

    code = "windows-reader-missing"


class ReaderFailed(WindowsError, Permanent):
    """The process that reads the disks ended without an answer; nothing was written."""

    code = "windows-reader-failed"


class Damaged(WindowsError, Permanent):
    """Structures on a disk contradict each other; raised while reading, told as a `Problem`."""

    code = "damaged"


class NotVerified(WindowsError, Permanent):
    """After the write, the disks do not read as intended."""

    code = "windows-not-verified"
