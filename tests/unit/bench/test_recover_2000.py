"""What the recovery benchmark says of a call journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.recover_2000 import Journal, excess


@pytest.mark.parametrize(
    ("moments", "over"),
    [
        ([], 0.0),
        ([0.0] * 5, 0.0),
        ([0.0] * 7, 2.0),
        ([0.0] * 5 + [1.0, 1.0, 2.0], 0.0),
        ([0.0] * 5 + [0.5, 0.6], 0.8),
        # A bucket fills up to its burst and no further, however long nobody asks.
        ([0.0] + [60.0] * 6, 1.0),
    ],
)
def test_calls_beyond_burst_and_rate_are_counted(moments: list[float], over: float) -> None:
    assert excess(moments, 5, 2) == pytest.approx(over)


def test_a_journal_is_judged_by_when_the_site_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"call": "older"}\n')
    journal = Journal(path)
    line = {"call": "power_on", "key": "k", "vm": "db", "job": "j", "bytes": 0}
    told = [
        {**line, "outcome": "throttled", "at": "2026-11-29T12:00:00Z"},
        {
            **line,
            "outcome": "ok",
            "at": "2026-11-29T12:00:09Z",
            "asked_at": "2026-11-29T12:00:01Z",
        },
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in told)[:-20])
        file.flush()
        journal.read()
        assert journal.power_ons == {}
        file.write((json.dumps(told[1]) + "\n")[-20:])
    journal.read()
    assert [*journal.power_ons] == ["db"] and not journal.twice
    assert journal.throttled_pct(after=0) == 50
    assert journal.over_budget() == {"StartInstances": 0.0}
