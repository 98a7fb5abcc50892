"""The shapes of job ids: which families of jobs there are, and what an id of each consists of.

A job is named as its stream (decision 0012). People send ids back, typed by hand or cut short:
what has not the shape of one names no job, and must never reach the stream of something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from schemas.ids import family_of, parts_of

REPLICATION_JOBS: Final[Mapping[str, tuple[str, ...]]] = {
    "replication-run": ("PLAN", "KEY"),
    "iteration": ("PLAN", "VM", "KEY"),
    "checkpoint": ("PLAN", "KEY"),
}
"""Families of the replicator's jobs → the parts of an id after the family, in words."""

RECOVERY_JOBS: Final[Mapping[str, tuple[str, ...]]] = {
    "recovery": ("PLAN", "KEY"),
    "vm-recovery": ("PLAN", "KEY", "VM"),
    "cleanup": ("PLAN", "KEY"),
    "commit": ("PLAN", "KEY"),
    "rollback": ("PLAN", "KEY"),
    "find-clean-point": ("PLAN", "KEY"),
    "recovery-group": ("PLAN", "KEY"),
    "group-cleanup": ("PLAN", "KEY"),
    "site-power-off": ("SITE", "KEY"),
    "reversal": ("PLAN", "KEY"),
}
"""The same of the recovery service's jobs."""

JOBS: Final[Mapping[str, tuple[str, ...]]] = {**RECOVERY_JOBS, **REPLICATION_JOBS}
"""The same of all jobs."""

JOB_CHARS_MAX: Final = 255
"""Two names of 63 letters, the longest family and key, and the name of a disk fit."""

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_job_id(text: str, families: Collection[str] = JOBS) -> bool:
    """Whether a text has the shape of a job's id of one of the families, as many parts included.

    A disk's job, `<id>.<disk>`, has the shape of its VM's.
    """
    family, *rest = parts_of(text)
    if family not in families or len(rest) != len(JOBS.get(family, ())):
        return False
    return len(text) <= JOB_CHARS_MAX and all(map(_PART.fullmatch, rest))


def expected_shape(text: str, families: Collection[str] = JOBS) -> str:
    """What an id has to look like, for who sent one that does not: by the family that the text
    begins with, else the first of `families`. As in `vm-recovery:PLAN:KEY:VM`."""
    family = family_of(text)
    if family not in families:
        family = next(iter(families))
    return ":".join((family, *JOBS[family]))
