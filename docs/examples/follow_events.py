"""Follow Seawall's events on Kafka: one line per event, each once, going on where it stopped.

    pip install aiokafka
    python follow_events.py --kafka 127.0.0.1:9092 [--state follow.json] [--plan shop]

Delivery is at least once, so an event may come again: after a broker or a relay died, or after
this program did. `ce_id` tells: it is made of source, epoch, topic, partition and seq, and seq is
dense within the others. So remembering the last (epoch, seq) of each partition is remembering
every id that was ever seen, in constant space. It is kept beside the offset, in one file that is
replaced whole; a group's committed offsets would know the place, but not the repeats. A crash
between printing and keeping prints a batch again, and never loses one: who writes to a database
keeps the place in the same transaction.

The topics must exist: it does not ask brokers for ones that do not, because brokers that make
topics on request make them with other settings than Seawall wants, which then refuses to start.
A record that is none of Seawall's (a tombstone, a stranger's) is told on standard error and
passed. SIGTERM and Ctrl-C end it after the batch in hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError

SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier")
PARTITIONS = 64
BATCH_MAX = 500
POLL_MS = 1000


class Place:
    """How far each partition was read: the next offset, and the last event's epoch and seq."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, list[int]] = json.loads(path.read_text()) if path.exists() else {}

    def offset(self, where: TopicPartition) -> int | None:
        """Where to go on; None where nothing was read yet."""
        place = self._places.get(f"{where.topic}/{where.partition}")
        return place[0] if place else None

    def take(self, record: ConsumerRecord, epoch: int, seq: int) -> bool:
        """Move past a record. False if its event was seen before."""
        key = f"{record.topic}/{record.partition}"
        _, last_epoch, last_seq = self._places.get(key, [0, 0, 0])
        if epoch < last_epoch or (epoch == last_epoch and seq <= last_seq):
            self._places[key] = [record.offset + 1, last_epoch, last_seq]
            return False
        if epoch > last_epoch > 0:
            print(f"{key}: the log was restored, epoch {epoch}", file=sys.stderr)
        elif last_seq and seq != last_seq + 1:
            # The topic's retention was shorter than our absence: read what is missing over HTTP.
            print(f"{key}: {seq - last_seq - 1} events are missing", file=sys.stderr)
        self._places[key] = [record.offset + 1, epoch, seq]
        return True

    def skip(self, record: ConsumerRecord) -> None:
        """Move past a record that holds no event."""
        key = f"{record.topic}/{record.partition}"
        _, epoch, seq = self._places.get(key, [0, 0, 0])
        self._places[key] = [record.offset + 1, epoch, seq]

    def save(self) -> None:
        """Replace the file, so that a crash, of the machine too, leaves the old or the new one."""
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(self._places, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def line_of(headers: dict[str, str], data: dict[str, object]) -> str:
    """One event as a line: when, what, which stream, and what it says."""
    shown = " ".join(f"{name}={value!r}" for name, value in data.items() if is_short(value))
    return f"{headers['ce_time']}  {headers['ce_type']}  {headers['ce_subject']}  {shown}"


def is_short(value: object) -> bool:
    """Whether a field fits a line."""
    return isinstance(value, str | int | float) and len(str(value)) <= 40


async def follow(asked: argparse.Namespace, place: Place, stopped: asyncio.Event) -> None:
    """Print events until `stopped`."""
    topics = [f"{asked.prefix}seawall.{service}.events" for service in SERVICES]
    # Without a group every partition is ours; the offsets are our own.
    consumer = AIOKafkaConsumer(
        bootstrap_servers=asked.kafka, group_id=None, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        if missing := sorted(set(topics) - await consumer.topics()):
            sys.exit(f"no topic {', '.join(missing)} at {asked.kafka}: has Seawall run there?")
        consumer.assign([TopicPartition(topic, n) for topic in topics for n in range(PARTITIONS)])
        for where in consumer.assignment():
            if (offset := place.offset(where)) is not None:
                consumer.seek(where, offset)
        while not stopped.is_set():
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_MAX)
            for record in (record for batch in batches.values() for record in batch):
                show(record, place, asked.plan)
            if batches:
                place.save()
    finally:
        await consumer.stop()


def show(record: ConsumerRecord, place: Place, plan: str) -> None:
    """Print a record's event, unless it came before or is of another plan."""
    headers = {name: value.decode() for name, value in record.headers if value}
    if "ce_id" not in headers or record.value is None:
        where = f"{record.topic}/{record.partition}, offset {record.offset}"
        print(f"{where}: none of Seawall's events", file=sys.stderr)
        place.skip(record)
        return
    if not place.take(record, int(headers["ce_epoch"]), int(headers["ce_seq"])):
        return
    if not plan or headers.get("ce_seawallplan") == plan:
        print(line_of(headers, json.loads(record.value)), flush=True)


async def main() -> None:
    """Read the arguments; follow until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Follow Seawall's events on Kafka.")
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="host:port,…")
    parser.add_argument("--prefix", default="", help="Seawall's SEAWALL_KAFKA_PREFIX")
    parser.add_argument("--state", type=Path, default=Path("follow.json"), help="where it stands")
    parser.add_argument("--plan", default="", help="only this plan's events")
    asked = parser.parse_args()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await follow(asked, Place(asked.state), stopped)
    except KafkaConnectionError as error:
        sys.exit(f"no broker answers at {asked.kafka}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
