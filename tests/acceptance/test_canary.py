"""Secrets are found nowhere they are not needed: tables, topics, logs, spans, job output, files,
the process list.

A control plane on a broker that wants a login; a plan whose VM has credentials, and a script that
prints them in every usual encoding; a mail server with a password, a collector with a token. While
the scripts run, every process's command line and environment is looked at, over and over. Then
everything that was written, or sent to the collector, is searched for each form of each secret.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import wanted_topics
from shared.embedded import EmbeddedPostgres
from shared.process import LOGGED_SERVICES
from shared.scripts.runner import ROOT_CACHE
from shared.testing.kafka import KafkaCluster
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.collector import Collector, collector
from tests.acceptance.plane import Plane
from tests.acceptance.searching import (
    ProcessWatch,
    Sighting,
    files_with,
    forms,
    holds,
    now,
    program_of,
    written_since,
)
from tests.acceptance.world import World
from tests.brokers import kafka_cluster
from tests.waiting import wait_until

VM_SECRET = 'canary "vm" \\ 3fd1b0a94c17'
KAFKA_SECRET = "canary-kafka-77ac2e51"
MAIL_SECRET = "canary-mail-5e90d4aa7"
COLLECTOR_SECRET = "canary-collector-c07b21"

TELLING = """
import base64, hashlib, json, sys, time, urllib.parse
context = json.load(sys.stdin)
secret = context["credentials"]["admin"]
raw = secret.encode()
print("the password is " + secret)
print(json.dumps({"deep": json.dumps(secret)}), raw.hex(), urllib.parse.quote(secret))
print(*(base64.b64encode(b"admin:"[:n] + raw + b"!").decode() for n in range(6)))
print(base64.encodebytes(raw * 4).decode())
time.sleep(2)
digest = hashlib.sha256(raw).hexdigest()
print(json.dumps({"outputs": {"digest": digest, "told": {secret: [secret]}}}))
"""
TEMPORARY = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""Where anything of a run may have been left, beside the folder that it was given for that."""


class Installation:
    """`seawall up` on a broker of its own."""

    def __init__(self, root: Path, cluster: KafkaCluster, spans: Collector, url: str) -> None:
        self.root = root
        self.spans = spans
        self._collector = url
        self.home = root / "home"
        self.log = root / "seawall.log"
        self.postgres = EmbeddedPostgres(root / "postgres")
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self.began = now()
        self.temporary = Path(tempfile.mkdtemp(prefix="seawall-canary-"))
        self.temporary.chmod(0o1777)
        self.watch: ProcessWatch | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return (self.home / "endpoint").read_text().strip()

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    @cached_property
    def tables(self) -> dict[str, bytes]:
        return asyncio.run(_every_row(self.postgres.dsn()))

    @cached_property
    def messages(self) -> list[bytes]:
        return asyncio.run(_every_message(self.kafka))

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(
            servers=(self._cluster.servers,), security="SASL_SSL", ca=str(self._cluster.ca),
            user="seawall", password=KAFKA_SECRET,
        )  # fmt: skip

    def start(self) -> None:
        self.home.mkdir(parents=True)
        environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_PORT": "0",
            "SEAWALL_DATABASE_URL": self.postgres.start(),
            "SEAWALL_BUS": "kafka",
            "SEAWALL_KAFKA": self._cluster.servers,
            "SEAWALL_KAFKA_SECURITY": "SASL_SSL",
            "SEAWALL_KAFKA_CA": str(self._cluster.ca),
            "SEAWALL_KAFKA_USER": "seawall",
            "SEAWALL_KAFKA_PASSWORD": KAFKA_SECRET,
            "SEAWALL_SMTP": "127.0.0.1:1",
            "SEAWALL_SMTP_USER": "seawall",
            "SEAWALL_SMTP_PASSWORD": MAIL_SECRET,
            "SEAWALL_MAIL_TO": "oncall@example.org",
            "SEAWALL_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._collector,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{COLLECTOR_SECRET}",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", "up"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._said_ready, "seawall is ready", within_s=60)

    def _said_ready(self) -> bool:
        return b"seawall ready" in self.log.read_bytes()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=15)
        self.postgres.stop()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    root = tmp_path_factory.mktemp("canary")
    root.chmod(0o755)
    with (
        kafka_cluster(scram=("seawall", KAFKA_SECRET)) as cluster,
        collector(root / "spans") as (spans, url),
    ):
        found = Installation(root, cluster, spans, url)
        try:
            found.start()
            _work(found)
            yield found
        finally:
            found.stop()
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(found.temporary)


def _work(installation: Installation) -> None:
    """A recovery whose script is given the secret and prints it."""
    world = World(installation.root, seed=1)
    world.build()
    secret = installation.home / "secrets" / "db-admin"
    secret.parent.mkdir()
    secret.write_text(VM_SECRET + "\n")
    client = Client(cast(Plane, installation))
    for site in ("east", "west"):
        settings = {"path": str(installation.root / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    body = world.plan()
    body["scripts"]["tell.py"] = TELLING
    db = body["plan"]["vms"][0]
    db["credentials"] = {"admin": "file:secrets/db-admin"}
    db["post_script"] = {"run": "tell.py", "runtime": "python"}
    client.command("/v1/plans", {**body, "scripts": encoded_scripts(body["scripts"])})
    client.wait_job(client.command("/v1/plans/shop/run")["id"])
    with ProcessWatch({**SECRETS, "token": installation.token}) as installation.watch:
        job = client.command("/v1/plans/shop/recover", {"mode": "test"})["id"]
        ended = client.wait_job(job)
    told = [client.job(child) for child in ended["children"]]
    outputs = [step["output"] for child in told for step in child["steps"] if step["output"]]
    assert any("the password is ***" in str(output) for output in outputs), ended
    assert not any(holds(str(output).encode(), VM_SECRET) for output in outputs), outputs
    client.wait_job(client.command(f"/v1/jobs/{job}/cleanup")["id"])


SECRETS = {
    "vm": VM_SECRET, "kafka": KAFKA_SECRET, "mail": MAIL_SECRET, "collector": COLLECTOR_SECRET,
}  # fmt: skip


@pytest.fixture(params=["vm", "kafka", "mail", "collector", "token"])
def secret(request: pytest.FixtureRequest, installation: Installation) -> str:
    name: str = request.param
    return SECRETS.get(name) or installation.token


def test_no_table_holds_a_secret(installation: Installation, secret: str) -> None:
    assert len(installation.tables) > 60
    # What is kept as bytes is shown in hex.
    looked_for = [*forms(secret), *(form.hex().encode() for form in forms(secret))]
    found = [
        table
        for table, text in installation.tables.items()
        if any(form in text for form in looked_for)
    ]
    assert found == []


async def _every_row(dsn: str) -> dict[str, bytes]:
    """All rows of each table, as text."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch(
            "select schemaname, tablename from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        )
        found = {}
        for schema, table in tables:
            rows = await connection.fetch(f'select t::text from "{schema}"."{table}" as t')
            found[f"{schema}.{table}"] = "\n".join(row[0] for row in rows).encode()
        return found
    finally:
        await connection.close()


def test_no_topic_holds_a_secret(installation: Installation, secret: str) -> None:
    assert len(installation.messages) > 50
    assert [each for each in installation.messages if holds(each, secret)] == []


async def _every_message(settings: KafkaSettings) -> list[bytes]:
    """Key, value and headers of everything that stands on the broker."""
    consumer = AIOKafkaConsumer(
        **settings.client("search"), enable_auto_commit=False, auto_offset_reset="earliest"
    )
    found: list[bytes] = []
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic.name, number)
            for topic in wanted_topics(LOGGED_SERVICES, settings)
            for number in range(topic.partitions)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        left = {each for each in partitions if ends[each]}
        while left:
            batches: dict[Any, Any] = await consumer.getmany(*left, timeout_ms=500)
            for messages in batches.values():
                found += [b"\n".join(_parts(message)) for message in messages]
            left = {each for each in left if await consumer.position(each) < ends[each]}
    finally:
        await consumer.stop()
    return found


def _parts(message: Any) -> list[bytes]:
    headers = [part for name, value in message.headers for part in (name.encode(), value)]
    return [message.key or b"", message.value or b"", *headers]


def test_no_log_and_no_file_holds_a_secret(installation: Installation, secret: str) -> None:
    allowed = {installation.home / "token", installation.home / "secrets" / "db-admin"}
    paths = (path for path in written_since([installation.root], 0) if path not in allowed)
    found, searched = files_with(secret, paths)
    assert searched > 50
    assert found == []


def test_no_temporary_file_of_the_machine_holds_the_credentials_of_a_vm(
    installation: Installation,
) -> None:
    # Not those of the broker: it is given its own, and keeps them in its folder.
    folders = {*TEMPORARY, installation.temporary, ROOT_CACHE, Path.home() / ".seawall"}
    kept = installation.home / "secrets" / "db-admin"
    # How many files others make there is not ours to say: that the search finds is shown by one.
    with tempfile.TemporaryDirectory() as folder:
        left = Path(folder, "left")
        left.write_text(VM_SECRET)
        fresh = [path for path in written_since(folders, installation.began) if path != kept]
        found, _ = files_with(VM_SECRET, fresh)
    assert set(found) == {left}
    assert list(installation.temporary.iterdir()) == [], "the folders of scripts were in there"


def test_no_process_shows_a_secret_while_scripts_run(installation: Installation) -> None:
    watch = installation.watch
    assert watch is not None and watch.scripts_seen > 1, "scripts ran while it looked"
    # Passwords that the control plane is given are in its environment, as they were given; and
    # in that of its children, for the moment until they have become another program.
    program = program_of(installation.pid)
    allowed = {Sighting(name, "environ", program) for name in ("kafka", "mail", "collector")}
    assert watch.found - allowed == set()
    assert watch.found == allowed, "the look would have found one"


def test_no_span_holds_a_secret(installation: Installation, secret: str) -> None:
    def told() -> bool:
        names = {span.name for span in installation.spans.spans()}
        return {"effect run-script", "effect send-mail"} <= names

    wait_until(told, "the script that printed the secret and a mail are in traces")
    found = [
        file for file in installation.spans.folder.iterdir() if holds(file.read_bytes(), secret)
    ]
    assert found == []


def test_the_log_is_told_as_much_as_it_ever_is(installation: Installation) -> None:
    lines = installation.log.read_text()
    for event in ("step.decided", "effect.ended", "row.projected", "request.answered"):
        assert f'"event": "{event}"' in lines


def test_the_collector_was_shown_its_token(installation: Installation) -> None:
    tokens = {headers["authorization"] for headers in installation.spans.headers}
    assert tokens == {f"Bearer {COLLECTOR_SECRET}"}


def test_the_secret_that_was_looked_for_can_be_found(installation: Installation) -> None:
    kept = installation.home / "secrets" / "db-admin"
    assert VM_SECRET in kept.read_text() and holds(kept.read_bytes(), VM_SECRET)
    assert installation.token in (installation.home / "token").read_text()
