"""A row survives the way through a Kafka message; what is none of ours is said to be so."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Meta, Recorded
from shared.bus.kafka.binding import Unreadable, to_message, to_row

NAMES = st.text(st.characters(exclude_characters=":/", exclude_categories=["Cs"]), min_size=1)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC))
ROWS = st.builds(
    Recorded,
    source=st.sampled_from(["gateway", "scheduler"]),
    epoch=st.integers(1, 10**6),
    topic=st.just("seawall.scheduler.commands"),
    partition=st.integers(0, 63),
    seq=st.integers(1, 2**60),
    stream=st.builds(
        "{}:{}:{}".format, st.sampled_from(["plan", "site", "iteration"]), NAMES, NAMES
    ),
    version=st.integers(0, 10**6),
    type=st.sampled_from(["scheduler.plan-applied", "replication.iteration-started"]),
    schema_version=st.integers(1, 9),
    data=st.just(b'{"a": 1}'),
    meta=st.builds(
        Meta,
        occurred_at=MOMENTS,
        actor=st.text(max_size=9),
        correlation_id=st.text(max_size=9),
        causation_id=st.text(max_size=9),
        traceparent=st.text(max_size=9),
    ),
)
ROW = Recorded(
    source="scheduler", epoch=2, topic="seawall.scheduler.events", partition=7, seq=41,
    stream="iteration:shop:db:1", version=3, type="replication.iteration-started",
    schema_version=1, data=b'{"a": 1}',
    meta=Meta(occurred_at=dt.datetime(2026, 11, 22, 20, 0, 0, 123456, tzinfo=dt.UTC)),
)  # fmt: skip


@given(ROWS)
def test_a_row_comes_back_as_it_was(row: Recorded) -> None:
    message = to_message(row)
    assert to_row(row.topic, row.partition, message.value, message.headers) == row


def test_a_message_is_a_cloudevent_in_binary_mode() -> None:
    message = to_message(ROW)
    headers = dict(message.headers)
    assert message.key == b"shop"
    assert message.value == b'{"a": 1}'
    assert headers["content-type"] == b"application/json"
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == b"scheduler.2.seawall.scheduler.events.7.41"
    assert headers["ce_source"] == b"/seawall/scheduler"
    assert headers["ce_type"] == b"seawall.replication.iteration-started"
    assert headers["ce_subject"] == b"iteration:shop:db:1"
    assert headers["ce_time"] == b"2026-11-22T20:00:00.123456+00:00"
    assert headers["ce_seawallplan"] == b"shop"
    assert headers["ce_seawalljob"] == b"iteration:shop:db:1"
    assert "ce_correlationid" not in headers


@pytest.mark.parametrize("missing", ["ce_source", "ce_seq", "ce_time", "ce_type"])
def test_a_message_that_lacks_an_attribute_is_unreadable(missing: str) -> None:
    message = to_message(ROW)
    headers = [each for each in message.headers if each[0] != missing]
    with pytest.raises(Unreadable, match=missing):
        to_row(ROW.topic, ROW.partition, message.value, headers)


def test_a_message_of_somebody_else_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        to_row("seawall.scheduler.events", 0, b"hello", [])
