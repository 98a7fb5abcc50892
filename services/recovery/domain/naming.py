"""Ids and names in what people ask of jobs: where each leads, and what is said of a wrong one.

A command must reach a stream of ours whatever it names, for only a decider can refuse it: one
that is routed to nothing is set aside, and every later command of its plan waits behind it.
"""

from __future__ import annotations

from typing import Final

from schemas.ids import StreamId, stream_id
from schemas.job_ids import RECOVERY_JOBS, expected_shape, is_job_id
from schemas.rules import is_name
from shared.errors import Refused

NO_NAME: Final = "-"
"""The name of no plan and no site: names begin with a letter or digit."""

NOWHERE: Final[StreamId] = stream_id("recovery", NO_NAME, NO_NAME)
"""A recovery that never begins: what is asked of it is refused with `unknown-job`."""


def stream_of_job(job: str) -> str:
    """The stream of the job that a person names; NOWHERE for what cannot be one of ours."""
    return job if is_job_id(job, RECOVERY_JOBS) else NOWHERE


def site_or_none(site: str) -> str:
    """The site that a person names; NO_NAME for what can be the name of none."""
    return site if is_name(site) else NO_NAME


def check_recovery(recovery: str) -> None:
    """Raise Refused `unknown-job` for what cannot be the id of a recovery."""
    _check(recovery, "recovery", "recovery")


def check_group(group: str) -> None:
    """Raise Refused `unknown-job` for what cannot be the id of a group of recoveries."""
    _check(group, "recovery-group", "group")


def _check(job: str, family: str, what: str) -> None:
    if not is_job_id(job, (family,)):
        shape = expected_shape(job, (family,))
        raise Refused(
            f"{job} is no {what}", code="unknown-job", remedy=f"name it {shape}; see `job list`"
        )


def check_site(site: str) -> None:
    """Raise Refused `unknown-site` for what can be the name of no site."""
    if not is_name(site):
        raise Refused(
            f"no site is named {site!r}",
            code="unknown-site",
            remedy="`seawall site list` shows the sites there are",
        )
