"""A real PostgreSQL for tests: one that is given, an embedded one, or one in a container.

Where there is none of them, the tests are skipped with the reasons, or fail when
`REQUIRE_POSTGRES=1`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from shared.embedded import (
    BinariesMissing,
    DataFolderInUse,
    EmbeddedPostgres,
    find_binaries,
)
from tests import containers, parts
from tests.ways import Way, choose

GIVEN: Final = "SEAWALL_TEST_POSTGRES"
EMBEDDED: Final = "the embedded server"
CONTAINER: Final = "a container"

_FOLDER_PREFIX: Final = "seawall-test-pg-"


@contextmanager
def postgres_server_url() -> Iterator[str]:
    """URL of a server in which databases may be made; fsync is on."""
    given = os.environ.get(GIVEN, "")
    choice = choose(postgres_ways(given, binaries_obstacle, containers.engine_obstacle))
    if choice.way == GIVEN:
        yield given
    elif choice.way == EMBEDDED:
        with _embedded() as url:
            yield url
    elif choice.way == CONTAINER:
        with containers.or_absent("postgres", containers.postgres()) as url:
            yield url
    else:
        parts.require("postgres", choice.reason)


def postgres_ways(
    given: str, binaries: Callable[[], str], engine: Callable[[], str]
) -> Iterator[Way]:
    """The ways to a server; `binaries` and `engine` look, and give what is in the way."""
    yield Way(GIVEN, "" if given else "it is not set")
    yield Way(EMBEDDED, binaries())
    yield Way(CONTAINER, engine())


def binaries_obstacle() -> str:
    """Why no embedded server can be started, or ""."""
    try:
        find_binaries()
    except BinariesMissing as missing:
        return f"{missing}; {missing.remedy}"
    return ""


@contextmanager
def _embedded() -> Iterator[str]:
    _end_leftover_servers()
    home = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    server = EmbeddedPostgres(home)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _end_leftover_servers() -> None:
    """Stop servers and delete folders of test runs that were killed."""
    for home in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        # Without a lock file the folder is being made by another run at this moment.
        if (home / "owner.lock").exists() and os.access(home / "owner.lock", os.W_OK):
            with suppress(DataFolderInUse):
                EmbeddedPostgres(home).stop_orphan()
                shutil.rmtree(home, ignore_errors=True)
