"""The embedded PostgreSQL: data survives kills, one owner per folder, orphans are taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from shared.embedded import DataFolderInUse, EmbeddedPostgres, StartFailed

_OWNER = """
import sys
from pathlib import Path
from shared.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: pytest closes its parent to other accounts, and root runs the server as one.
    with tempfile.TemporaryDirectory(prefix="seawall-embedded-") as folder:
        yield Path(folder) / "postgres"


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home)
    yield server
    server.stop()


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def test_committed_rows_survive_kill_and_restart(server: EmbeddedPostgres) -> None:
    async with connected(server.start()) as connection:
        await connection.execute("create table kept (n int)")
        await connection.execute("insert into kept values (1)")
    server.kill()
    assert server.pid is None
    async with connected(server.start()) as connection:
        assert await connection.fetchval("select n from kept") == 1
    server.stop()
    async with connected(server.start()) as connection:
        assert await connection.fetchval("select n from kept") == 1


async def test_durability_is_never_turned_off(server: EmbeddedPostgres) -> None:
    async with connected(server.start()) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert await connection.fetchval("select current_setting($1)", setting) == "on"


async def test_no_network_port_is_opened(server: EmbeddedPostgres) -> None:
    server.start()
    assert server.pid is not None
    assert psutil.Process(server.pid).net_connections("inet") == []


def test_second_owner_of_a_folder_is_refused(server: EmbeddedPostgres, home: Path) -> None:
    server.start()
    with pytest.raises(DataFolderInUse, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(home).start()
    assert server.alive


def test_start_again_keeps_a_living_server_and_replaces_a_dead_one(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    first = server.pid
    assert first is not None
    server.start()
    assert server.pid == first
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=10)
    server.start()
    assert server.pid not in {first, None}


def start_and_kill_owner(home: Path) -> int:
    """Let another process own the folder and kill it; returns the pid of the server it leaves."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        orphan = int(owner.stdout.readline())
        owner.kill()
    return orphan


async def test_server_left_by_a_killed_owner_is_taken_over(
    server: EmbeddedPostgres, home: Path
) -> None:
    orphan = start_and_kill_owner(home)
    async with connected(server.start(timeout_s=30)) as connection:
        assert await connection.fetchval("select 1") == 1
    assert server.pid != orphan


def test_server_left_by_a_killed_owner_can_be_stopped(
    server: EmbeddedPostgres, home: Path
) -> None:
    orphan = psutil.Process(start_and_kill_owner(home))
    server.stop_orphan()
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_stale_pid_file_that_names_a_stranger_is_no_obstacle(
    server: EmbeddedPostgres, home: Path
) -> None:
    server.start()
    server.stop()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (home / "cluster" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        server.start()
        assert server.alive
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)


async def test_long_folder_gets_a_short_socket(home: Path) -> None:
    server = EmbeddedPostgres(home / ("x" * 100))
    try:
        async with connected(server.start()) as connection:
            assert await connection.fetchval("select 1") == 1
    finally:
        server.stop()
    assert not Path(server.dsn().partition("host=")[2]).exists()


def test_cluster_of_another_version_is_refused_with_a_remedy(
    server: EmbeddedPostgres, home: Path
) -> None:
    server.start()
    server.stop()
    (home / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartFailed, match="made by PostgreSQL 16"):
        server.start()


async def test_fresh_databases_are_empty_and_separate(
    postgres_dsn: str, module_postgres_dsn: str
) -> None:
    async with connected(postgres_dsn) as one, connected(module_postgres_dsn) as other:
        await one.execute("create table mine ()")
        assert await other.fetchval("select to_regclass('mine')") is None
