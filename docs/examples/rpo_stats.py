"""RPO and throughput per plan in windows of a minute, with faust-streaming over Seawall's events.

    pip install faust-streaming==0.15.3
    SEAWALL_KAFKA=127.0.0.1:9092 python rpo_stats.py worker --without-web -l warn

Every ten seconds, one line for each plan whose figures changed:

    2026-11-22T20:15:00Z  shop  iterations 3  rpo_max 934 s  12.4 MB/s

`rpo_max` is the highest age that a VM's newest copy reached before the next one replaced it.

**Its sums are soft.** faust-streaming 0.15.3 commits the offsets of messages that are still in
flight and acknowledges those whose handler failed; after one kill -9 its tables were wrong in both
of its modes, too high with at-least-once, too low with exactly-once. Here each event sets its own
entry under its `ce_id`, so a repeat cannot be counted twice; one that was lost stays lost until
its window has passed. Good for a wall display, not for a bill or an alert: those read
`GET /v1/plans`, or are rebuilt from the topics by a consumer that keeps its own positions
(follow_events.py).

The topics must exist before it starts: Seawall makes them. The tables are in memory and come back
from their changelog topics, which faust makes itself; the very first start may end at them
(`PartitionsMismatch … has 0 partitions`): start it once more.
"""

from __future__ import annotations

import datetime as dt
import os

import faust

WINDOW_S = 60.0
KEPT_S = 3600.0
REPORT_S = 10.0
PARTITIONS = 64
ITERATION = b"seawall.replication.iteration-finished"

app = faust.App(
    "seawall-rpo-stats",
    broker=";".join(
        f"kafka://{node}" for node in os.environ.get("SEAWALL_KAFKA", "127.0.0.1:9092").split(",")
    ),
    store="memory://",
    topic_partitions=PARTITIONS,
    # With faust's own values a worker that was killed is not replaced within 40 s.
    broker_session_timeout=6,
    broker_heartbeat_interval=1,
    broker_rebalance_timeout=10,
    consumer_auto_offset_reset="earliest",
)
events = app.topic("seawall.replicator.events", key_serializer="raw", value_serializer="json")

windows = app.Table("windows", default=dict, partitions=PARTITIONS).tumbling(
    WINDOW_S, expires=KEPT_S
)
"""Plan → {event id: [RPO reached or null, bytes sent]}, by the window of Kafka's time stamp."""

copies = app.Table("copies", default=dict, partitions=PARTITIONS)
"""Plan → {VM: the moment its newest copy is from}."""

changed: dict[tuple[float, str], dict[str, list[float | None]]] = {}
"""(start of a window, plan) → its entries, for those that changed since the last report."""


@app.agent(events)
async def count(stream: faust.Stream) -> None:
    """Enter each finished iteration into its plan's window."""
    async for event in stream.events():
        headers = dict(event.headers)
        if headers["ce_type"] == ITERATION:
            enter(event, headers["ce_id"].decode(), headers["ce_time"].decode())


def enter(event: faust.Event, event_id: str, time: str) -> None:
    """Set the event's own entry: the same again changes nothing."""
    data = event.value
    plan = str(data["plan"])
    entries = windows[plan].value()
    if event_id in entries:
        return
    entries[event_id] = [rpo_reached(plan, data, moment(time)), data.get("bytes_sent", 0)]
    windows[plan] = entries
    start = event.message.timestamp - event.message.timestamp % WINDOW_S
    changed[start, plan] = entries


def rpo_reached(plan: str, data: dict[str, str], at: dt.datetime) -> float | None:
    """How old the VM's copy was when this one replaced it; None for a first one or a failure."""
    fresh = data.get("checkpoint_at")
    if fresh is None:
        return None
    mine = copies[plan]
    before = mine.get(data["vm"])
    if before is None or before < fresh:
        copies[plan] = {**mine, data["vm"]: fresh}
    return (at - moment(before)).total_seconds() if before else None


def moment(text: str) -> dt.datetime:
    """An aware moment from its ISO form."""
    return dt.datetime.fromisoformat(text)


@app.timer(REPORT_S)
async def report() -> None:
    """Print what changed."""
    now = sorted(changed.items())
    changed.clear()
    for (start, plan), entries in now:
        at = dt.datetime.fromtimestamp(start, dt.UTC).isoformat().replace("+00:00", "Z")
        rpos = [rpo for rpo, _ in entries.values() if rpo is not None]
        rpo = f"{max(rpos):.0f} s" if rpos else "-"
        rate = sum(sent or 0 for _, sent in entries.values()) / WINDOW_S / 1e6
        line = f"{at}  {plan}  iterations {len(entries)}  rpo_max {rpo}  {rate:.1f} MB/s"
        print(line, flush=True)


if __name__ == "__main__":
    app.main()
