"""The sync states of product.md §2, from the events of a VM."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.sync_state import NEW, fold_sync, sync_state

T0 = dt.datetime(2026, 11, 22, 20, tzinfo=dt.UTC)
RESET = said.VmReset()
LOST = said.VmReset(lost=True)
STARTED = said.IterationDispatched(iteration="i", tick_at=T0, due_at=T0)
QUEUED = said.TickQueued(tick_at=T0)
JOINED = said.TickQueued(tick_at=T0, run="r")
SLOW = said.TickQueued(tick_at=T0, run="r", group=True)


def ended(state: Any, *, copied: bool = False, resync: bool = False) -> said.IterationRecorded:
    return said.IterationRecorded(
        iteration="i", state=state, checkpoint_at=T0 if copied else None, resync=resync
    )


DONE = ended("completed", copied=True)
FAILED = ended("failed")
CANCELLED = ended("cancelled")
COPIED = (STARTED, DONE)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), "init-success"),
        ((STARTED,), "init-sync-in-progress"),
        ((STARTED, QUEUED), "init-sync-in-progress"),
        ((STARTED, FAILED), "init-sync-failed"),
        ((STARTED, CANCELLED), "init-success"),
        ((STARTED, FAILED, STARTED), "init-sync-in-progress"),
        (COPIED, "in-sync"),
        ((*COPIED, STARTED), "sync-in-progress"),
        ((*COPIED, STARTED, QUEUED), "exceeded-interval"),
        ((*COPIED, STARTED, SLOW), "exceeded-interval"),
        ((*COPIED, STARTED, JOINED), "sync-in-progress"),
        ((*COPIED, STARTED, QUEUED, DONE, STARTED), "sync-in-progress"),
        ((*COPIED, STARTED, FAILED), "sync-failed"),
        ((*COPIED, STARTED, CANCELLED), "in-sync"),
        ((*COPIED, STARTED, FAILED, *COPIED), "in-sync"),
        ((*COPIED, STARTED, ended("partially-completed", copied=True)), "in-sync"),
        ((*COPIED, STARTED, ended("partially-completed")), "sync-failed"),
        ((*COPIED, RESET), "resync-in-progress"),
        ((*COPIED, RESET, STARTED), "resync-in-progress"),
        ((*COPIED, RESET, *COPIED), "resync-success"),
        ((*COPIED, RESET, *COPIED, *COPIED), "in-sync"),
        ((*COPIED, RESET, STARTED, FAILED), "resync-failed"),
        ((*COPIED, RESET, STARTED, CANCELLED), "resync-in-progress"),
        ((*COPIED, STARTED, ended("completed", copied=True, resync=True)), "resync-success"),
        ((*COPIED, STARTED, RESET, DONE), "resync-in-progress"),
        ((*COPIED, LOST), "init-success"),
    ],
)
def test_the_state_follows_from_the_events(events: tuple[Any, ...], expected: str) -> None:
    facts = NEW
    for event in events:
        facts = fold_sync(facts, event)
    assert sync_state(facts) == expected
