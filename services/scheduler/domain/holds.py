"""Who may touch a VM at the same time: the modes jobs hold it in, and which exclude each other.

Pure rules over modes (architecture.md §3, Holds). Who holds what is in the protected VM's state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

from schemas.common import HoldMode

JobClass = Literal["iteration", "checkpoint", "test", "failover", "migrate", "reverse", "failback"]

MODES: Final[Mapping[JobClass, tuple[HoldMode, ...]]] = {
    "iteration": ("write-copy",),
    "checkpoint": ("read-copy",),
    "test": ("read-copy", "own-instance"),
    "failover": ("write-copy", "own-instance"),
    "migrate": ("write-copy", "own-instance"),
    "reverse": ("write-copy", "own-instance"),
    "failback": ("write-copy", "own-instance"),
}
"""What each kind of job holds. A checkpoint's read-copy excludes nothing: it is never recorded."""

FULL_RECOVERIES: Final[frozenset[JobClass]] = frozenset(
    {"failover", "migrate", "reverse", "failback"}
)


def exclude(held: Collection[HoldMode], wanted: Collection[HoldMode]) -> bool:
    """Whether two jobs cannot hold one VM together: both write its copy, or own its instance."""
    return ("write-copy" in held and "write-copy" in wanted) or (
        "own-instance" in held and "own-instance" in wanted
    )


def excluding_job(
    holders: Mapping[str, tuple[HoldMode, ...]],
    *,
    wanted: JobClass,
    ended_tests: Collection[str] = (),
) -> str:
    """The first job whose hold excludes a new job of class `wanted`; empty where none does.

    `ended_tests` are test recoveries that only await their cleanup: a full recovery does not
    wait for anybody to tidy up.
    """
    modes = MODES[wanted]
    for job, held in holders.items():
        if wanted in FULL_RECOVERIES and job in ended_tests:
            continue
        if exclude(held, modes):
            return job
    return ""


def without(held: tuple[HoldMode, ...], given_back: Collection[HoldMode]) -> tuple[HoldMode, ...]:
    """The modes that are left."""
    return tuple(mode for mode in held if mode not in given_back)
