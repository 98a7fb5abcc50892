"""Fixtures for every test: a real PostgreSQL, fresh databases in it, an S3, the absent parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import structlog

from tests import parts
from tests.lanes import Lanes, give_way, place_of
from tests.objectstore import running_store
from tests.servers import postgres_server_url

_SQL_TIMEOUT_S: Final = 30.0

# A shared or busy machine makes any single example slow; how long tests take is pytest's to bound.
hypothesis.settings.register_profile("seawall", deadline=None)
hypothesis.settings.load_profile("seawall")

# As in production: a line for every step, printed and captured, would be most of a test's work.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


@pytest.fixture
def every_line() -> Iterator[None]:
    """Log lines at `debug` too."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of the session's PostgreSQL: one that is given, embedded, or in a container."""
    with postgres_server_url() as url:
        yield url


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database for one test, dropped afterwards."""
    with _fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def module_postgres_dsn(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database shared by the tests of one module."""
    with _fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """URL of the session's S3; make a bucket in it with `tests.objectstore.new_bucket`."""
    with running_store() as url:
        yield url


@pytest.fixture
def new_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes fresh, empty databases for one test; each call returns the URL of a new one."""
    made: list[str] = []

    def make() -> str:
        made.append(_create(postgres_server))
        return _with_database(postgres_server, made[-1])

    yield make
    for name in made:
        _drop(postgres_server, name)


@contextmanager
def _fresh_database(server: str) -> Iterator[str]:
    name = _create(server)
    try:
        yield _with_database(server, name)
    finally:
        _drop(server, name)


def _create(server: str) -> str:
    name = f"test_{uuid4().hex[:16]}"
    _execute(server, f'create database "{name}" template template0')
    return name


def _drop(server: str, name: str) -> None:
    _execute(server, f'drop database if exists "{name}" with (force)')


def _with_database(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def _execute(dsn: str, statement: str) -> None:
    """Run one statement in a thread of its own: the caller's may already run an event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn, timeout=_SQL_TIMEOUT_S)
        try:
            await connection.execute(statement, timeout=_SQL_TIMEOUT_S)
        finally:
            await connection.close(timeout=_SQL_TIMEOUT_S)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, run()).result(2 * _SQL_TIMEOUT_S)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In random order, but for what takes long: that comes first."""
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before fixtures start their processes."""
    if hasattr(item.config, "workerinput"):
        give_way(item.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """Not `--dist loadgroup`: it writes names of groups into ids, and pytest 9.2 ignores them."""
    return Lanes(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that sums up what was absent here."""
    if told := getattr(session.config, "workeroutput", None):
        told["absent"] = dict(parts.absent)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear it."""
    parts.absent.update(getattr(node, "workeroutput", {}).get("absent", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real parts were absent: a green run must not hide what it did not try."""
    if parts.absent:
        terminalreporter.section("absent parts")
        for part, reason in sorted(parts.absent.items()):
            terminalreporter.write_line(f"{part}: {reason}")
