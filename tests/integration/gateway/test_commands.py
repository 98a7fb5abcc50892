"""Commands over HTTP: durable before they are answered, decided once, refused with a reason."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.integration.gateway.desk import Answer, Desk, plan_body
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


def is_problem(answer: Answer, status: int, code: str) -> None:
    """RFC 9457 with our code, message and remedy."""
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.body["status"] == status
    assert answer.body["type"] == f"urn:seawall:problem:{code}"
    assert answer.body["title"] and answer.body["detail"] == answer.body["message"]
    assert answer.body["remedy"], answer.body


async def test_without_wait_a_command_is_202_at_once_with_its_id(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/plans/nobody/start", {})
    assert answer.status == 202
    assert answer.body["state"] == "accepted"
    assert answer.body["command_id"]


async def test_with_wait_a_refusal_is_a_problem_of_its_status(desk: Desk) -> None:
    is_problem(await desk.command("/v1/plans/nobody/start"), 404, "unknown-plan")


async def test_a_wait_that_ends_first_is_202_and_the_command_goes_on(desk: Desk) -> None:
    answer = await desk.ask("POST", "/v1/plans/nobody/run?wait=1ms", {})
    assert (answer.status, answer.body["state"]) == (202, "accepted")


@pytest.mark.parametrize("wait", ["", "soon", "-1s", "1"])
async def test_a_wait_that_is_no_duration_is_422(desk: Desk, wait: str) -> None:
    is_problem(await desk.ask("POST", f"/v1/plans/x/start?wait={wait}", {}), 422, "invalid")


async def test_a_repeated_key_gets_the_same_job_and_nothing_runs_twice(desk: Desk) -> None:
    assert (await desk.plan("twice", "twice-db")).status == 200
    first = await desk.command("/v1/plans/twice/run", {}, Idempotency_Key="k1")
    again = await desk.command("/v1/plans/twice/run", {}, Idempotency_Key="k1")
    assert (first.status, again.status) == (202, 202)
    assert again.body["id"] == first.body["id"]
    await desk.ended(first.body["id"])
    jobs = await desk.get("/v1/jobs?plan=twice&kind=replication-run")
    assert [job["id"] for job in jobs.body["items"]] == [first.body["id"]]


async def test_two_at_once_with_one_key_are_one(desk: Desk) -> None:
    answers = await asyncio.gather(
        *(
            desk.ask("POST", "/v1/plans/none/run", {}, Idempotency_Key="same-moment")
            for _ in range(8)
        )
    )
    assert {answer.status for answer in answers} <= {202, 404}
    told = await desk.command("/v1/plans/none/run", {}, Idempotency_Key="same-moment")
    events = await desk.get("/v1/events?type=seawall.gateway.command-accepted&limit=1000")
    is_problem(told, 404, "unknown-plan")
    keys = [each["data"].get("idempotency_key") for each in events.body["items"]]
    assert keys.count("same-moment") == 1


async def test_a_repeated_key_gets_the_same_refusal(desk: Desk) -> None:
    first = await desk.command("/v1/plans/nobody/stop", {}, Idempotency_Key="k2")
    again = await desk.command("/v1/plans/nobody/stop", {}, Idempotency_Key="k2")
    assert first.status == again.status == 404
    assert first.body == again.body


async def test_a_key_of_another_request_is_422(desk: Desk) -> None:
    await desk.command("/v1/plans/nobody/stop", {}, Idempotency_Key="k3")
    other_body = await desk.command("/v1/plans/nobody/stop", {"vms": ["a"]}, Idempotency_Key="k3")
    other_path = await desk.command("/v1/plans/nobody/start", {}, Idempotency_Key="k3")
    is_problem(other_body, 422, "idempotency-mismatch")
    is_problem(other_path, 422, "idempotency-mismatch")


async def test_a_key_that_is_too_long_is_refused_not_cut(desk: Desk) -> None:
    first = await desk.command("/v1/plans/nobody/stop", {}, Idempotency_Key="x" * 201)
    is_problem(first, 422, "invalid")


async def test_a_plan_has_an_etag_and_an_old_one_is_412(desk: Desk) -> None:
    assert (await desk.plan("tagged", "tagged-db")).status == 200
    shown = await desk.get("/v1/plans/tagged")
    assert shown.headers["ETag"] == '"1"'
    changed = plan_body("tagged", "tagged-db", targets={"rpo": "1h"})
    applied = await desk.command("/v1/plans", changed, If_Match='"1"')
    assert (applied.status, applied.body["version"]) == (200, 2)
    late = plan_body("tagged", "tagged-db", targets={"rpo": "2h"})
    is_problem(await desk.command("/v1/plans", late, If_Match='"1"'), 412, "version")
    assert (await desk.get("/v1/plans/tagged")).headers["ETag"] == '"2"'


@pytest.mark.parametrize("tag", ["one", '"', "W/x", "-1", "9" * 40])
async def test_an_etag_that_is_none_is_422(desk: Desk, tag: str) -> None:
    is_problem(await desk.command("/v1/plans", plan_body("p", "a"), If_Match=tag), 422, "invalid")


async def test_an_unchanged_plan_is_200_and_no_new_version(desk: Desk) -> None:
    assert (await desk.plan("same", "same-db")).status == 200
    again = await desk.command("/v1/plans", plan_body("same", "same-db"))
    assert (again.status, again.body["version"]) == (200, 1)
    assert again.body["command"]["details"]["changes"] == []


async def test_a_dry_run_shows_changes_and_leaves_no_plan(desk: Desk) -> None:
    await desk.site("dry-east", "dry-db")
    await desk.site("dry-west")
    body = {**plan_body("dry", "dry-db"), "dry_run": True}
    answer = await desk.command("/v1/plans", body)
    assert answer.status == 200
    assert "+ vms.dry-db" in answer.body["command"]["details"]["changes"]
    is_problem(await desk.get("/v1/plans/dry"), 404, "not-found")


async def test_the_position_of_an_answer_lets_the_next_read_see_it(desk: Desk) -> None:
    assert (await desk.plan("placed", "placed-db")).status == 200
    stopped = await desk.command("/v1/plans/placed/stop")
    position = stopped.headers["Seawall-Position"]
    source, partition, seq = position.split("/")
    assert source == "scheduler" and partition.isdigit() and int(seq) > 0
    shown = await desk.get("/v1/plans/placed", Seawall_Position=position)
    assert (shown.status, shown.body["state"]) == (200, "stopped")


async def test_a_position_not_reached_yet_is_503_with_the_lag(desk: Desk) -> None:
    answer = await desk.get("/v1/plans", Seawall_Position="scheduler/1/99999999")
    is_problem(answer, 503, "stale")
    assert answer.body["details"]["lag_s"] >= 0


@pytest.mark.parametrize("token", ["x", "a/b/c", "scheduler/1", "scheduler/²/1", "scheduler/1/-1"])
async def test_a_position_that_is_none_is_422(desk: Desk, token: str) -> None:
    answer = await desk.get("/v1/plans", Seawall_Position=token.encode().decode("latin-1"))
    is_problem(answer, 422, "invalid")


async def test_a_job_id_from_nowhere_is_404_for_every_action(desk: Desk) -> None:
    for path in ("/v1/jobs/x/cancel", "/v1/jobs/iteration:none:a:b/cancel"):
        assert (await desk.command(path)).status == 404
    is_problem(await desk.get("/v1/jobs/recovery:none:x"), 404, "not-found")
    is_problem(await desk.command("/v1/jobs/iteration:a:b:c/cleanup"), 404, "not-found")
    assert (await desk.command("/v1/jobs/recovery:none:x/cleanup")).status == 404


async def test_alerts_and_checkpoints_from_nowhere_are_404(desk: Desk) -> None:
    for path in ("/v1/alerts/alert:a:b:c/ack", "/v1/alerts/x/resolve"):
        is_problem(await desk.command(path), 404, "unknown-alert")
    is_problem(await desk.command("/v1/alerts/alert:a:b:c/forget"), 404, "not-found")
    is_problem(
        await desk.command("/v1/alerts/alert:a:b:c/snooze", {"until": "tomorrow"}), 422, "invalid"
    )
    assert (await desk.command("/v1/checkpoints/checkpoint:a:b/preserve")).status == 404
    assert (await desk.ask("DELETE", "/v1/checkpoints/x?wait=10s")).status == 404


async def test_the_main_job_over_http(desk: Desk) -> None:
    assert (await desk.plan("main", "main-db", "main-web")).status == 200
    run = await desk.command("/v1/plans/main/run")
    assert (await desk.ended(run.body["id"]))["state"] == "completed"
    copied = await desk.ended((await desk.command("/v1/plans/main/checkpoints")).body["id"])
    assert copied["state"] == "completed"
    recovery = (await desk.command("/v1/plans/main/recover", {"mode": "test"})).body["id"]
    ended = await desk.ended(recovery)
    assert (ended["state"], len(ended["children"]), len(ended["instances"])) == ("completed", 2, 2)
    assert ended["rto_s"] > 0
    cleanup = (await desk.command(f"/v1/jobs/{recovery}/cleanup")).body["id"]
    assert (await desk.ended(cleanup))["state"] == "completed"
    checkpoint = copied["id"]
    preserved = await desk.command(f"/v1/checkpoints/{checkpoint}/preserve")
    assert (preserved.status, preserved.body["preserved"]) == (200, True)
    kept = await desk.ask("DELETE", f"/v1/checkpoints/{checkpoint}?wait=10s")
    assert (kept.status, bool(kept.body["remedy"])) == (409, True)
    await desk.command(f"/v1/checkpoints/{checkpoint}/unpreserve")
    gone = await desk.ask("DELETE", f"/v1/checkpoints/{checkpoint}?wait=10s")
    assert (gone.status, gone.body["kind"]) == (202, "checkpoint-delete")
    deleted = await desk.ended(gone.body["id"])
    assert (deleted["state"], deleted["checkpoint"]) == ("completed", checkpoint)


async def test_a_dry_run_says_every_call_page_by_page(desk: Desk) -> None:
    assert (await desk.plan("rehearsed", "rehearsed-db", "rehearsed-web")).status == 200
    run = await desk.command("/v1/plans/rehearsed/run")
    assert (await desk.ended(run.body["id"]))["state"] == "completed"
    asked = {"mode": "test", "dry_run": True}
    job = (await desk.command("/v1/plans/rehearsed/recover", asked)).body["id"]
    ended = await desk.ended(job)
    assert (ended["state"], ended["dry_run"]) == ("completed", True)
    first = (await desk.get(f"/v1/jobs/{job}/calls?limit=7")).body
    rest = (await desk.get(f"/v1/jobs/{job}/calls?cursor={first['next']}")).body
    calls = first["items"] + rest["items"]
    assert [call["call"] for call in calls if call["vm"] == "rehearsed-db"] == [
        *("hold", "rebuild_disk", "create_instance", "power_on", "release"),
    ]
    assert (rest["next"], len(calls)) == (None, ended["facts"]["calls_total"])
    assert (await desk.get(f"/v1/jobs/{job}/calls?cursor=x")).status == 422
    assert (await desk.get(f"/v1/jobs/{run.body['id']}/calls")).status == 404


async def test_a_long_output_is_there_with_its_step(desk: Desk) -> None:
    long = "for i in $(seq 3000); do echo line $i of a long output; done"
    script = {"run": "long.sh", "runtime": "sh"}
    recovery = {"pre_script": script}
    applied = await desk.plan("told", "told-db", scripts={"long.sh": long}, recovery=recovery)
    assert applied.status == 200
    run = await desk.command("/v1/plans/told/run")
    assert (await desk.ended(run.body["id"]))["state"] == "completed"
    job = (await desk.command("/v1/plans/told/recover", {"mode": "test"})).body["id"]
    ended = await desk.ended(job)
    step = next(step for step in ended["steps"] if step["name"] == "pre-script")
    assert step["state"] == "completed"
    assert len(step["output"]) <= 2048
    answer = (await desk.get(f"/v1/jobs/{job}/steps/pre-script/output")).body
    assert answer["whole"]
    assert answer["output"].endswith("line 3000 of a long output\n")
    assert 60_000 < len(answer["output"]) <= 65_536
    assert (await desk.get(f"/v1/jobs/{job}/steps/nothing/output")).status == 404
    assert (await desk.get("/v1/jobs/recovery:told:none/steps/pre-script/output")).status == 404


async def test_modes_of_later_versions_are_refused_with_a_reason(desk: Desk) -> None:
    assert (await desk.plan("later", "later-db")).status == 200
    refused = await desk.command("/v1/plans/later/recover", {"mode": "reverse"})
    assert refused.status == 409
    assert "reverse" in refused.body["message"]


async def test_a_site_in_use_stays_and_a_free_one_goes(desk: Desk) -> None:
    assert (await desk.plan("using", "using-db")).status == 200
    held = await desk.ask("DELETE", "/v1/sites/using-east?wait=10s")
    assert held.status == 409 and "using" in held.body["message"]
    await desk.site("free")
    assert (await desk.ask("DELETE", "/v1/sites/free?wait=10s")).status == 200
    is_problem(await desk.get("/v1/sites/free"), 404, "not-found")


async def test_scripts_go_with_their_plan_in_parts(desk: Desk, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    tmp_path.chmod(0o777)
    padding = "# " + "x" * 80 * 1024 + "\n"
    script = f"{padding}echo here > {marker}\n"
    applied = await desk.plan(
        "scripted",
        "scripted-db",
        scripts={"it.sh": script},
        recovery={"pre_script": {"run": "it.sh", "runtime": "sh"}},
    )
    assert applied.status == 200, applied
    await desk.ended((await desk.command("/v1/plans/scripted/run")).body["id"])
    recovery = await desk.command("/v1/plans/scripted/recover", {"mode": "test"})
    ended = await desk.ended(recovery.body["id"])
    assert ended["steps"][1]["name"] == "pre-script"
    assert (ended["state"], ended["steps"][1]["state"]) == ("completed", "completed")


async def test_a_version_that_is_old_stops_whatever_is_asked_of_a_plan(desk: Desk) -> None:
    assert (await desk.plan("guarded", "guarded-db")).status == 200
    for path, body in (
        ("start", {}),
        ("stop", {}),
        ("run", {}),
        ("prioritise", {"priority": 2}),
        ("recover", {"mode": "test"}),
        ("checkpoints", {}),
        ("vms/guarded-db/reset", {}),
    ):
        late = await desk.command(f"/v1/plans/guarded/{path}", body, If_Match='"7"')
        is_problem(late, 412, "version")
    gone = await desk.ask("DELETE", "/v1/plans/guarded?wait=20s", If_Match='"7"')
    is_problem(gone, 412, "version")
    assert (await desk.command("/v1/plans/guarded/stop", {}, If_Match='"1"')).status == 200
    assert (await desk.command("/v1/plans/guarded/start", {}, If_Match="*")).status == 200
    gone = await desk.ask("DELETE", "/v1/plans/guarded?wait=20s", If_Match='"1"')
    assert gone.status == 200, gone


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/sites/nowhere"),
        ("POST", "/v1/sites/nowhere/check"),
        ("POST", "/v1/jobs/recovery:a:b/cancel"),
        ("POST", "/v1/jobs/recovery:a:b/cleanup"),
        ("POST", "/v1/checkpoints/checkpoint:a:b/preserve"),
        ("DELETE", "/v1/checkpoints/checkpoint:a:b"),
        ("POST", "/v1/alerts/alert:a:b:c/ack"),
    ],
)
async def test_what_has_no_version_refuses_if_match(desk: Desk, method: str, path: str) -> None:
    answer = await desk.ask(method, path, {}, If_Match='"1"')
    is_problem(answer, 422, "invalid")
    assert "If-Match" in answer.body["message"] and "no version" in answer.body["message"]


@pytest.mark.parametrize(
    "job", ["x", "recovery", "recovery:shop", "iteration:a:b:c", "recovery:a:b", "checkpoint:a:b"]
)
@pytest.mark.parametrize("action", ["cleanup", "cancel"])
async def test_a_job_that_is_none_is_404_whatever_its_id_looks_like(
    desk: Desk, job: str, action: str
) -> None:
    answer = await desk.command(f"/v1/jobs/{job}/{action}")
    assert answer.status == 404, answer
    assert answer.code in ("not-found", "unknown-job") and answer.body["remedy"]


async def test_an_accepted_command_is_followed_by_its_location_and_position(desk: Desk) -> None:
    asked = await desk.ask("POST", "/v1/plans/nobody/start", {})
    place, position = asked.headers["Location"], asked.headers["Seawall-Position"]
    assert place == f"/v1/commands/{asked.body['command_id']}"
    first = await desk.get(place, Seawall_Position=position)
    assert first.status == 200, first
    assert first.body["state"] in ("accepted", "refused")
    assert (first.body["to"], first.body["key"]) == ("scheduler", "nobody")
    end = await until_decided(desk, place)
    assert (end["state"], end["code"]) == ("refused", "unknown-plan")
    assert end["message"] and end["remedy"] and end["accepted_at"] and end["settled_at"]


async def test_a_command_that_was_done_says_so_and_names_its_job(desk: Desk) -> None:
    assert (await desk.plan("followed", "followed-db")).status == 200
    asked = await desk.ask("POST", "/v1/plans/followed/run", {})
    end = await until_decided(desk, asked.headers["Location"])
    assert (end["state"], end["job"]) == ("done", asked.body["job"])
    decided = await desk.command("/v1/plans/followed/recover", {"mode": "test", "dry_run": True})
    if decided.status == 202:
        assert decided.headers["Location"] == f"/v1/jobs/{decided.body['id']}"


async def test_a_repeated_command_gets_the_position_of_the_first(desk: Desk) -> None:
    first = await desk.ask("POST", "/v1/plans/nobody/run", {}, Idempotency_Key="place")
    await until_decided(desk, first.headers["Location"])
    shown = await desk.get(first.headers["Location"])
    assert shown.body["job"] == first.body["job"]


async def test_a_command_that_never_was_is_404(desk: Desk) -> None:
    is_problem(await desk.get("/v1/commands/nothing"), 404, "not-found")


async def test_a_command_behind_a_parked_one_says_so_and_why(
    desk: Desk, module_postgres_dsn: str
) -> None:
    # Rows such as the projector and the scheduler write where a message fails for good.
    accepted = {"command_id": "c-stuck", "to": "scheduler", "type": "t", "key": "stuck"}
    connection = await asyncpg.connect(module_postgres_dsn)
    try:
        await connection.execute(
            "INSERT INTO read.command_accepts VALUES ('c-stuck', $1, now())", json.dumps(accepted)
        )
        assert (await desk.get("/v1/commands/c-stuck")).body["state"] == "accepted"
        await connection.execute(
            "INSERT INTO scheduler.parked VALUES "
            "('gateway', 'seawall.scheduler.commands', 1, 999999, 'stuck', 'Bug: x', now())"
        )
        shown = (await desk.get("/v1/commands/c-stuck")).body
        assert (shown["state"], shown["reason"]) == ("parked", "Bug: x")
    finally:
        await connection.execute("DELETE FROM scheduler.parked WHERE key = 'stuck'")
        await connection.execute("DELETE FROM read.command_accepts WHERE id = 'c-stuck'")
        await connection.close()


async def until_decided(desk: Desk, place: str) -> dict[str, Any]:
    """The command once its owner has answered."""
    found: dict[str, Any] = {}

    async def is_decided() -> bool:
        answer = await desk.get(place)
        found.update(answer.body)
        return answer.status == 200 and found["state"] not in ("accepted", "parked")

    await eventually(is_decided, f"{place} is decided", within_s=20.0)
    return found
