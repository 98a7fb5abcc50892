"""How the engine talks to PostgreSQL: pools, error translation, named statements.

Owns connection settings and the one place where asyncpg's errors become ours. Retries nothing:
a Transient says the call may be repeated, and whoever owns the work decides when.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg

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
# down or starting, deadlock, serialization, out of resources, lock or statement time-outs.
_TRANSIENT: Final = ("08", "40", "53", "55P03", "57", "25006")
# Wrong credentials, missing database, schema or function: the installation is not as it should be.
_PERMANENT: Final = ("28", "3D", "3F", "42")


class Connection(asyncpg.Connection):
    """Keeps no session state, so giving it back to the pool costs no round trip.

    Whoever needs LISTEN, advisory locks or settings takes a connection of its own.
    """

    def get_reset_query(self) -> str:
        return ""


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
) -> asyncpg.Pool:
    """Open a pool whose unqualified names mean the service's schema, then the work schema.

    Statements end after `command_timeout_s`, also on the server; an idle transaction of ours
    does too, so that a stopped process cannot hold locks for longer. Raises Transient when the
    database cannot be reached, Permanent when it refuses us.
    """
    schemas = (schema_name(service), schema_name(work_schema or work_schema_of(service)))
    timeout_ms = str(int(command_timeout_s * 1000))
    with translated(f"connect to the database of {service}"):
        return await asyncpg.create_pool(
            dsn,
            min_size=size_min,
            max_size=size_max,
            max_inactive_connection_lifetime=0,
            connection_class=Connection,
            init=prepare_connection,
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


@contextmanager
def translated(attempt: str) -> Iterator[None]:
    """Turn asyncpg's errors into ours; `attempt` says what was being done, as in "commit a step".

    After a lost connection or a time-out the outcome of a write is unknown.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _from_server(error, attempt) from error
    except asyncpg.InterfaceError as error:
        raise _from_client(error, attempt) from error
    except (OSError, asyncpg.InternalClientError) as error:  # a TimeoutError is an OSError
        message = f"could not {attempt}: {_text(error)}"
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
