"""`seawall log parked|retry|skip`: messages that could not be decided, and what to do with them.

A command only leaves its request with the stored message: the running copy that holds its
partition acts on it, at once or when it is started.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from services.cli.direct import on_database
from services.cli.output import Format, machine, moment, out, table
from services.cli.run import DONE, FAILED, TIMED_OUT, Output, confirm
from shared.errors import Permanent, Refused, SeawallError

if TYPE_CHECKING:
    from shared.databases import Databases
    from shared.eventlog.port import Asked, Parked
    from shared.eventlog.postgres import PostgresStore

DECIDED_S_MAX: Final = 10.0
"""How long a command waits for what becomes of its request (surface.md §4)."""

_POLL_S: Final = 0.1


class LogService(enum.StrEnum):
    """The services that have a log and consume others'."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    REPLICATOR = "replicator"
    RECOVERY = "recovery"
    NOTIFIER = "notifier"


class NotParked(SeawallError):
    """There is nothing of that key to act on."""

    code = "not-parked"


class Chain(msgspec.Struct, frozen=True):
    """What became of the messages of a key from one source and topic."""

    source: str
    topic: str
    taken_up: int
    parked: int
    state: str
    reason: str


ServiceArg = Annotated[LogService, typer.Argument(metavar="SERVICE", help="where it is parked")]
KeyArg = Annotated[str, typer.Argument(metavar="KEY", help="the plan or site, as listed")]
Source = Annotated[str | None, typer.Option(help="only messages from this service")]
Topic = Annotated[str | None, typer.Option(help="only messages of this topic")]


def parked(
    service: Annotated[LogService | None, typer.Option(help="only this service's")] = None,
    key: Annotated[str | None, typer.Option(help="only this key's")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Messages that could not be decided, and those that wait behind them."""

    async def work(databases: Databases) -> int:
        items = []
        for name in [service] if service else LogService:
            async with _store(databases, name) as store:
                found = await store.parked()
            items += [_item(name, each) for each in found if key in (None, each.key)]
        if not machine({"items": items, "next": None}, output):
            rows = [
                (i["service"], i["key"], i["source"], i["topic"], i["partition"], i["seq"],
                 moment(i["since"]), i["asked"], i["reason"])
                for i in items
            ]  # fmt: skip
            columns = (
                "SERVICE", "KEY", "FROM", "TOPIC", "PARTITION", "SEQ", "SINCE", "ASKED", "REASON",
            )  # fmt: skip
            table(columns, rows, empty="nothing is parked")
        return DONE

    on_database(work)


def retry(
    service: ServiceArg,
    key: KeyArg,
    source: Source = None,
    topic: Topic = None,
    output: Output = Format.TABLE,
) -> None:
    """Decide the parked messages of a key again, in order, until one fails."""

    async def work(databases: Databases) -> int:
        async with _store(databases, service) as store:
            chains = await _chains(store, key, source, topic)
            return await _act(databases, store, chains, asked="retry", form=output)

    on_database(work)


def skip(
    service: ServiceArg,
    key: KeyArg,
    source: Source = None,
    topic: Topic = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Drop the first parked message of a key for good, and decide those behind it."""

    async def work(databases: Databases) -> int:
        async with _store(databases, service) as store:
            chains = await _chains(store, key, source, topic)
            if len(chains) > 1:
                found = ", ".join(f"--source {c[0].source} --topic {c[0].topic}" for c in chains)
                raise Refused(
                    f"messages of {key} are parked from {len(chains)} topics",
                    remedy=f"choose one: {found}",
                    code="ambiguous",
                )
            if not yes:
                await _confirm(databases, chains[0][0])
            return await _act(databases, store, chains, asked="skip", form=output)

    on_database(work)


def _item(service: str, each: Parked) -> dict[str, Any]:
    return {
        "service": service,
        "source": each.source,
        "topic": each.topic,
        "partition": each.partition,
        "seq": each.seq,
        "key": each.key,
        "reason": each.reason,
        "since": each.at.isoformat(),
        "asked": each.asked,
    }


@asynccontextmanager
async def _store(databases: Databases, service: str) -> AsyncIterator[PostgresStore]:
    from shared.eventlog.postgres import PostgresStore
    from shared.postgres import open_pool

    pool = await open_pool(databases.of(service), service, size_max=1)
    try:
        yield await PostgresStore.open(pool, service=service)
    finally:
        await pool.close()


async def _chains(
    store: PostgresStore, key: str, source: str | None, topic: str | None
) -> list[list[Parked]]:
    """The parked messages of a key, in order, per source and topic. Raises NotParked."""
    from shared.parked import chains

    found = [
        chain
        for chain in chains(await store.parked())
        if chain[0].key == key
        and source in (None, chain[0].source)
        and topic in (None, chain[0].topic)
    ]
    if not found:
        raise NotParked(
            f"no message of {key} is parked at the {store.service}",
            remedy="`seawall log parked` lists what is",
        )
    return found


async def _confirm(databases: Databases, first: Parked) -> None:
    """Ask before a message is dropped, showing what it is."""
    try:
        async with _store(databases, first.source) as store:
            rows = await store.read(first.topic, {first.partition: first.seq - 1}, count_max=1)
    except Permanent:  # The database of its sender is not known here.
        rows = ()
    said = f"{rows[0].type} from {rows[0].stream}" if rows else "a message that is not here"
    out.print(f"seq {first.seq} of {first.topic}/{first.partition}: {said}", markup=False)
    out.print(f"  {first.reason}", markup=False)
    confirm("It will never be decided. Drop it?")


async def _act(
    databases: Databases,
    store: PostgresStore,
    chains: Sequence[Sequence[Parked]],
    *,
    asked: Asked,
    form: Format,
) -> int:
    """Leave the request, wake who must act on it, and tell what became of it."""
    await store.ask_parked([chain[0] for chain in chains], asked=asked)
    await _wake(databases.of(store.service), {chain[0].topic for chain in chains})
    became = await _until_taken_up(store, chains)
    document = {"service": store.service, "key": chains[0][0].key, "items": became}
    if not machine(msgspec.to_builtins(document), form):
        for each in became:
            _tell(store.service, each)
    states = {each.state for each in became}
    if "asked" in states:
        return TIMED_OUT
    return FAILED if "parked" in states and asked == "retry" else DONE


async def _wake(dsn: str, topics: set[str]) -> None:
    """News only shortens waiting: the consumer looks several times a second anyway."""
    import asyncpg

    from shared.news import CHANNEL, STATEMENT_TIMEOUT_S
    from shared.postgres import translated

    with translated("wake the services"):
        connection = await asyncpg.connect(dsn, timeout=STATEMENT_TIMEOUT_S)
        try:
            await connection.execute(
                "select pg_notify($1, $2)",
                CHANNEL,
                ",".join(sorted(topics)),
                timeout=STATEMENT_TIMEOUT_S,
            )
        finally:
            connection.terminate()


async def _until_taken_up(store: PostgresStore, chains: Sequence[Sequence[Parked]]) -> list[Chain]:
    deadline = time.monotonic() + DECIDED_S_MAX
    while True:
        now = await store.parked()
        became = [_became(chain, now) for chain in chains]
        waiting = any(each.state in {"asked", "deciding"} for each in became)
        if not waiting or time.monotonic() >= deadline:
            return became
        await asyncio.sleep(_POLL_S)


def _became(chain: Sequence[Parked], now: Sequence[Parked]) -> Chain:
    from shared.fold import BEHIND

    first = chain[0]
    where = (first.source, first.topic, first.key)
    left = [each for each in now if (each.source, each.topic, each.key) == where]
    gone = len(chain) - len({each.seq for each in chain} & {each.seq for each in left})
    if not left:
        state, reason = "done", ""
    elif left[0].asked:
        state, reason = "asked", left[0].reason
    else:
        state = "deciding" if left[0].reason == BEHIND else "parked"
        reason = left[0].reason
    return Chain(first.source, first.topic, gone, len(left), state, reason)


def _tell(service: str, became: Chain) -> None:
    where = f"{service} ← {became.source} {became.topic}"
    text = f"{where}: {became.taken_up} taken up, {became.parked} still parked"
    if became.state == "asked":
        text += f"; no running {service} has acted on it yet: it does so when it runs"
    elif became.state == "parked":
        text += f": {became.reason}"
    elif became.state == "deciding":
        text += "; it goes on"
    out.print(text, markup=False)
