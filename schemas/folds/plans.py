"""Plans: the version that stands, and what the last recovery achieved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.envelope import Recorded
from schemas.folds.base import Column, Route, View, at
from schemas.ids import key_of
from schemas.views import LastRecovery, Plan, Rpo, Rto

_replace = msgspec.structs.replace


def _row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (key_of(recorded.stream),)


def _applied(doc: Plan | None, event: said.PlanApplied, recorded: Recorded, row: str) -> Plan:
    header = event.header
    return Plan(
        name=event.plan,
        version=event.plan_version,
        protected_site=header.protected.site,
        recovery_site=header.recovery_site.site,
        rpo=Rpo(target_s=header.targets.rpo_s),
        rto=Rto(target_s=header.targets.rto_s, last_s=doc.rto.last_s if doc else None),
        vm_names=event.vms,
        digest=event.digest,
        priority=header.replication.priority,
        definition=header,
        last_recovery=doc.last_recovery if doc else None,
        quarantined=tuple(
            site
            for site in (doc.quarantined if doc else ())
            if site in (header.protected.site, header.recovery_site.site)
        ),
        actor=recorded.meta.actor,
        created_at=doc.created_at if doc else at(recorded),
        applied_at=at(recorded),
    )


def _prioritised(
    doc: Plan | None, event: said.PlanPrioritised, recorded: Recorded, row: str
) -> Plan | None:
    return None if doc is None else _replace(doc, priority=event.priority)


def _recovered(
    doc: Plan | None, event: said.RecoveryRecorded, recorded: Recorded, row: str
) -> Plan | None:
    if doc is None or event.dry_run:
        return doc
    last = LastRecovery(
        job=event.job,
        mode=event.mode,
        state=event.state,
        rto_s=event.rto_s,
        ended_at=at(recorded),
    )
    rto = doc.rto if event.rto_s is None else _replace(doc.rto, last_s=event.rto_s)
    return _replace(doc, last_recovery=last, rto=rto)


def _quarantined(
    doc: Plan | None, event: said_ops.PlanQuarantined, recorded: Recorded, row: str
) -> Plan | None:
    return doc and _replace(doc, quarantined=(*doc.quarantined, event.site))


def _quarantine_ended(
    doc: Plan | None, event: said_ops.PlanQuarantineEnded, recorded: Recorded, row: str
) -> Plan | None:
    left = tuple(site for site in doc.quarantined if site != event.site) if doc else ()
    return doc and _replace(doc, quarantined=left)


def _deleted(doc: Plan | None, event: said.PlanDeleted, recorded: Recorded, row: str) -> None:
    return None


VIEW = View(
    table="plans",
    document=Plan,
    columns=(Column("version", "int", lambda plan: plan.version),),
    routes={
        said.PlanApplied: (Route(_applied, _row),),
        said.PlanPrioritised: (Route(_prioritised, _row),),
        said.RecoveryRecorded: (Route(_recovered, _row),),
        said_ops.PlanQuarantined: (Route(_quarantined, _row),),
        said_ops.PlanQuarantineEnded: (Route(_quarantine_ended, _row),),
        said.PlanDeleted: (Route(_deleted, _row),),
    },
)
