"""The boot-order timeline as a person sees it on a terminal."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

from rich.console import Console

from services.cli.live.look import Look
from services.cli.live.screen import Screen
from tests.unit.cli.stub import job


def shown(found: dict[str, Any], children: list[dict[str, Any]]) -> list[str]:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, no_color=True)
    with console.capture() as capture:
        now = dt.datetime(2026, 1, 1, 10, 1, tzinfo=dt.UTC)
        console.print(Screen(Look(job=found, parts=children, now=now)))
    return [line.rstrip() for line in capture.get().splitlines()]


def vm(name: str, order: int, state: str, **fields: Any) -> dict[str, Any]:
    return job(state, vm=name, boot_order=order, id=f"vm-recovery:shop:r1:{name}", **fields)


def step(name: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "error": None, **fields}


def test_vms_stand_under_their_boot_order_with_what_they_do_now() -> None:
    instance = {
        "vm": "db", "instance_id": "i1", "addresses": ["127.1.1.1:80"],
        "powered_on_at": "2026-01-01T10:00:00Z", "ready_at": None,
    }  # fmt: skip
    lines = shown(
        job("running", steps=[step("preflight", "completed")]),
        [
            vm("web", 2, "queued"),
            vm("db", 1, "running", steps=[step("wait-ready", "running")], instances=[instance]),
            vm("cache", 1, "failed", error={"message": "no [disk]", "remedy": "add one"}),
        ],
    )
    text = "\n".join(lines)
    order = [text.index(word) for word in ("preflight", "boot order 1", "cache", "db")]
    assert order == sorted(order)
    assert text.index("boot order 1") < text.index("db  ") < text.index("boot order 2")
    assert text.index("boot order 2") < text.index("web")
    (db,) = [line for line in lines if " db " in line]
    assert "wait-ready" in db and "127.1.1.1:80" in db
    assert "no [disk]" in text


def test_names_are_never_read_as_markup() -> None:
    text = "\n".join(shown(job("running", steps=[step("[bold]x[/bold]", "running")]), []))
    assert "[bold]x[/bold]" in text
