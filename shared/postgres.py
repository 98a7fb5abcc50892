"""How the engine talks to PostgreSQL: pools, error translation, named statements.

Owns connection settings and the one place where asyncpg's errors become ours. Retries nothing:
a Transient says the call may be repeated, and whoever owns the work decides when.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.errors import InvariantBroken, Permanent, SeawallError, Transient

COMMAND_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
POOL_SIZE_MAX: Final = 4

CONFLICT: Final = "SW001"
FENCED: Final = "SW002"
NAME_TAKEN: Final = "SW003"

# Every statement of ours goes by an index. A plan that was cached while a table was empty must
# not scan it for ever after, and no plan may depend on when statistics were last gathered.
_PLANNER: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}

_NAME: Final = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_STATEMENT: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

# SQLSTATEs (or their classes) of troubles that pass without a person: connection lost, shutting
# down or starting, deadlock, serialization, out of resources, lock or statement time-outs, a
# database that takes no connections (restored, renamed) or is in somebody's use at the moment.
_TRANSIENT: Final = ("08", "40", "53", "55000", "55006", "55P03", "57", "25006")
# Wrong credentials, missing database, schema or function: the installation is not as it should be.
_PERMANENT: Final = ("28", "3D", "3F", "42")


class Connection(asyncpg.Connection):
    """Keeps no session state, so giving it back to the pool costs no round trip.

    Whoever needs LISTEN, advisory locks or settings takes a connection of its own.
    """

    def get_reset_query(self) -> str:
        return ""


class Pool(asyncpg.Pool):
    """asyncpg's pool, with a cheaper way to take a connection for a single statement.

    `acquire` and its return cost two tasks and 30 µs each time. `lend` hands on a connection
    that the pool counts as taken; whoever waits in `acquire` gets it as soon as it is back.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._kept: list[PoolConnectionProxy] = []
        self._waiting = 0

    def lend(self, *, timeout_s: float) -> Loan:
        """`async with pool.lend(timeout_s=…) as connection`: one statement, no session state."""
        return Loan(self, timeout_s)

    async def take(self, timeout_s: float) -> PoolConnectionProxy:
        """A connection to give back with `give`."""
        while self._kept:
            connection = self._kept.pop()
            if not _is_dead(connection):
                return connection
            await self.release(connection)
        return await self.acquire(timeout=timeout_s)

    async def give(self, connection: PoolConnectionProxy, *, sound: bool) -> None:
        """Keep a connection for the next taker, or let the pool see to it."""
        if sound and not self._waiting and not self.is_closing():
            self._kept.append(connection)
        else:
            await self.release(connection)

    async def _acquire(self, timeout: float | None) -> PoolConnectionProxy:  # noqa: ASYNC109
        if self._kept:
            await self.release(self._kept.pop())
        self._waiting += 1
        try:
            connection: PoolConnectionProxy = await super()._acquire(timeout)  # type: ignore[misc]
            return connection
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Wait for the statements under way, then close every connection."""
        while self._kept:
            await self.release(self._kept.pop())
        await super().close()


def _is_dead(connection: PoolConnectionProxy) -> bool:
    """Whether a kept connection was lost; asyncpg has then taken it from its proxy, too."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


class Loan:
    """A connection for one statement. One that failed under it goes back by the pool's way."""

    __slots__ = ("_connection", "_pool", "_timeout_s")

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def __aenter__(self) -> PoolConnectionProxy:
        self._connection = await self._pool.take(self._timeout_s)
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        await self._pool.give(self._connection, sound=error is None)


def work_schema_of(service: str) -> str:
    """The schema of the work queue: shared by the services that call platforms."""
    return "work" if service in {"replicator", "recovery"} else f"{service}_work"


async def prepare_connection(connection: asyncpg.Connection) -> None:
    """JSON travels as bytes, unparsed, both ways."""
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=_same, decoder=_same, format="binary"
    )


def _same(value: bytes) -> bytes:
    return value


async def open_pool(
    dsn: str,
    service: str,
    *,
    work_schema: str = "",
    size_min: int = 1,
    size_max: int = POOL_SIZE_MAX,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
    read_only: bool = False,
) -> Pool:
    """Open a pool whose unqualified names mean the service's schema, then the work schema.

    Statements end after `command_timeout_s`, also on the server; an idle transaction of ours
    does too, so that a stopped process cannot hold locks for longer. Raises Transient when the
    database cannot be reached, Permanent when it refuses us.
    """
    schemas = (schema_name(service), schema_name(work_schema or work_schema_of(service)))
    timeout_ms = str(int(command_timeout_s * 1000))
    with translated(f"connect to the database of {service}"):
        return await Pool(
            dsn,
            min_size=size_min,
            max_size=size_max,
            max_inactive_connection_lifetime=0,
            max_queries=sys.maxsize,
            connect=None,
            setup=None,
            init=prepare_connection,
            reset=None,
            loop=None,
            connection_class=Connection,
            record_class=asyncpg.Record,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            max_cached_statement_lifetime=0,
            server_settings={
                **_PLANNER,
                "application_name": f"seawall-{service}",
                "search_path": ", ".join(f'"{name}"' for name in schemas),
                "statement_timeout": timeout_ms,
                "idle_in_transaction_session_timeout": timeout_ms,
                "timezone": "UTC",
                "default_transaction_read_only": "on" if read_only else "off",
            },
        )


def schema_name(name: str) -> str:
    """`name` if it may be spliced into SQL as an identifier; raises InvariantBroken otherwise."""
    if not _NAME.match(name):
        raise InvariantBroken(f"{name!r} is not a schema name")
    return name


def load_statements(path: Path) -> dict[str, str]:
    """The statements of a `.sql` file by the `-- name: …` line above each."""
    _, *parts = _STATEMENT.split(path.read_text(encoding="utf-8"))
    texts = [text.strip().rstrip(";") for text in parts[1::2]]
    return dict(zip(parts[::2], texts, strict=True))


class translated:
    """Turn asyncpg's errors into ours; `attempt` says what was being done, as in "commit a step".

    After a lost connection or a time-out the outcome of a write is unknown.
    """

    __slots__ = ("_attempt",)

    def __init__(self, attempt: str) -> None:
        self._attempt = attempt

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, asyncpg.PostgresError):
            raise _from_server(error, self._attempt) from error
        if isinstance(error, asyncpg.InterfaceError):
            raise _from_client(error, self._attempt) from error
        if isinstance(error, OSError | asyncpg.InternalClientError):  # TimeoutError is an OSError
            message = f"could not {self._attempt}: {_text(error)}"
            raise Transient(message, code="database-unreachable") from error


def _from_server(error: asyncpg.PostgresError, attempt: str) -> SeawallError:
    state = error.sqlstate or ""
    message = f"could not {attempt}: {_text(error)}"
    if state.startswith(_TRANSIENT):
        return Transient(message, code="database-unavailable")
    if state.startswith(_PERMANENT):
        return Permanent(message, remedy="check the database URL, its permissions and migrations")
    return InvariantBroken(message)


def _from_client(error: asyncpg.InterfaceError, attempt: str) -> SeawallError:
    message = f"could not {attempt}: {_text(error)}"
    if isinstance(error, ValueError) or "in progress" in str(error):
        return InvariantBroken(message)
    return Transient(message, code="database-unreachable")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
