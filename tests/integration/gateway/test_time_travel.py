"""`?at=` over HTTP, on services at work: what was shown at a moment is shown again."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from schemas.units import format_moment
from tests.integration.gateway.desk import ASK_S_MAX, Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGES = ("rpo_s", "achieved_s", "breached", "forecast_s")
"""What depends on the moment of asking; a forecast on budgets of now, which the past has not."""


def told(document: Any) -> Any:
    """A document without ages."""
    if isinstance(document, dict):
        return {name: told(value) for name, value in document.items() if name not in AGES}
    return [told(each) for each in document] if isinstance(document, list) else document


class Noted(list[tuple[dt.datetime, dict[str, Any]]]):
    """Moments, each with what was shown then by path."""

    async def note(self, desk: Desk, *paths: str) -> None:
        """Wait until nothing changes any more, and note it."""
        before: Any = None
        async with asyncio.timeout(ASK_S_MAX):
            while True:
                shown = {path: told((await desk.get(path)).body) for path in paths}
                at = dt.datetime.now(dt.UTC)
                if shown == before:
                    self.append((at, shown))
                    return
                before = shown
                await asyncio.sleep(0.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def noted(desk: Desk) -> Noted:
    """A plan through a run, a test recovery, its cleanup and a change, noted in between."""
    moments, shop = Noted(), "/v1/plans/shop"
    assert (await desk.plan("shop", "db", "web")).status == 200
    await moments.note(desk, shop)
    run = (await desk.command(f"{shop}/run")).body["id"]
    await desk.ended(run)
    await moments.note(desk, shop, f"/v1/jobs/{run}")
    recovery = (await desk.command(f"{shop}/recover", {"mode": "test"})).body["id"]
    await desk.ended(recovery)
    paths = [shop, f"/v1/jobs/{run}", f"/v1/jobs/{recovery}", f"/v1/jobs/vm-{recovery}:db"]
    await moments.note(desk, *paths)
    cleanup = (await desk.command(f"/v1/jobs/{recovery}/cleanup")).body["id"]
    await desk.ended(cleanup)
    await desk.command(f"{shop}/prioritise", {"priority": 1})
    await moments.note(desk, *paths, f"/v1/jobs/{cleanup}")
    return moments


async def test_each_moment_is_shown_as_it_was_shown_then(desk: Desk, noted: Noted) -> None:
    for at, shown in noted:
        for path, before in shown.items():
            answer = await desk.get(f"{path}?at={format_moment(at)}")
            assert answer.status == 200, answer
            assert told(answer.body) == before, (path, at)
            assert "ETag" not in answer.headers
    states = [shown["/v1/plans/shop"]["priority"] for _, shown in noted]
    assert states == [3, 3, 3, 1]


async def test_the_age_of_a_copy_is_its_age_then(desk: Desk, noted: Noted) -> None:
    at = noted[1][0]
    plan = (await desk.get(f"/v1/plans/shop?at={format_moment(at)}")).body
    (newest, *_) = sorted(vm["last_checkpoint_at"] for vm in plan["vms"])
    age = (at - dt.datetime.fromisoformat(newest)).total_seconds()
    assert plan["rpo"]["achieved_s"] == pytest.approx(age)


async def test_a_moment_that_cannot_be_is_refused_with_the_reason(
    desk: Desk, noted: Noted
) -> None:
    first = noted[0][0]
    job = next(iter(noted[1][1].keys() - {"/v1/plans/shop"}))
    for path in ("/v1/plans/shop", job):
        for wrong in ("yesterday", "2026-11-22", "2026-11-22T20:00:00", ""):
            answer = await desk.get(f"{path}?at={wrong}")
            assert (answer.status, answer.code) == (422, "invalid")
            assert "2026-11-22T20:00:00Z" in answer.body["remedy"]
        later = format_moment(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        answer = await desk.get(f"{path}?at={later}")
        assert (answer.status, answer.code) == (422, "invalid")
        assert "future" in answer.body["message"]
        answer = await desk.get(f"{path}?at={format_moment(first - dt.timedelta(days=1))}")
        assert (answer.status, answer.code) == (404, "not-found")
        assert "it begins at" in answer.body["message"]
    east = quote("+02:00")
    zoned = (first + dt.timedelta(hours=2)).replace(tzinfo=None).isoformat()
    assert (await desk.get(f"/v1/plans/shop?at={zoned}{east}")).status == 200
    assert (await desk.get(f"/v1/plans/none?at={format_moment(first)}")).status == 404
    assert (await desk.get("/v1/plans?at=2026-11-22T20:00:00Z")).status == 422
