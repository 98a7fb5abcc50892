"""Jobs that run at this moment: bytes, rate and how long it still takes."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.joins import RATE_S_MAX, job_now
from schemas.views import Job, Progress, Step

NOW = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
VM = "iteration:shop:db:t1"


def job(name: str = VM, state: str = "running") -> Job:
    steps = (Step(name="snapshot", state="completed"), Step(name="transfer", state="running"))
    return Job(id=name, kind="iteration", plan="shop", state=state, created_at=NOW, steps=steps)  # type: ignore[arg-type]


def told(name: str, done: int, *, rate: float, ago_s: float = 0.0) -> dict[str, Progress]:
    at = NOW - dt.timedelta(seconds=ago_s)
    moment = Progress(
        job=name, bytes_done=done, bytes_total=1000, percent=done / 10, rate=rate, at=at
    )
    return {name: moment}


def test_a_running_job_tells_its_rate_and_what_is_left_at_it() -> None:
    moving = job_now(job(), progress=told(VM, 400, rate=50.0), now=NOW)
    assert (moving.bytes_done, moving.rate, moving.eta_s) == (400, 50.0, 12.0)
    assert moving.steps[1].percent == 40.0


def test_bytes_that_move_show_which_steps_are_under_way() -> None:
    # A routine iteration says nothing between its start and its end.
    names = ("pre-script", "snapshot", "find-changes", "transfer", "verify", "finalize")
    states = ("completed", "running", *["pending"] * 4)
    listed = tuple(Step(name=n, state=s) for n, s in zip(names, states, strict=True))  # type: ignore[arg-type]
    silent = msgspec.structs.replace(job(), steps=listed)
    moving = job_now(silent, progress=told(VM, 400, rate=50.0), now=NOW)
    assert [step.state for step in moving.steps] == [
        *("completed", "completed", "running", "running", "running", "pending")
    ]
    assert moving.steps[3].percent == 40.0
    assert job_now(silent, now=NOW).steps == listed


def test_what_has_not_moved_for_a_while_has_neither() -> None:
    stale = told(VM, 400, rate=50.0, ago_s=RATE_S_MAX + 1)
    moving = job_now(job(), progress=stale, now=NOW)
    assert (moving.bytes_done, moving.rate, moving.eta_s) == (400, 0.0, None)


def test_a_parents_rate_is_that_of_its_parts() -> None:
    parts = [job(f"{VM}.sda"), job(f"{VM}.sdb"), job(f"{VM}.sdc", "completed")]
    progress = told(parts[0].id, 400, rate=50.0) | told(parts[1].id, 200, rate=20.0)
    moving = job_now(job(), children=parts, progress=progress, now=NOW)
    assert (moving.rate, moving.eta_s) == (70.0, 20.0)


def test_nothing_known_foretells_nothing() -> None:
    assert job_now(job(), now=NOW).eta_s is None
    ended = job_now(job(state="completed"), progress=told(VM, 1000, rate=50.0), now=NOW)
    assert (ended.rate, ended.eta_s) == (None, None)
