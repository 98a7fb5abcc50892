"""What a reader of the lossy progress topic makes of its messages."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.views import Progress
from shared.bus.kafka.progress import newest

AT = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


def moment(job: str, done: int) -> Progress:
    return Progress(
        job=job, bytes_done=done, bytes_total=100, percent=float(done), rate=1.0, at=AT
    )


def test_only_the_newest_of_each_job_counts() -> None:
    told = [moment("a", 1), moment("b", 7), moment("a", 2)]
    assert newest(map(msgspec.json.encode, told)) == [moment("a", 2), moment("b", 7)]


def test_a_message_that_is_none_of_ours_is_left_out() -> None:
    assert newest([None, b"{}", b"nonsense", msgspec.json.encode(moment("a", 1))]) == [
        moment("a", 1)
    ]
