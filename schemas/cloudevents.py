"""Which plan and job a row is about, and its names as a CloudEvent: the same on every way out."""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.ids import family_of, key_of

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/json"

JOB_FAMILIES = frozenset(
    {
        "replication-run",
        "iteration",
        "checkpoint",
        "recovery",
        "vm-recovery",
        "cleanup",
        "find-clean-point",
        "recovery-group",
        "group-cleanup",
        "commit",
        "rollback",
        "site-power-off",
    }
)
"""Streams that are jobs: their ids are the jobs' ids."""

SITE_JOB_FAMILIES = frozenset({"site-power-off"})
"""Jobs of a site, of no plan: their key is the site's name."""

PLAN_FAMILIES = (JOB_FAMILIES - SITE_JOB_FAMILIES) | {
    "plan", "protected-vm", "script", "alert", "delivery", "digest", "recovery-news", "vm-source"
}  # fmt: skip
"""Streams whose key is a plan's name; other keys are sites."""


class About(NamedTuple):
    """What an event is about; empty where it is about none."""

    plan: str
    job: str


def about(stream: str) -> About:
    """The plan and the job of a stream's events."""
    family = family_of(stream)
    return About(
        plan=key_of(stream) if family in PLAN_FAMILIES else "",
        job=stream if family in JOB_FAMILIES else "",
    )


def source_of(service: str) -> str:
    """The CloudEvents source of a service's rows."""
    return f"/seawall/{service}"


def type_of(stored: str) -> str:
    """The CloudEvents type of a stored type."""
    return f"seawall.{stored}"
