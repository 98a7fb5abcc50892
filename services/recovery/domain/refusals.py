"""Refusals that all jobs of the service share, in the same words whichever job it is."""

from __future__ import annotations

from schemas.job_ids import JOBS, RECOVERY_JOBS, expected_shape, is_job_id
from shared.errors import Refused


def no_job(job: str) -> Refused:
    """For a job that is none of ours. Where its id is malformed, says what one looks like."""
    shape = "" if is_job_id(job, JOBS) else f"its id is {expected_shape(job, RECOVERY_JOBS)}; "
    return Refused(f"there is no job {job}", code="unknown-job", remedy=f"{shape}see `job list`")


def check_goes_on(job: str, *, begun: bool, over: bool) -> None:
    """Raise Refused `unknown-job` or `job-ended` for a job that is not under way."""
    if not begun:
        raise no_job(job)
    if over:
        raise Refused(
            f"job {job} has ended already",
            code="job-ended",
            remedy=f"`seawall job show {job}` says how, and what may be done next",
        )


def check_made_something(
    job: str, what: str, *, begun: bool, over: bool, cleaned: bool, made: bool
) -> None:
    """Whether there is something for a cleanup. Raises Refused `unknown-job`, `still-running`,
    `already-cleaned`, `nothing-to-clean`; `what` the job is, for one that is none of ours."""
    if not begun:
        raise Refused(f"there is no {what} {job}", code="unknown-job", remedy="see `job list`")
    if not over:
        raise Refused(
            f"{job} is still running", code="still-running", remedy="cancel it or wait for its end"
        )
    if cleaned:
        raise Refused(f"{job} is cleaned up already", code="already-cleaned")
    if not made:
        raise Refused(
            f"{job} made nothing that cleanup removes",
            code="nothing-to-clean",
            remedy="`seawall doctor --leftovers` lists what sites hold",
        )


def check_not_being_cleaned(job: str, cleanup: str) -> None:
    """Raise Refused `being-cleaned` where a cleanup is under way."""
    if cleanup:
        raise Refused(f"{job} is being cleaned up by {cleanup}", code="being-cleaned")
