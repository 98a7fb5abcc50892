"""RPO and throughput per plan in windows of a minute, with faust-streaming over Seawall's events.

    pip install faust-streaming==0.15.3
    SEAWALL_KAFKA=127.0.0.1:9092 python rpo_stats.py --quiet worker --without-web -l warn

Every ten seconds, one line for each plan and window whose figures changed:

    2026-11-22T20:15:00Z  shop  iterations 3  rpo_max 934 s  12.4 MB/s

`rpo_max` is the highest age that a VM's newest copy reached before the next one replaced it. The
window is that of the event's own time (`ce_time`), so a repeat falls where its first one fell.
Windows are kept for an hour; what is older when it is read counts in none. After a start the
kept hour is told anew.

**Its sums are soft.** faust-streaming 0.15.3 commits the offsets of messages that are still in
flight and acknowledges those whose handler failed; after one kill -9 its tables were wrong in both
of its modes, too high with at-least-once, too low with exactly-once. Here each sum carries the
(epoch, seq) of the last event in it, which is the event's id within its partition, and is written
together with it: an event is never counted twice. One that was in flight at a kill -9 may be
missing in its window, and an RPO too. Good for a wall display, not for a bill or an alert: those
read `GET /v1/plans`, or are rebuilt from the topics by a consumer that keeps its own positions
(follow_events.py).

Seawall's topic must exist. The tables are in memory and come back from their changelog topics,
which are made here before faust starts: made by faust they are often not yet known to it when the
first events come, and these are lost (`PartitionsMismatch … has 0 partitions`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import sys
import time

import faust
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code

WINDOW_S = 60.0
KEPT_S = 3600.0
START_S = 30.0
PARTITIONS = 64
ITERATION = "seawall.replication.iteration-finished"
SCHEMA_VERSION = "1"

SERVERS = os.environ.get("SEAWALL_KAFKA", "127.0.0.1:9092").split(",")
PREFIX = os.environ.get("SEAWALL_KAFKA_PREFIX", "")
REPLICATION = int(os.environ.get("SEAWALL_KAFKA_REPLICATION", "1"))
REPORT_S = float(os.environ.get("RPO_STATS_EVERY_S", "10"))
SOURCE = f"{PREFIX}seawall.replicator.events"


class Worker(faust.Worker):
    """Without the spinner: it writes control characters to standard output, terminal or not."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.spinner = None


app = faust.App(
    f"{PREFIX}seawall-rpo-stats",
    Worker=Worker,
    broker=";".join(f"kafka://{node}" for node in SERVERS),
    store="memory://",
    topic_partitions=PARTITIONS,
    topic_disable_leader=True,
    # With faust's own values a worker that was killed is not replaced within 40 s.
    broker_session_timeout=6,
    broker_heartbeat_interval=1,
    broker_rebalance_timeout=10,
    consumer_auto_offset_reset="earliest",
)
# Raw: an event that faust cannot decode would end the agent, and most are not asked for.
events = app.topic(SOURCE, key_serializer="raw", value_serializer="raw")

kept = app.Table("windows", default=dict, partitions=PARTITIONS)
windows = kept.tumbling(WINDOW_S, expires=KEPT_S).relative_to(lambda event: happened(event))
"""Plan → {last: (epoch, seq), iterations, rpo_max_s: seconds or null, bytes}, by window."""

copies = app.Table("copies", partitions=PARTITIONS)
"""Plan/VM → the moment its newest copy is from, in seconds."""

told: dict[tuple[float, str], str] = {}
"""(start of a window, plan) → the line last printed for it."""

unknown: set[str] = set()
"""Versions of the event's schema that were met and are not understood."""


@app.agent(events)
async def count(stream: faust.Stream) -> None:
    """Enter each finished iteration into its plan's window."""
    async for event in stream.events():
        # A tombstone or a stranger's record has no type.
        if event.headers.get("ce_type", b"").decode() != ITERATION or event.value is None:
            continue
        version = event.headers["ce_schemaversion"].decode()
        if version == SCHEMA_VERSION:
            enter(event, json.loads(event.value))
        elif version not in unknown:
            unknown.add(version)
            say(f"version {version} of {ITERATION} is not counted: mend this program", sys.stderr)


def enter(event: faust.Event, data: dict[str, str]) -> None:
    """Count the event, unless its window has it: a partition's events come in order of seq."""
    plan, at = data["plan"], happened(event)
    last = [int(event.headers[name]) for name in ("ce_epoch", "ce_seq")]
    window = windows[plan].value()
    if window and last <= window["last"]:
        return
    rpo_s = rpo_reached(f"{plan}/{data['vm']}", data.get("checkpoint_at"), at)
    if at < time.time() - KEPT_S:
        return
    rpos = [each for each in (window.get("rpo_max_s"), rpo_s) if each is not None]
    windows[plan] = {
        "last": last,
        "iterations": window.get("iterations", 0) + 1,
        "rpo_max_s": max(rpos, default=None),
        "bytes": window.get("bytes", 0) + data.get("bytes_sent", 0),
    }


def rpo_reached(vm: str, checkpoint_at: str | None, at: float) -> float | None:
    """How old the VM's copy was when this one replaced it; None for a first one or a failure."""
    if checkpoint_at is None:
        return None
    fresh, before = dt.datetime.fromisoformat(checkpoint_at).timestamp(), copies.get(vm)
    if before is not None and before >= fresh:
        return None
    copies[vm] = fresh
    return None if before is None else at - before


def happened(event: faust.Event) -> float:
    """When the event happened; Kafka's time stamp says when it was published, each time anew."""
    return dt.datetime.fromisoformat(event.headers["ce_time"].decode()).timestamp()


@app.timer(REPORT_S)
async def report() -> None:
    """Print what changed, also since another process printed it."""
    oldest = time.time() - KEPT_S
    now = {
        (start, plan): line_of(start, plan, window)
        for (plan, (start, _)), window in kept.items()
        if start >= oldest
    }
    for place in sorted(now):
        if told.get(place) != now[place]:
            say(now[place], sys.__stdout__)
    told.clear()
    told.update(now)


def line_of(start: float, plan: str, window: dict[str, float]) -> str:
    """A window of a plan as a line."""
    at = dt.datetime.fromtimestamp(start, dt.UTC).isoformat().replace("+00:00", "Z")
    rpo = "-" if window["rpo_max_s"] is None else f"{window['rpo_max_s']:.0f} s"
    rate = window["bytes"] / WINDOW_S / 1e6
    return f"{at}  {plan}  iterations {window['iterations']}  rpo_max {rpo}  {rate:.1f} MB/s"


def say(line: str, file: object) -> None:
    """Print at once; to the real standard output, for faust makes log lines of the other."""
    print(line, file=file, flush=True)


async def prepare() -> None:
    """Make the tables' changelog topics as faust would, and wait until they can be used."""
    admin = AIOKafkaAdminClient(bootstrap_servers=SERVERS)
    try:
        async with asyncio.timeout(START_S):
            await admin.start()
            await make_changelogs(admin)
    except (KafkaConnectionError, TimeoutError) as error:
        sys.exit(f"no broker answers at {','.join(SERVERS)}: {error!r}")
    finally:
        await admin.close()


async def make_changelogs(admin: AIOKafkaAdminClient) -> None:
    """As `prepare`; ends the program where Seawall's topic is missing or a new one is refused."""
    there = await admin.list_topics()
    if SOURCE not in there:
        sys.exit(f"no topic {SOURCE} at {','.join(SERVERS)}: has Seawall run there?")
    wanted = [changelog(table) for table in (kept, copies)]
    answer = await admin.create_topics([new for new in wanted if new.name not in there])
    for name, code, *_ in answer.topic_errors:
        if code and for_code(code) is not TopicAlreadyExistsError:
            sys.exit(f"the topic {name} cannot be made: {for_code(code).__name__}")
    usable = False
    while not usable:
        described = await admin.describe_topics([new.name for new in wanted])
        usable = all(each["partitions"] for each in described)
        await asyncio.sleep(0 if usable else 0.1)


def changelog(table: faust.Table) -> NewTopic:
    """The changelog topic of a table."""
    topic = table.changelog_topic
    config = {"cleanup.policy": "compact,delete" if topic.deleting else "compact"}
    if topic.retention:
        config["retention.ms"] = str(int(topic.retention * 1000))
    return NewTopic(topic.get_topic_name(), PARTITIONS, REPLICATION, topic_configs=config)


if __name__ == "__main__":
    if "worker" in sys.argv:
        asyncio.run(prepare())
    app.main()
