"""What `/openapi.json` says about bodies is what the handlers take."""

from __future__ import annotations

import orjson
import pytest

from services.gateway import openapi
from tests.integration.gateway.desk import Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = "recovery:p:1"


async def test_the_description_is_served(desk: Desk) -> None:
    answer = await desk.get("/openapi.json")
    assert answer.status == 200
    assert answer.body == orjson.loads(orjson.dumps(openapi.document()))


@pytest.mark.parametrize("path", sorted(openapi.BODIES))
async def test_an_unknown_field_is_refused_with_those_that_are_described(
    desk: Desk, path: str
) -> None:
    real = path.format(name="p", job=JOB, alert="alert:a:b:c", action="snooze")
    answer = await desk.command(real, {"zz": 1})
    assert (answer.status, answer.code) == (422, "invalid")
    assert "'zz'" in answer.body["message"]
    allowed = answer.body["remedy"].removeprefix("allowed fields: ").split(", ")
    assert set(allowed) == set(openapi.BODIES[path][0])


@pytest.mark.parametrize("path", sorted(p for p, (_, needed) in openapi.BODIES.items() if needed))
async def test_a_field_that_must_be_there_is_asked_for(desk: Desk, path: str) -> None:
    real = path.format(name="p", job=JOB)
    answer = await desk.command(real, {})
    assert (answer.status, answer.code) == (422, "invalid")
    told = f"{answer.body['message']} {answer.body['details']}"
    assert openapi.BODIES[path][1][0] in told


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/x/cancel",
        "/v1/jobs/x/cleanup",
        "/v1/jobs/x/pause",
        "/v1/jobs/x/commit",
        "/v1/jobs/x/rollback",
        "/v1/jobs/recovery:p:x/commit",
        "/v1/jobs/recovery:p:x/rollback",
        "/v1/sites/x/check",
        "/v1/sites/x/release",
        "/v1/checkpoints/x/preserve",
    ],
)
async def test_a_command_without_a_body_ignores_an_empty_one(desk: Desk, path: str) -> None:
    assert (await desk.command(path, {})).status == 404
