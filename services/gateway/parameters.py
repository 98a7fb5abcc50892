"""The query parameters that each path takes: one table for the check and for the description.

What a path does not take is refused, never ignored: a filter with a typing error would otherwise
show everything as if it were what was asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final, get_args

from aiohttp import web

from schemas.common import JobState
from schemas.notifier import Severity
from schemas.sync_state import SyncState
from schemas.views import AlertState, CheckpointState, JobKind
from services.gateway.problems import Invalid

LISTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "sites": ("platform", "state"),
    "nodes": ("site", "kind", "state"),
    "plans": ("protected_site", "recovery_site"),
    "vms": ("plan", "vm", "sync_state"),
    "checkpoints": ("plan", "state"),
    "jobs": ("plan", "vm", "kind", "state", "parent_id"),
    "alerts": ("plan", "state", "severity"),
    "events": ("plan", "job", "type"),
}
"""Listing → the filters it takes."""

_COMING: Final = ("readiness", "drill")
"""Kinds of jobs that are promised and that no job of this version has."""

VALUES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "sites": {"state": ("unchecked", "ok", "unreachable")},
    "nodes": {
        "kind": ("replication", "prep"),
        "state": ("online", "offline", "unknown", "off", "starting", "stopping"),
    },
    "vms": {"sync_state": get_args(SyncState)},
    "checkpoints": {"state": get_args(CheckpointState)},
    "jobs": {"state": get_args(JobState), "kind": (*get_args(JobKind), *_COMING)},
    "alerts": {"state": get_args(AlertState), "severity": get_args(Severity)},
}
"""Listing → the values that a filter of it can have: another one would silently show nothing."""

TIMED: Final = frozenset({"checkpoints", "jobs", "alerts", "events"})
"""Listings of what has a moment: they take `since` and `until`. The others are of what stands."""

PLAN: Final = "/v1/plans/{name}"
TRAVELLED: Final = frozenset({PLAN, "/v1/jobs/{job}"})
"""What is also shown as it was at a moment: they take `at`; a plan of many VMs and a
long past also takes the one `vm` that is wanted."""

PAGING: Final = ("limit", "cursor")
STREAM: Final = ("plan", "job", "type", "after")
_PREFIX: Final = "/v1/"


def allowed(method: str, path: str) -> tuple[str, ...]:
    """The query parameters of a path below /v1, as its route spells it."""
    if method not in ("GET", "HEAD"):
        return ("wait",)
    if path == "/v1/events/stream":
        return STREAM
    if path == "/v1/queue":
        return ("plan", *PAGING)
    if path.endswith("/calls"):
        return PAGING
    if path in TRAVELLED:
        return ("at", "vm") if path == PLAN else ("at",)
    view = path.removeprefix(_PREFIX)
    if view not in LISTINGS:
        return ()
    times = ("since", "until") if view in TIMED else ()
    order = ("order",) if view == "events" else ()
    return (*LISTINGS[view], *PAGING, *times, *order)


def check_parameters(request: web.Request) -> None:
    """Raise Invalid for parameters that the request's path does not take, or values that they
    cannot have."""
    resource = request.match_info.route.resource
    if resource is None or not resource.canonical.startswith(_PREFIX):
        return
    known = allowed(request.method, resource.canonical)
    _check_plain(request)
    _check_values(request, resource.canonical.removeprefix(_PREFIX))
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        named = ", ".join(repr(name[:60]) for name in unknown[:10])
        raise Invalid(
            f"unknown query parameter{'s' if len(unknown) > 1 else ''} {named}",
            remedy=f"allowed: {', '.join(known)}" if known else "this path takes none",
            details={"unknown": unknown[:10]},
        )


def is_plain(value: str) -> bool:
    """Whether a text is without control characters and lone surrogates.

    The database holds neither, so that nothing can have them.
    """
    return value.isprintable()


def _check_plain(request: web.Request) -> None:
    """Raise Invalid for a value that no text of ours can have."""
    for name, value in request.query.items():
        if not is_plain(value):
            raise Invalid(
                f"{name[:60]}: found {value[:60]!r}",
                remedy=f"{name[:60]} is a text in UTF-8 without control characters",
            )


def _check_values(request: web.Request, view: str) -> None:
    """Raise Invalid for a filter's value that nothing can have."""
    for name, values in VALUES.get(view, {}).items():
        value = request.query.get(name)
        if value is None or value in values:
            continue
        near = difflib.get_close_matches(value[:60].lower(), values, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise Invalid(
            f"{name}: found {value[:60]!r}{meant}", remedy=f"allowed: {', '.join(values)}"
        )
