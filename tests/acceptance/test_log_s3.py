"""`seawall log export`, `import` and `verify --export` with a bucket, as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared.archive import files, s3
from shared.archive.addresses import S3Address
from tests.acceptance.operator import Said
from tests.integration.log.exports import assert_same, histories, table
from tests.integration.projector.logs import Logs, a_history, open_logs
from tests.objectstore import (
    CREDENTIALS,
    SECRET,
    Door,
    door,
    error,
    new_bucket,
    settings,
)
from tests.waiting import eventually

COMMAND_S_MAX = 60


class Terminal:
    """Where the commands are typed."""

    def __init__(self, home: Path, dsn: str, opened: Door) -> None:
        self.door = opened
        self._environment = {
            **os.environ,
            **settings(opened.url, **CREDENTIALS),
            "SEAWALL_HOME": str(home),
            "SEAWALL_DATABASE_URL": dsn,
        }

    async def start(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", "log", *words,
            env={**self._environment, **environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def say(self, *words: str, **environment: str) -> Said:
        process = await self.start(*words, **environment)
        async with asyncio.timeout(COMMAND_S_MAX):
            out, err = await process.communicate()
        assert process.returncode is not None
        assert SECRET.encode() not in out + err
        return Said(code=process.returncode, out=out.decode(), err=err.decode())


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with histories(postgres_dsn) as opened:
        yield opened


@pytest.fixture
async def terminal(logs: Logs, object_store: str, tmp_path: Path) -> AsyncIterator[Terminal]:
    async with door(object_store) as opened:
        yield Terminal(tmp_path, logs.dsn, opened)


@pytest.fixture
async def place(terminal: Terminal, object_store: str) -> str:
    return f"s3://{await new_bucket(object_store)}/seawall"


def document(said: Said) -> dict[str, Any]:
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


async def test_an_export_is_verified_and_imported_from_the_bucket(
    terminal: Terminal, logs: Logs, place: str, new_database: Callable[[], str]
) -> None:
    saved = document(await terminal.say("export", place, "-o", "json"))
    assert saved["rows"] > 0
    checked = document(await terminal.say("verify", "--export", place, "-o", "json"))
    assert (checked["whole"], checked["rows"]) == (True, saved["rows"])
    dsn = new_database()
    there = {"SEAWALL_DATABASE_URL": dsn}
    restored = document(await terminal.say("import", place, "-o", "json", **there))
    assert restored["verified"]["whole"]
    async with open_logs(dsn) as copy:
        await assert_same(logs, copy)
    again = await terminal.say("import", place, **there)
    assert (again.code, "empty database" in again.err) == (3, True)


async def test_a_followed_export_grows_with_the_log_until_it_is_interrupted(
    terminal: Terminal,
    logs: Logs,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    new_database: Callable[[], str],
) -> None:
    for name, value in settings(terminal.door.url, **CREDENTIALS).items():
        monkeypatch.setenv(name, value)
    following = await terminal.start("export", place, "--follow", "--every", "1s")
    address = S3Address(place.split("/")[2], "seawall")
    async with s3.connected(address) as archive:

        async def holds_all() -> bool:
            assert following.returncode is None
            content = await archive.get(files.MANIFEST)
            if content is None:
                return False
            kept = files.read_manifest(content).services["scheduler"].segments()
            return sum(s.rows for s in kept) == len(await table(logs, "scheduler.log"))

        await eventually(holds_all, "the first export", within_s=COMMAND_S_MAX)
        await a_history(logs, "shop", vms=["late"])
        await eventually(holds_all, "what is new", within_s=COMMAND_S_MAX)
    following.send_signal(signal.SIGINT)
    async with asyncio.timeout(COMMAND_S_MAX):
        await following.communicate()
    assert following.returncode == 130
    dsn = new_database()
    document(await terminal.say("import", place, "-o", "json", SEAWALL_DATABASE_URL=dsn))
    async with open_logs(dsn) as copy:
        await assert_same(logs, copy)


@pytest.mark.parametrize("command", [("export",), ("import",), ("verify", "--export")])
async def test_what_is_wrong_with_a_bucket_is_told_with_its_exit_code_and_remedy(
    terminal: Terminal, place: str, command: tuple[str, ...]
) -> None:
    usage = await terminal.say(*command, "s3://")
    assert (usage.code, "s3://BUCKET" in usage.err) == (2, True)
    absent = await terminal.say(*command, "s3://nobody-made-this/x")
    assert absent.code == 4
    assert "no bucket nobody-made-this" in absent.err
    unknown = await terminal.say(*command, place, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert unknown.code == 3
    assert "AWS_PROFILE" in unknown.err
    terminal.door.answer = lambda request: error(403, "AccessDenied")
    denied = await terminal.say(*command, place)
    assert denied.code == 3
    assert "s3:ListBucket" in denied.err


async def test_an_endpoint_that_does_not_answer_is_7(terminal: Terminal, place: str) -> None:
    there = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    said = await terminal.say("verify", "--export", place, **there)
    assert said.code == 7
    assert "127.0.0.1:9 does not answer" in said.err
    assert "AWS_ENDPOINT_URL_S3" in said.err


async def test_a_bucket_without_an_export_makes_no_database(
    terminal: Terminal, place: str, tmp_path: Path
) -> None:
    said = await terminal.say("import", place, SEAWALL_DATABASE_URL="")
    assert said.code == 3
    assert "manifest.json" in said.err
    assert list(tmp_path.iterdir()) == []
