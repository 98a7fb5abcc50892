"""Every problem that Windows prepare can name: its stable code, what it means, how to mend it.

docs/windows.md explains them; a test holds the two together.
"""

from __future__ import annotations

from typing import Final

from shared.windows.structs import Problem

_CLEAN_COPY: Final = (
    "shut the source down cleanly and replicate once more (a migration does), "
    "or make the driver boot-start in the running source and replicate"
)

# code: (message, remedy). {subject} is a volume, a driver or a file.
PROBLEMS: Final[dict[str, tuple[str, str]]] = {
    "no-windows": (
        "no Windows was found on any NTFS volume of the disks",
        "see that the plan holds all disks of the VM, and that its os is windows",
    ),
    "several-windows": (
        "more than one Windows is installed: {subject}",
        "leave one Windows per VM, or prepare the drivers in the running source",
    ),
    "damaged-partition-table": (
        "the partition table of {subject} is damaged",
        "repair it in the source and replicate once more",
    ),
    "truncated-disk": (
        "{subject} ends behind the end of its disk",
        "reset the copy of the VM, so that the whole disk is copied again",
    ),
    "dynamic-disk": (
        "{subject} is a dynamic disk, which cannot be read",
        "convert it to a basic disk in the source, or prepare the drivers there",
    ),
    "bitlocker": (
        "{subject} is encrypted by BitLocker",
        "decrypt the volume in the source (manage-bde -off C:), "
        "or make the drivers boot-start there before they are needed",
    ),
    "damaged-file-system": (
        "the file system of {subject} is damaged",
        "run chkdsk in the source and replicate once more, or recover from an older checkpoint",
    ),
    "dirty-volume": (
        "{subject} is marked dirty",
        "run chkdsk in the source and replicate once more, or recover from an older checkpoint",
    ),
    "journal-not-clean": (
        "{subject} was in use when it was copied: its journal is not clean",
        _CLEAN_COPY,
    ),
    "hibernated": (
        "the Windows on {subject} is hibernated or was shut down by fast startup",
        "turn hibernation off in the source (powercfg /h off), shut it down and replicate",
    ),
    "registry-not-clean": (
        "the registry hive SYSTEM on {subject} was being written when it was copied",
        _CLEAN_COPY,
    ),
    "damaged-registry": (
        "the registry hive SYSTEM on {subject} is damaged",
        "repair it in the source and replicate once more, or recover from an older checkpoint",
    ),
    "registry-compressed": (
        "the registry hive SYSTEM on {subject} is compressed",
        r"run `compact /u C:\Windows\System32\config\SYSTEM` in the source and replicate",
    ),
    "registry-encrypted": (
        "the registry hive SYSTEM on {subject} is encrypted by NTFS",
        r"run `cipher /d C:\Windows\System32\config\SYSTEM` in the source and replicate",
    ),
    "registry-resident": (
        "the registry hive SYSTEM on {subject} lies inside the master file table",
        "see that this is a working Windows: a real hive is larger",
    ),
    "registry-sparse": (
        "the start type of {subject} lies where the registry hive has no place on the disk",
        "defragment or chkdsk the volume in the source and replicate",
    ),
    "start-type-elsewhere": (
        "the start type of {subject} is not kept as Windows keeps it, in its own registry cell",
        "set it once in the running source (sc config), so that Windows writes it anew",
    ),
    "driver-not-registered": (
        "the driver {subject} is not installed",
        "install it in the running source before you need it",
    ),
    "driver-file-missing": (
        "the file of the driver {subject} is missing",
        "install the driver in the running source before you need it",
    ),
    "no-boot-driver": (
        "none of the storage drivers that the target needs is installed: {subject}",
        "install one in the running source before you need it: the recovered VM will not boot",
    ),
    "no-network-driver": (
        "none of the network drivers that the target needs is installed: {subject}",
        "install one in the running source before you need it: the recovered VM has no network",
    ),
    "driver-not-boot-start": (
        "the driver {subject} is not started at boot yet; prepare will change that in the copy",
        "make it boot-start in the running source (sc config NAME start= boot), "
        "which also helps where a copy cannot be prepared",
    ),
}


def problem(code: str, subject: str = "") -> Problem:
    """The problem of that code, about a volume, a driver or a file."""
    message, remedy = PROBLEMS[code]
    return Problem(
        code=code, message=message.format(subject=subject), remedy=remedy, subject=subject
    )
