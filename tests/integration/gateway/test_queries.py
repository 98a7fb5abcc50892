"""Reads over HTTP: filters, pages, tokens, the event stream and its resumption."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.integration.gateway.desk import Desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTINGS = ("sites", "nodes", "plans", "vms", "checkpoints", "jobs", "alerts", "events", "queue")


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def shop(desk: Desk) -> dict[str, Any]:
    """A plan of two VMs that has replicated twice."""
    assert (await desk.plan("shop", "db", "web")).status == 200
    runs = []
    for _ in range(2):
        run = (await desk.command("/v1/plans/shop/run")).body["id"]
        runs.append(await desk.ended(run))
    return runs[-1]


async def pages(desk: Desk, path: str, limit: int) -> list[list[Any]]:
    """Every page of a listing."""
    found: list[list[Any]] = []
    cursor = ""
    sign = "&" if "?" in path else "?"
    while True:
        answer = await desk.get(f"{path}{sign}limit={limit}{cursor}")
        assert answer.status == 200, answer
        found.append(answer.body["items"])
        if answer.body["next"] is None:
            return found
        assert len(answer.body["items"]) == limit
        cursor = f"&cursor={answer.body['next']}"


@pytest.mark.parametrize("view", LISTINGS)
async def test_every_listing_has_items_next_and_freshness(desk: Desk, view: str) -> None:
    answer = await desk.get(f"/v1/{view}")
    assert answer.status == 200
    assert {"items", "next", "as_of"} <= set(answer.body)
    assert answer.body["as_of"]["position"] > 0
    assert answer.body["as_of"]["lag_s"] < 30


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs", "/v1/vms", "/v1/sites", "/v1/nodes"])
async def test_pages_give_everything_once_and_in_one_order(desk: Desk, path: str) -> None:
    (whole,) = await pages(desk, path, 1000)
    cut = [item for page in await pages(desk, path, 1) for item in page]
    assert [item.get("id", item.get("name")) for item in cut][: len(whole)] == [
        item.get("id", item.get("name")) for item in whole
    ]
    assert len(whole) > 1


async def test_every_site_has_the_replicator_as_its_node(desk: Desk) -> None:
    (nodes,) = await pages(desk, "/v1/nodes", 1000)
    by_site = {node["site"]: node for node in nodes}
    assert by_site["shop-west"] == {
        "name": "shop-west-replication",
        "site": "shop-west",
        "kind": "replication",
        "state": "online",
        "capacity": 40,
        "in_use": 0,
        "drained": False,
        "error": None,
    }
    assert (await desk.get("/v1/nodes?drained=true")).status == 422


async def test_the_queue_tells_what_its_estimates_assume_and_takes_a_cursor(desk: Desk) -> None:
    answer = await desk.get("/v1/queue?cursor=5")
    assert (answer.status, answer.body["items"], answer.body["next"]) == (200, [], None)
    assert answer.body["estimates_assume"]
    assert {"node:shop-west"} <= {budget["name"] for budget in answer.body["budgets"]}
    assert (await desk.get("/v1/queue?cursor=x")).status == 422


async def test_filters_narrow_a_listing(desk: Desk, shop: dict[str, Any]) -> None:
    runs = (await desk.get("/v1/jobs?plan=shop&kind=replication-run&state=completed")).body
    assert [job["kind"] for job in runs["items"]] == ["replication-run"] * 2
    children = (await desk.get(f"/v1/jobs?parent_id={shop['id']}")).body["items"]
    assert {job["id"] for job in children} == set(shop["children"])
    assert {job["vm"] for job in children} >= {"db", "web"}
    one = (await desk.get("/v1/vms?plan=shop&vm=db")).body["items"]
    assert [vm["name"] for vm in one] == ["db"]
    assert (await desk.get("/v1/vms?plan=other")).body["items"] == []
    typed = (await desk.get("/v1/events?plan=shop&type=seawall.scheduler.plan-applied")).body
    assert len(typed["items"]) == 1


async def test_times_narrow_a_listing(desk: Desk, shop: dict[str, Any]) -> None:
    moment = shop["created_at"]
    later = (await desk.get(f"/v1/jobs?kind=replication-run&since={moment}")).body["items"]
    earlier = (await desk.get(f"/v1/jobs?kind=replication-run&until={moment}")).body["items"]
    assert [job["id"] for job in later] == [shop["id"]]
    assert shop["id"] not in {job["id"] for job in earlier}
    assert len(earlier) == 1


@pytest.mark.parametrize(
    "query",
    [
        "colour=red", "limit=0", "limit=1001", "limit=x", "limit=²", "limit=", "cursor=x",
        "cursor=WyJ4Il0=", "cursor=é", "cursor=bnVsbA==", "since=yesterday",
        "until=2026-01-01T00:00:00",
    ],
)  # fmt: skip
@pytest.mark.parametrize("view", ["jobs", "events", "sites"])
async def test_a_query_that_means_nothing_is_422(desk: Desk, view: str, query: str) -> None:
    answer = await desk.get(f"/v1/{view}?{query}")
    assert (answer.status, answer.code) == (422, "invalid"), answer
    assert answer.body["remedy"]


async def test_documents_have_the_promised_fields(desk: Desk, shop: dict[str, Any]) -> None:
    plan = (await desk.get("/v1/plans/shop")).body
    assert set(plan) >= {
        "name", "version", "state", "protected_site", "recovery_site", "rpo", "rto", "vms",
    }  # fmt: skip
    assert set(plan["rpo"]) >= {"target_s", "achieved_s", "breached"}
    assert set(plan["rto"]) >= {"target_s", "forecast_s", "last_s"}
    assert set(plan["vms"][0]) >= {
        "name", "sync_state", "last_checkpoint_at", "next_due_at", "rpo_s",
    }  # fmt: skip
    assert plan["vms"][0]["sync_state"] == "in-sync"
    job = (await desk.get(f"/v1/jobs/{shop['children'][0]}")).body
    assert set(job) >= {
        "id", "kind", "plan", "vm", "disk", "parent_id", "state", "percent", "actor",
        "created_at", "started_at", "ended_at", "bytes_done", "bytes_total", "rto_s", "error",
        "steps", "children", "instances",
    }  # fmt: skip
    assert set(job["steps"][0]) >= {
        "name", "state", "attempts", "started_at", "ended_at", "percent", "error", "output",
    }  # fmt: skip


async def test_an_event_is_a_cloud_event(desk: Desk) -> None:
    (event,) = (
        await desk.get("/v1/events?plan=shop&type=seawall.scheduler.plan-applied&limit=1")
    ).body["items"]
    assert (event["specversion"], event["subject"]) == ("1.0", "plan:shop")
    assert event["seawallplan"] == "shop" and event["actor"] == "admin"
    assert event["id"] and event["source"] and event["time"] and event["correlationid"]


async def test_nothing_is_shown_without_the_token(desk: Desk) -> None:
    for path in (*(f"/v1/{view}" for view in LISTINGS), "/v1/events/stream", "/v1/nothing"):
        for token in ("", "wrong", "sw_"):
            answer = await desk.ask("GET", path, token=token)
            assert (answer.status, answer.code) == (401, "unauthorized")
            assert "token" in answer.body["remedy"]
            assert "WWW-Authenticate" in answer.headers
    odd = await desk.get("/v1/plans", Authorization=f"Basic {desk.token}")
    assert odd.status == 401


async def test_health_needs_no_token(desk: Desk) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await desk.ask("GET", path, token="")).status == 200


async def test_the_stream_resumes_after_the_last_event_a_reader_had(desk: Desk) -> None:
    first = await read_stream(desk, 5, last="0")
    assert [number for number, _ in first] == [1, 2, 3, 4, 5]
    again = await read_stream(desk, 3, last="2")
    assert again == first[2:]
    listed = (await desk.get("/v1/events?limit=5&order=oldest")).body["items"]
    assert [event for _, event in first] == listed


async def test_events_come_newest_first_and_page_backwards(desk: Desk) -> None:
    (forwards,) = await pages(desk, "/v1/events?order=oldest", 1000)
    (backwards,) = await pages(desk, "/v1/events", 1000)
    cut = [event for page in await pages(desk, "/v1/events", 7) for event in page]
    assert backwards[0]["time"] >= backwards[-1]["time"]
    known = {event["id"] for event in forwards}
    assert [event for event in backwards if event["id"] in known] == forwards[::-1]
    assert [event for event in cut if event["id"] in known] == forwards[::-1]


async def test_sites_and_plans_are_filtered(desk: Desk) -> None:
    found = await desk.get("/v1/plans?protected_site=shop-east")
    assert [plan["name"] for plan in found.body["items"]] == ["shop"]
    assert (await desk.get("/v1/plans?recovery_site=shop-east")).body["items"] == []
    lab = await desk.get("/v1/sites?platform=lab&state=ok")
    assert {"shop-east", "shop-west"} <= {site["name"] for site in lab.body["items"]}
    assert (await desk.get("/v1/sites?platform=kvm")).body["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/v1/sites?since=2026-01-01T00:00:00Z", "'since'"),
        ("GET", "/v1/plans?until=2026-01-01T00:00:00Z", "'until'"),
        ("GET", "/v1/vms?since=2026-01-01T00:00:00Z&zz=1", "'since', 'zz'"),
        ("GET", "/v1/jobs?order=oldest", "'order'"),
        ("GET", "/v1/plans/shop?when=now", "'when'"),
        ("GET", "/v1/jobs/x?verbose=1", "'verbose'"),
        ("GET", "/v1/queue?class=recovery", "'class'"),
        ("GET", "/v1/events/stream?colour=red", "'colour'"),
        ("POST", "/v1/plans/shop/start?dry_run=true", "'dry_run'"),
        ("DELETE", "/v1/sites/shop-east?force=1", "'force'"),
    ],
)
async def test_parameters_that_a_path_does_not_take_are_refused_by_name(
    desk: Desk, method: str, path: str, told: str
) -> None:
    answer = await desk.ask(method, path)
    assert (answer.status, answer.code) == (422, "invalid"), answer
    assert told in answer.body["message"] and answer.body["remedy"]


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("jobs?state=runing", "running"),
        ("jobs?kind=testrecovery", "test-recovery"),
        ("alerts?severity=mayor", "major"),
        ("alerts?state=opn", "open"),
        ("vms?sync_state=insync", "in-sync"),
        ("checkpoints?state=availible", "available"),
        ("sites?state=reachable", "unreachable"),
        ("nodes?kind=pre", "prep"),
    ],
)
async def test_a_value_that_nothing_can_have_is_refused_with_the_nearest_one(
    desk: Desk, query: str, meant: str
) -> None:
    answer = await desk.get(f"/v1/{query}")
    assert answer.status == 422, answer
    assert f"did you mean {meant!r}?" in answer.body["message"]
    assert meant in answer.body["remedy"]
    good = query.partition("=")[0] + f"={meant}"
    assert (await desk.get(f"/v1/{good}")).status == 200


async def test_nodes_and_the_queue_are_filtered(desk: Desk, shop: dict[str, Any]) -> None:
    every = (await desk.get("/v1/nodes?limit=1000")).body["items"]
    site = every[0]["site"]
    here = (await desk.get(f"/v1/nodes?site={site}&kind=replication")).body["items"]
    assert [node["name"] for node in here] == [f"{site}-replication"]
    assert (await desk.get("/v1/nodes?kind=prep")).body["items"] == [
        node for node in every if node["kind"] == "prep"
    ]
    queued = (await desk.get("/v1/queue?plan=nobody")).body
    assert queued["items"] == [] and queued["next"] is None


async def test_an_order_that_is_none_is_refused(desk: Desk) -> None:
    answer = await desk.get("/v1/events?order=random")
    assert (answer.status, "newest or oldest" in answer.body["remedy"]) == (422, True)


async def test_the_stream_tells_what_happens_from_now_on(desk: Desk) -> None:
    async with asyncio.timeout(20):
        reader = asyncio.create_task(read_stream(desk, 1, query="?plan=shop"))
        while not reader.done():
            await desk.command("/v1/plans/shop/prioritise", {"priority": 2})
            await desk.command("/v1/plans/shop/prioritise", {"priority": 3})
        ((_, event),) = await reader
    assert event["type"] == "seawall.scheduler.plan-prioritised"


async def test_a_stream_position_that_is_none_is_422(desk: Desk) -> None:
    for last in ("x", "-1", "1.5"):
        answer = await desk.get("/v1/events/stream", Last_Event_ID=last)
        assert (answer.status, answer.code) == (422, "invalid")
    unknown = await desk.get("/v1/events/stream?colour=red")
    assert unknown.status == 422


async def read_stream(
    desk: Desk, count: int, *, last: str | None = None, query: str = ""
) -> list[tuple[int, Any]]:
    """The first `count` events of a stream with their ids."""
    headers = {"Authorization": f"Bearer {desk.token}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    found: list[tuple[int, Any]] = []
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as session,
        session.get(f"{desk.url}/v1/events/stream{query}", headers=headers) as response,
    ):
        assert response.headers["Content-Type"].startswith("text/event-stream")
        number = 0
        async for line in response.content:
            if matched := re.fullmatch(rb"id: (\d+)\n", line):
                number = int(matched[1])
            elif line.startswith(b"data: "):
                found.append((number, orjson.loads(line[6:])))
                if len(found) == count:
                    break
    return found


async def test_a_listing_tells_the_same_of_a_job_as_the_job_itself(
    desk: Desk, shop: dict[str, Any]
) -> None:
    started = (await desk.command("/v1/plans/shop/recover", {"mode": "test"})).body["id"]
    recovery = await desk.ended(started)
    assert len(recovery["children"]) == len(recovery["instances"]) == 2
    assert recovery["bytes_done"] == recovery["bytes_total"] > 0
    assert shop["bytes_total"] == sum(
        [(await desk.get(f"/v1/jobs/{child}")).body["bytes_total"] for child in shop["children"]]
    )
    assert shop["bytes_total"] > 0
    listed = (await desk.get("/v1/jobs?plan=shop&limit=1000")).body["items"]
    assert {started, shop["id"]} <= {job["id"] for job in listed}
    for job in listed:
        assert job == (await desk.get(f"/v1/jobs/{job['id']}")).body
