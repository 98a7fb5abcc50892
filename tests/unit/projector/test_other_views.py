"""Sites, alerts, commands, marks, requested jobs, and events as CloudEvents."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas import notifier, scheduler
from schemas.common import CommandSettled, Problem
from schemas.gateway import CommandAccepted
from schemas.joins import checkpoint_now
from schemas.views import Checkpoint, CloudEvent
from tests.unit.projector.history import T0, History, after, protected

SITE = "site:east"
PLAN = "plan:shop"
JOB = "recovery:shop:r1"
ALERT = "alert:shop:job-failed:shop"
CHECKPOINT = "checkpoint:shop:k1"

ADDED = scheduler.SiteAdded(site="east", platform="lab", settings={"path": "/east"})


# ── Sites ────────────────────────────────────────────────────────────────────────────────────


def test_a_site_is_there_once_it_was_added_not_when_it_was_asked_for() -> None:
    asked = scheduler.SiteRegistrationRequested(
        command_id="c1", site="east", platform="lab", settings={}
    )
    history = History().say("scheduler", SITE, asked)
    assert history.document("sites", "east") is None
    assert history.say("scheduler", SITE, ADDED).document("sites", "east").state == "unchecked"


def test_a_site_that_cannot_be_reached_keeps_what_was_known_and_says_why() -> None:
    problem = Problem(code="unreachable", message="no such folder", remedy="mount it")
    good = scheduler.SiteChecked(site="east", ok=True, facts={"networks": ["prod"]})
    bad = scheduler.SiteChecked(site="east", ok=False, problem=problem)
    history = History().say("scheduler", SITE, ADDED, good, bad)
    site = history.document("sites", "east")
    assert (site.state, site.error.remedy) == ("unreachable", "mount it")
    assert site.facts == {"networks": ["prod"]}
    again = history.say("scheduler", SITE, good).document("sites", "east")
    assert (again.state, again.error) == ("ok", None)


def test_a_removed_site_is_gone() -> None:
    history = History().say("scheduler", SITE, ADDED, scheduler.SiteRemoved(site="east"))
    assert history.document("sites", "east") is None


# ── Alerts ───────────────────────────────────────────────────────────────────────────────────

OPENED = notifier.AlertOpened(
    condition="job-failed", subject="shop", severity="major", plan="shop", title="a job failed"
)


def test_an_alert_counts_and_is_resolved() -> None:
    history = History().say("notifier", ALERT, OPENED, notifier.AlertRepeated(text="again"))
    alert = history.document("alerts", ALERT)
    assert (alert.state, alert.count, alert.text) == ("open", 2, "again")
    assert (alert.opened_at, alert.last_at) == (T0, after(1))
    done = history.say("notifier", ALERT, notifier.AlertResolved(by="condition"))
    assert done.document("alerts", ALERT).state == "resolved"


def test_a_snoozed_alert_is_silent_until_it_is_woken_or_changed() -> None:
    until = T0 + dt.timedelta(hours=1)
    history = History().say("notifier", ALERT, OPENED)
    history.say("notifier", ALERT, notifier.AlertSnoozed(until=until), actor="kim")
    alert = history.document("alerts", ALERT)
    assert (alert.state, alert.snoozed_until) == ("snoozed", until)
    history.say("notifier", ALERT, notifier.AlertSnoozeEnded())
    alert = history.document("alerts", ALERT)
    assert (alert.state, alert.snoozed_until, alert.changed_by) == ("open", None, "kim")
    history.say("notifier", ALERT, notifier.AlertSnoozed(until=until))
    history.say("notifier", ALERT, notifier.AlertAcknowledged())
    alert = history.document("alerts", ALERT)
    assert (alert.state, alert.snoozed_until) == ("acknowledged", None)


def test_an_alert_that_comes_back_begins_anew() -> None:
    history = History().say("notifier", ALERT, OPENED, notifier.AlertRepeated())
    history.say("notifier", ALERT, notifier.AlertAcknowledged(), actor="kim")
    assert history.document("alerts", ALERT).changed_by == "kim"
    history.say("notifier", ALERT, notifier.AlertResolved(by="person"), OPENED)
    alert = history.document("alerts", ALERT)
    assert (alert.state, alert.count, alert.resolved_at) == ("open", 1, None)


# ── Commands ─────────────────────────────────────────────────────────────────────────────────


def test_a_commands_answer_says_where_it_stands() -> None:
    accepted = CommandAccepted(
        command_id="c1", to="scheduler", type="scheduler.stop-plan", key="shop", actor="ops"
    )
    settled = CommandSettled(command_id="c1", outcome="refused", code="busy", message="no")
    history = History().say("gateway", "command:shop:c1", accepted)
    history.say("scheduler", PLAN, settled)
    assert history.document("command_accepts", "c1").to == "scheduler"
    answer = history.document("command_settlements", "c1")
    assert (answer.outcome, answer.code, answer.source) == ("refused", "busy", "scheduler")
    assert (answer.partition, answer.seq) == (history.rows[-1].partition, 1)


# ── What the scheduler says of jobs that others run ──────────────────────────────────────────


def test_a_requested_job_is_queued_until_it_ended() -> None:
    asked = scheduler.RecoveryRequested(
        job=JOB, mode="test", checkpoint="latest", vms=("db", "web")
    )
    history = History().say("scheduler", PLAN, asked)
    queued = history.document("job_requests", JOB)
    assert (queued.kind, queued.state, queued.vms.total) == ("test-recovery", "queued", 2)
    over = scheduler.RecoveryRecorded(job=JOB, mode="test", state="completed")
    assert history.say("scheduler", PLAN, over).document("job_requests", JOB) is None


def test_a_checkpoint_is_preserved_by_the_schedulers_word() -> None:
    asked = scheduler.CheckpointRequested(checkpoint=CHECKPOINT, vms=("db",), requested_at=T0)
    kept = scheduler.CheckpointPreservationChanged(checkpoint=CHECKPOINT, preserved=True)
    history = History().say("scheduler", PLAN, asked, kept)
    checkpoint = Checkpoint(
        id=CHECKPOINT, plan="shop", plan_version=1, state="available", created_at=T0
    )
    mark = history.document("checkpoint_marks", CHECKPOINT)
    assert checkpoint_now(checkpoint, mark).preserved
    assert not checkpoint_now(checkpoint, None).preserved


def test_the_mark_of_a_deleted_checkpoint_goes() -> None:
    asked = scheduler.CheckpointRequested(checkpoint=CHECKPOINT, vms=("db",), requested_at=T0)
    gone = scheduler.CheckpointRecorded(checkpoint=CHECKPOINT, state="deleted", created_at=T0)
    history = History().say("scheduler", PLAN, asked, gone)
    assert history.document("checkpoint_marks", CHECKPOINT) is None


# ── Events ───────────────────────────────────────────────────────────────────────────────────


def test_an_event_is_a_cloud_event_with_its_data_as_stored() -> None:
    stream = "protected-vm:shop:db"
    history = History().say("scheduler", stream, protected())
    (row,) = history.model().events
    event = msgspec.json.decode(row.doc, type=CloudEvent)
    assert (event.specversion, event.type) == ("1.0", "seawall.scheduler.vm-protected")
    assert (event.source, event.subject) == ("/seawall/scheduler", stream)
    assert (event.seawallplan, event.seawalljob, event.actor) == ("shop", "", "ops")
    assert bytes(event.data) == history.rows[0].data
    assert event.id == history.rows[0].event_id


def test_only_facts_of_streams_are_events() -> None:
    settled = CommandSettled(command_id="c1", outcome="done")
    history = History().say("scheduler", PLAN, settled).say("notifier", ALERT, OPENED)
    assert [row.type for row in history.model().events] == ["seawall.alert.opened"]


def test_attributes_that_would_be_empty_are_left_out() -> None:
    history = History().say("scheduler", SITE, ADDED)
    document = msgspec.json.decode(history.model().events[0].doc)
    assert not {"seawallplan", "seawalljob", "causationid"} & set(document)
