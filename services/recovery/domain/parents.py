"""Which job hears of a recovery or cleanup that it asked for: a search, a group, its cleanup,
a commit.

Owns the dispatch by what the parent is; what the news means to it is the parent's own. A parent
that this service does not know (its log was restored without it) hears nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.envelope import Received
from services.recovery.domain import clean_point, commit, group, group_cleanup
from services.recovery.domain.clean_point_state import Search
from services.recovery.domain.commit import Commit
from services.recovery.domain.group import Group
from services.recovery.domain.group_cleanup import GroupCleanup
from shared.decider import NOTHING, Decision


def started(state: Any, received: Received) -> Decision:
    """A recovery that was asked for runs."""
    if isinstance(state, Search):
        return clean_point.child_started(state, received)
    return group.child_started(state, received) if isinstance(state, Group) else NOTHING


def refused(state: Any, received: Received) -> Decision:
    """A recovery that was asked for could not start."""
    if isinstance(state, Search):
        return clean_point.child_refused(state, received)
    return group.child_refused(state, received) if isinstance(state, Group) else NOTHING


def ended(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery that was asked for ended; its own stream says with which instances."""
    parent, job = received.body.parent, received.body.job
    state = states[parent]
    if isinstance(state, Search):
        return {parent: clean_point.child_ended(state, states[job], received)}
    if isinstance(state, Group):
        return {parent: group.child_ended(state, states[job], received)}
    return {}


def cleaned(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A cleanup that was asked for came back."""
    parent = received.body.parent
    state = states[parent]
    if isinstance(state, Search):
        return {parent: clean_point.child_cleaned(state, received)}
    if isinstance(state, Commit):
        return {parent: commit.cleaned(state, received)}
    if isinstance(state, GroupCleanup):
        return group_cleanup.child_cleaned(states, received)
    return {}


def beyond(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The group that a cleanup of a group reports to, once that cleanup is known."""
    state = states[received.body.parent]
    found = group_cleanup.group_of(state) if isinstance(state, GroupCleanup) else ""
    return (found,) if found else ()
