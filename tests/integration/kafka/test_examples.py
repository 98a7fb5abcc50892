"""The two programs of docs/examples against real brokers and events that our relay publishes."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from schemas.ids import partition_of
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from tests import parts
from tests.integration.kafka.programs import EXAMPLES, running
from tests.integration.kafka.replicator import SERVICES, TOPIC, Finished, Replicator

PLANS = ("shop", "erp", "crm")
BATCH_MAX = 500
"""Of follow_events.py: what a kill may have printed and not kept."""

MINUTE = dt.timedelta(minutes=1)
MB_PER_S = 60_000_000
"""Bytes in a window that make a megabyte a second."""


@pytest.fixture
async def settings(servers: str) -> AsyncIterator[KafkaSettings]:
    """Names of this test's own; all topics with them are deleted afterwards."""
    found = KafkaSettings(servers=tuple(servers.split(",")), prefix=f"t{uuid4().hex[:8]}.")
    yield found
    admin = AIOKafkaAdminClient(bootstrap_servers=list(found.servers))
    await admin.start()
    made = [name for name in await admin.list_topics() if name.startswith(found.prefix)]
    await admin.delete_topics(made)
    await admin.close()


def follower(settings: KafkaSettings, *more: str) -> list[str]:
    return ["--kafka", ",".join(settings.servers), "--prefix", settings.prefix, *more]


def worker(settings: KafkaSettings) -> tuple[list[str], dict[str, str]]:
    command = "--quiet worker --without-web -l warn"
    assert f"python rpo_stats.py {command}\n" in (EXAMPLES / "rpo_stats.py").read_text()
    return command.split(), {
        "SEAWALL_KAFKA": ",".join(settings.servers),
        "SEAWALL_KAFKA_PREFIX": settings.prefix,
        "RPO_STATS_EVERY_S": "0.5",
    }


def need_faust() -> None:
    if find_spec("faust") is None:
        parts.require("faust", "faust-streaming is not installed; it is in requirements-dev.txt")


def streams(printed: Iterable[str]) -> list[str]:
    """The streams that the follower's lines are about."""
    return [line.split("  ")[2] for line in printed]


def iterations(count: int, plans: Sequence[str] = PLANS) -> list[Finished]:
    """Ends of iterations, the plans taking turns."""
    now = dt.datetime.now(dt.UTC)
    return [Finished(plans[n % len(plans)], f"vm{n}", now, now) for n in range(count)]


async def test_the_follower_loses_nothing_at_a_kill_and_prints_no_repeat(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    assert len({partition_of(plan) for plan in PLANS}) == len(PLANS)
    await ensure_topics(SERVICES, settings)
    async with Replicator(settings) as replicator:
        events = await replicator.finish(iterations(60))
        events += await replicator.invent("shop", "replication.not-yet-invented", 1)
        await replicator.intrude("shop")
        with running(tmp_path, "follow_events.py", *follower(settings)) as program:
            await program.until(
                lambda seen: (
                    set(streams(seen)) >= set(events)
                    and program.complained.count("none of Seawall's events") == 2
                ),
                "the first events, and two that are none",
            )
            events += await replicator.finish(iterations(1500))
            await program.until(lambda seen: len(seen) > 61, "some of many")
            program.kill()
            before = streams(program.printed)
        events += await replicator.finish(iterations(1500))
        await replicator.repeat()
        last = await replicator.finish(iterations(len(PLANS)))
        events += last
        with running(tmp_path, "follow_events.py", *follower(settings)) as program:
            await program.until(lambda seen: set(streams(seen)) >= set(last), "the last events")
            assert program.end() == 0
            after, complained = streams(program.printed), program.complained
        assert set(before) | set(after) == set(events)
        assert len(set(before)) == len(before) and len(set(after)) == len(after)
        assert len(set(before) & set(after)) <= BATCH_MAX
        assert complained == ""
        for plan in PLANS:
            told = [stream for stream in after if stream.split(":")[1] == plan]
            assert told == sorted(told, key=lambda stream: stream.rpartition(":")[2])

        _, wanted = await replicator.finish(iterations(2, ("shop", "erp")))
        only = follower(settings, "--plan", "erp")
        with running(tmp_path, "follow_events.py", *only) as program:
            await program.until(lambda seen: bool(seen), "the event of the plan")
            assert program.end() == 0
            assert streams(program.printed) == [wanted]


@pytest.mark.parametrize("name", ["follow_events.py", "rpo_stats.py"])
async def test_a_program_that_is_there_before_seawall_says_what_it_misses(
    settings: KafkaSettings, tmp_path: Path, name: str
) -> None:
    if name == "rpo_stats.py":
        need_faust()
    arguments, environment = worker(settings)
    if name == "follow_events.py":
        arguments, environment = follower(settings), {}
    with running(tmp_path, name, *arguments, environment=environment) as program:
        assert program.wait() == 1
        assert f"{settings.prefix}seawall.replicator.events" in program.complained
        assert "has Seawall run there?" in program.complained
    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.servers))
    await admin.start()
    assert [n for n in await admin.list_topics() if n.startswith(settings.prefix)] == []
    await admin.close()


def stats(ended: Sequence[Finished]) -> dict[str, str]:
    """Window and plan → figures, as the program has to print them."""
    windows: dict[str, list[tuple[float | None, int]]] = defaultdict(list)
    copies: dict[tuple[str, str], dt.datetime] = {}
    kept_from = max(end.at for end in ended) - 60 * MINUTE
    for end in ended:
        before = copies.get((end.plan, end.vm))
        rpo = (end.at - before).total_seconds() if before and end.checkpoint_at else None
        if end.checkpoint_at:
            copies[end.plan, end.vm] = end.checkpoint_at
        start = end.at.replace(second=0, microsecond=0)
        if end.at >= kept_from:
            windows[f"{start:%Y-%m-%dT%H:%M:%SZ}  {end.plan}"].append((rpo, end.bytes_sent))
    found = {}
    for place, ends in windows.items():
        rpos = [rpo for rpo, _ in ends if rpo is not None]
        worst = f"{max(rpos):.0f} s" if rpos else "-"
        rate = sum(sent for _, sent in ends) / MB_PER_S
        found[place] = f"iterations {len(ends)}  rpo_max {worst}  {rate:.1f} MB/s"
    return found


def newest(printed: Iterable[str]) -> dict[str, str]:
    """The figures last printed for each window and plan."""
    found = {}
    for line in printed:
        start, plan, figures = line.rstrip("\n").split("  ", 2)
        found[f"{start}  {plan}"] = figures
    return found


def counted(figures: str) -> int:
    return int(figures.split()[1])


def minute(start: dt.datetime, vms: Sequence[str], *, fraction: float = 0) -> list[Finished]:
    """An iteration of each VM of each plan, in the minute from `start`; the last VM's fails."""
    return [
        Finished(
            plan, vm, start + dt.timedelta(seconds=20 + index % 30),
            None if vm == vms[-1] else start + dt.timedelta(seconds=index % 15 + fraction),
            MB_PER_S * (1 + index),
        )
        for plan in PLANS
        for index, vm in enumerate(vms)
    ]  # fmt: skip


async def begin_groups(settings: KafkaSettings) -> None:
    """As on a broker in use: the first group of a new one waits so long for the coordinator's own
    topic that faust knows its changelogs by then, whoever made them."""
    consumer = AIOKafkaConsumer(
        settings.prefix + TOPIC,
        bootstrap_servers=list(settings.servers),
        group_id=f"{settings.prefix}first",
    )
    await consumer.start()
    await consumer.stop()


async def test_the_statistics_never_count_an_event_twice_over_repeats_and_a_kill(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    need_faust()
    await ensure_topics(["replicator"], settings)
    await begin_groups(settings)
    arguments, environment = worker(settings)
    async with Replicator(settings, ["replicator"]) as replicator:
        start = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0) - 10 * MINUTE
        old = [Finished("shop", "db", start - 120 * MINUTE, start - 121 * MINUTE, 5)]
        ended = old + minute(start, ["db", "web", "app"])
        await replicator.finish(ended)
        with running(tmp_path, "rpo_stats.py", *arguments, environment=environment) as program:
            await program.until(lambda seen: newest(seen) == stats(ended), "its first figures")
            await replicator.repeat()
            await replicator.intrude("shop")
            await replicator.invent("shop", "replication.not-yet-invented", 1)
            await replicator.invent("shop", "replication.iteration-finished", 2)
            later = start + MINUTE
            more = minute(later, ["db", "web", "app"]) + minute(later, ["db", "x"], fraction=0.25)
            await replicator.finish(more)
            ended += more
            await program.until(lambda seen: newest(seen) == stats(ended), "figures after repeats")
            assert "version 2 of seawall.replication.iteration-finished" in program.complained
            settled = stats(ended)
            flood = minute(start + 2 * MINUTE, [f"vm{n}" for n in range(200)])
            await replicator.finish(flood)
            program.kill()
            printed = program.printed
        await replicator.repeat()
        last = minute(start + 3 * MINUTE, ["db", "web"])
        await replicator.finish(last)
        ended += flood + last
        wanted = stats(ended)
        with running(tmp_path, "rpo_stats.py", *arguments, environment=environment) as program:
            places = stats(last).keys()
            await program.until(
                lambda seen: all(newest(seen).get(place) == wanted[place] for place in places),
                "its last figures",
            )
            assert program.end() == 0
            printed += program.printed
    found = newest(printed)
    assert {place: found.get(place) for place in settled} == settled
    assert found.keys() == wanted.keys()
    for line in printed:
        for place, figures in newest([line]).items():
            assert counted(figures) <= counted(wanted[place]), line
