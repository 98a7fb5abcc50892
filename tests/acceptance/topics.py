"""Judges what stands in the topics against the logs: every row, in order, without a gap."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.envelope import commands_topic, events_topic
from schemas.ids import PARTITIONS
from shared.process import LOGGED_SERVICES

PUBLISHED_S_MAX = 30.0
Where = tuple[str, str, int]
"""(source, topic, partition)."""


async def judge_topics(servers: str, dsn: str) -> tuple[int, list[str]]:
    """Rows in the topics, and each gap: a row whose predecessor does not stand before it."""
    deadline = asyncio.get_running_loop().time() + PUBLISHED_S_MAX
    while True:
        heads = await _heads(dsn)
        reached, gaps = await _read(servers)
        late = [f"{w} ends at {reached.get(w, 0)} of {n}" for w, n in heads.items()
                if reached.get(w, 0) < n]  # fmt: skip
        ahead = [f"{w} is at {n}, its log at {heads.get(w, 0)}" for w, n in reached.items()
                 if n > heads.get(w, 0)]  # fmt: skip
        if not late or asyncio.get_running_loop().time() > deadline:
            return sum(reached.values()), [*gaps, *late, *ahead]
        await asyncio.sleep(0.5)


async def _heads(dsn: str) -> dict[Where, int]:
    connection = await asyncpg.connect(dsn)
    try:
        return {
            (service, row["topic"], row["partition"]): row["seq"]
            for service in LOGGED_SERVICES
            for row in await connection.fetch(f'select * from "{service}".heads')
        }
    finally:
        await connection.close()


async def _read(servers: str) -> tuple[dict[Where, int], list[str]]:
    """How far each log stands in its topic without a gap, and the gaps."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers.split(","), enable_auto_commit=False,
        auto_offset_reset="earliest",
    )  # fmt: skip
    reached: defaultdict[Where, int] = defaultdict(int)
    gaps: list[str] = []
    await consumer.start()
    try:
        names = [
            make(service) for service in LOGGED_SERVICES for make in (events_topic, commands_topic)
        ]
        partitions = [TopicPartition(name, n) for name in names for n in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        for partition, offset in begins.items():
            consumer.seek(partition, offset)
        left = {p for p in partitions if ends[p] > begins[p]}
        while left:
            batches = await consumer.getmany(*left, timeout_ms=1000)
            for partition, messages in batches.items():
                for message in messages:
                    _apply(partition, message, reached, gaps)
            left = {p for p in left if await consumer.position(p) < ends[p]}
    finally:
        await consumer.stop()
    return dict(reached), gaps


def _apply(
    partition: TopicPartition, message: Any, reached: dict[Where, int], gaps: list[str]
) -> None:
    headers = dict(message.headers)
    where = (
        headers["ce_source"].decode().rpartition("/")[2],
        partition.topic,
        partition.partition,
    )
    seq = int(headers["ce_seq"])
    if seq > reached[where] + 1:
        gaps.append(f"{where}: {seq} follows {reached[where]}")
    reached[where] = max(reached[where], seq)
