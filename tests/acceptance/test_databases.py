"""A database per service: the main job over Kafka, where services share nothing but topics."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from shared.databases import variable_of
from shared.embedded import EmbeddedPostgres
from shared.process import LOGGED_SERVICES
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.plane import Plane
from tests.acceptance.world import PLAN, VMS, World
from tests.brokers import kafka_servers

APART = {
    "of_gateway": ("gateway",),
    "of_platforms": ("replicator", "recovery"),
    "of_notifier": ("notifier",),
    "of_projector": ("projector",),
}

SCHEDULER = "of_scheduler"
"""In a server of its own, too."""

SCHEMAS = {
    "of_gateway": {"gateway", "gateway_work"},
    "of_scheduler": {"scheduler", "scheduler_work"},
    "of_platforms": {"replicator", "recovery", "work"},
    "of_notifier": {"notifier", "notifier_work"},
    "of_projector": {"projector", "read"},
}

PRINTED = 8000
"""Bytes that a script prints: more than a fact holds."""

OLDEST = "/v1/events?order=oldest&limit=50"


class Lived(Plane):
    """A plane on which the main job was done once: its recovery and cleanup."""

    world: World
    scheduler_server: EmbeddedPostgres
    recovery: dict[str, Any]
    cleanup: dict[str, Any]

    def dsn(self, database: str) -> str:
        """The URL of one of SCHEMAS' databases."""
        if database == SCHEDULER:
            return self.scheduler_server.dsn()
        return self.postgres.dsn(database)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    root: Path = tmp_path_factory.mktemp("apart")
    root.chmod(0o755)
    server = EmbeddedPostgres(root / "scheduler-postgres")
    with kafka_servers() as servers, _started(server) as url:
        kafka = {
            "SEAWALL_BUS": "kafka",
            "SEAWALL_KAFKA": servers,
            "SEAWALL_KAFKA_PREFIX": f"{root.name}.",
            variable_of("scheduler"): url,
        }
        with Lived(root, environment=kafka, apart=APART) as started:
            started.scheduler_server = server
            started.start_all()
            started.wait_ready()
            started.world = World(root, seed=1)
            _main_job(started)
            yield started


@contextmanager
def _started(server: EmbeddedPostgres) -> Iterator[str]:
    try:
        yield server.start()
    finally:
        server.stop()


def _main_job(plane: Lived) -> None:
    """Sites, plan, run, test recovery, cleanup."""
    plane.world.build()
    # Slow enough for progress to be told of: at most four times a second, and while it lasts.
    (plane.world.east / "site.yaml").write_text("journal: hashes\nlatency: {read_chunk: 300ms}\n")
    (plane.world.west / "site.yaml").write_text("journal: true\nlatency: {flush: 400ms}\n")
    client = Client(plane)
    for site in ("east", "west"):
        settings = {"path": str(plane.world.root / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    body = plane.world.plan()
    body["scripts"]["web-post.sh"] += f"yes | head -c {PRINTED}\n"
    client.command("/v1/plans", {**body, "scripts": encoded_scripts(body["scripts"])})
    run = client.wait_job(client.command(f"/v1/plans/{PLAN}/run")["id"])
    assert run["state"] == "completed", run
    job = client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})["id"]
    plane.recovery = client.wait_job(job)
    plane.cleanup = client.wait_job(client.command(f"/v1/jobs/{job}/cleanup")["id"])


def test_the_main_job_completes(plane: Lived) -> None:
    assert plane.recovery["state"] == "completed", plane.log_tail()
    assert {each["vm"] for each in plane.recovery["instances"]} == set(VMS)
    assert plane.cleanup["state"] == "completed"
    assert plane.running() == set(plane.processes)


def test_each_database_holds_the_schemas_of_its_services_only(plane: Lived) -> None:
    found = {name: asyncio.run(_schemas(plane.dsn(name))) for name in SCHEMAS}
    assert found == SCHEMAS
    assert asyncio.run(_schemas(plane.postgres.dsn())) == set()


async def _schemas(dsn: str) -> set[str]:
    rows = await _rows(
        dsn,
        "select nspname from pg_namespace"
        " where nspname not in ('public', 'information_schema') and nspname not like 'pg\\_%'",
    )
    return {row["nspname"] for row in rows}


async def _rows(dsn: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


def test_progress_reaches_the_read_models_by_its_topic(plane: Lived) -> None:
    rows = asyncio.run(_rows(plane.dsn("of_projector"), "select job from read.progress"))
    assert any(row["job"].startswith("iteration:") for row in rows)


def test_what_lies_with_the_owners_is_answered(plane: Lived) -> None:
    client = Client(plane, prefix="owners")
    assert client.request("GET", "/v1/queue")["budgets"]
    jobs = map(client.job, plane.recovery["children"])
    (long,) = (job for job in jobs if job["vm"] == "web")
    (step,) = (each["name"] for each in long["steps"] if each["output_sha256"])
    path = f"/v1/jobs/{quote(long['id'], safe='')}/steps/{quote(step, safe='')}/output"
    told = client.request("GET", path)
    assert told["whole"] and len(told["output"]) >= PRINTED


def _say(plane: Lived, *arguments: str, **environment: str) -> Any:
    """The document that a command line with the services' settings answers with."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments, "-o", "json"],
        env={**plane.environment, **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_logs_of_all_databases_are_verified_and_rebuilt_from(plane: Lived) -> None:
    checked = _say(plane, "log", "verify")
    assert checked["whole"]
    assert {each["service"] for each in checked["items"]} == set(LOGGED_SERVICES)
    assert _say(plane, "log", "parked")["items"] == []
    client = Client(plane, prefix="rebuilt")
    before = (
        client.job(plane.recovery["id"]),
        client.request("GET", OLDEST)["items"],
    )
    assert _say(plane, "log", "rebuild")["rows"] > len(before[1]) > 0
    after = (
        client.job(plane.recovery["id"]),
        client.request("GET", OLDEST)["items"],
    )
    assert after == before


def test_a_job_is_shown_as_it_was_from_logs_elsewhere(plane: Lived) -> None:
    job, at = quote(plane.recovery["id"], safe=""), quote(plane.recovery["ended_at"])
    then = Client(plane, prefix="then").request("GET", f"/v1/jobs/{job}?at={at}")
    assert (then["state"], then["awaits_cleanup"]) == ("completed", True)
    assert _say(plane, "log", "reconcile")["same"]


def test_an_export_of_all_databases_is_restored_into_as_many(plane: Lived, tmp_path: Path) -> None:
    folder = str(tmp_path / "export")
    saved = _say(plane, "log", "export", folder)
    fresh: dict[str, str] = {}
    for database, services in {**APART, SCHEDULER: ("scheduler",)}.items():
        name = database.replace("of_", "fresh_")
        asyncio.run(_rows(plane.postgres.dsn(), f'create database "{name}"'))
        fresh |= {variable_of(service): plane.postgres.dsn(name) for service in services}
    restored = _say(plane, "log", "import", folder, **fresh)
    assert restored["rows"] == saved["rows_kept"]
    assert restored["verified"]["whole"]
    assert restored["epochs"] == dict.fromkeys(LOGGED_SERVICES, 2)


def test_a_database_that_is_away_takes_only_what_is_in_it(plane: Lived) -> None:
    client = Client(plane, prefix="away")
    plane.scheduler_server.stop()
    try:
        assert plane.ready()
        assert client.request("GET", f"/v1/plans/{PLAN}")["name"] == PLAN
        path = f"/v1/plans/{PLAN}/run?wait=2s"
        assert client.request("POST", path, {}, key="away")["state"] == "accepted"
    finally:
        plane.scheduler_server.start()
    job = client.command(f"/v1/plans/{PLAN}/run")["id"]
    assert client.wait_job(job)["state"] == "completed", plane.log_tail()
    assert plane.running() == set(plane.processes)
