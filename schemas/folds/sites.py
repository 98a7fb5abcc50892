"""Sites: what was added, and what the last check of each found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.envelope import Recorded
from schemas.folds.base import Route, View, at, error_of
from schemas.ids import key_of
from schemas.views import Site


def _row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (key_of(recorded.stream),)


def _added(doc: Site | None, event: said.SiteAdded, recorded: Recorded, row: str) -> Site:
    site = Site(
        name=event.site,
        platform=event.platform,
        settings=event.settings,
        credentials=event.credentials,
        added_at=at(recorded),
    )
    if doc is None:
        return site
    return msgspec.structs.replace(
        doc, platform=site.platform, settings=site.settings, credentials=site.credentials
    )


def _checked(
    doc: Site | None, event: said.SiteChecked, recorded: Recorded, row: str
) -> Site | None:
    if doc is None:
        return None
    return msgspec.structs.replace(
        doc,
        state="ok" if event.ok else "unreachable",
        facts=event.facts if event.ok else doc.facts,
        error=error_of(event.problem),
        checked_at=at(recorded),
    )


def _quarantined(
    doc: Site | None, event: said_ops.SiteQuarantined, recorded: Recorded, row: str
) -> Site | None:
    return doc and msgspec.structs.replace(doc, quarantined=True)


def _quarantine_ended(
    doc: Site | None, event: said_ops.SiteQuarantineEnded, recorded: Recorded, row: str
) -> Site | None:
    return doc and msgspec.structs.replace(
        doc, quarantined=False, originals=None, doubled=0, originals_named=()
    )


def _originals(
    doc: Site | None, event: said_ops.SiteOriginalsFound, recorded: Recorded, row: str
) -> Site | None:
    return doc and msgspec.structs.replace(
        doc, originals=event.running, doubled=event.doubled, originals_named=event.vms
    )


def _removed(doc: Site | None, event: said.SiteRemoved, recorded: Recorded, row: str) -> None:
    return None


VIEW = View(
    table="sites",
    document=Site,
    routes={
        said.SiteAdded: (Route(_added, _row),),
        said.SiteChecked: (Route(_checked, _row),),
        said_ops.SiteQuarantined: (Route(_quarantined, _row),),
        said_ops.SiteQuarantineEnded: (Route(_quarantine_ended, _row),),
        said_ops.SiteOriginalsFound: (Route(_originals, _row),),
        said.SiteRemoved: (Route(_removed, _row),),
    },
)
