"""What `job watch` and `job show` tell about paused jobs and open questions."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rich.console import Console

from services.cli.jobs_view import details
from services.cli.live.look import Look
from services.cli.live.screen import Screen
from services.cli.live.waits import question
from services.cli.watch import lines_of

WAITING = {
    "text": "point the name here",
    "owner": "dns team",
    "choices": ["done", "failed", "skip"],
    "default": "failed",
    "since": "2026-11-22T20:00:00Z",
    "until": "2026-11-22T20:10:00Z",
    "kind": "manual",
}


def step(**fields: Any) -> dict[str, Any]:
    return {"name": "manual-dns", "state": "waiting", "attempts": 1, "percent": 0, **fields}


def job(**fields: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "id": "recovery:shop:r1", "kind": "test-recovery", "plan": "shop", "vm": None,
        "state": "waiting", "percent": 10.0, "actor": "ann", "created_at": None, "ended_at": None,
        "steps": [step(waiting=WAITING)], "children": [], "instances": [],
    }  # fmt: skip
    return {**settings, **fields}


def look(found: dict[str, Any], *parts: dict[str, Any]) -> Look:
    return Look(job=found, parts=parts, now=dt.datetime(2026, 11, 22, 20, 5, tzinfo=dt.UTC))


def shown(seen: Look) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(Screen(seen))
    return capture.get()


def test_a_question_names_its_owner_its_choices_and_what_stands_without_an_answer() -> None:
    told = question(step(waiting=WAITING))
    assert told.startswith("dns team: point the name here")
    assert "done|failed|skip" in told and "else failed at" in told


def test_an_answer_names_who_gave_it() -> None:
    told = question(step(state="completed", answer={"choice": "done", "actor": "ann"}))
    assert told == "done by ann"
    assert question(step(state="completed")) == ""


def test_watching_shows_the_question_and_how_to_answer_it() -> None:
    command = "seawall job answer recovery:shop:r1 manual-dns done|failed|skip"
    told = shown(look(job()))
    assert "point the name here" in told and command in told
    lines = list(lines_of(look(job())))
    assert any("point the name here" in line for line in lines)
    assert any(command in line for line in lines)


def test_a_vm_that_waits_shows_its_question_and_a_paused_one_says_so() -> None:
    waits = job(vm="db", id="vm-recovery:shop:r1:db", boot_order=1)
    running = [{"name": "create-instance", "state": "running"}]
    halts = job(vm="app", state="paused", steps=running, boot_order=1)
    told = shown(look(job(steps=[]), waits, halts))
    assert "manual-dns: dns team: point the name here" in told
    assert "paused at create-instance" in told


def test_showing_a_job_tells_waits_apart_from_the_rto_and_what_a_cancel_left() -> None:
    console = Console(width=300)
    with console.capture() as capture:
        details(
            job(state="cancelled", rto_s=90.0, waited_s=30.0, left="Nothing was made."), console
        )
    told = capture.get()
    assert "waited for people" in told and "Nothing was made." in told


def test_showing_a_job_tells_what_must_be_known_of_a_step_and_of_its_scripts() -> None:
    step = {
        "name": "pre-script", "state": "completed", "attempts": 1, "error": None, "output": "",
        "warning": "not kept from the network",
    }  # fmt: skip
    warnings = [{"vm": "", "message": "2 scripts will run with a network"}]
    console = Console(width=300)
    with console.capture() as capture:
        details(job(steps=[step], facts={"warnings": warnings}), console)
    told = capture.get()
    assert "not kept from the network" in told and "2 scripts will run with a network" in told
