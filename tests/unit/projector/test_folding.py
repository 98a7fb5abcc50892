"""Folding is the same however rows are batched, and in whatever order topics arrive."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import registry
from schemas.envelope import Recorded
from schemas.folds import VIEWS
from schemas.folds.router import Router
from schemas.joins import DONE_STEPS
from schemas.views import ENDED
from services.projector.model import MemoryReadModel, project
from services.projector.projection import Documents, fold
from shared.eventlog.port import Fenced
from tests.unit.projector.history import History, projected, protected
from tests.unit.recovery import world as recovery
from tests.unit.replicator import world as replicator


def a_history() -> list[Recorded]:
    """What three services said: a plan replicated, checkpointed, recovered and cleaned."""
    history = History()
    history.say("scheduler", "protected-vm:shop:db", protected())
    copying = replicator.World(disk_count=2)
    copying.deliver(replicator.start())
    copying.run()
    for stream, event in copying.log:
        history.say("replicator", stream, event)
    recovering = recovery.World()
    for each in (recovery.vm("db"), recovery.vm("web", 2)):
        recovering.deliver(recovery.enrol(each))
    recovering.deliver(recovery.start(recovery.vm("db"), recovery.vm("web", 2)))
    recovering.run()
    for stream, event, _ in recovering.log:
        history.say("recovery", stream, event)
    return history.rows


ROWS = a_history()


def content(model: MemoryReadModel) -> dict[str, Any]:
    return {**model.tables, "events": sorted(model.events)}


def test_the_history_is_one_worth_folding() -> None:
    model = projected(ROWS)
    assert len(model.tables["jobs"]) > 5 and len(model.events) == len(ROWS)
    assert all(job.state in ENDED for job in model.tables["jobs"].values())


@given(batch=st.integers(1, len(ROWS)))
def test_batches_of_any_size_end_in_the_same_rows(batch: int) -> None:
    assert content(projected(ROWS, batch=batch)) == content(projected(ROWS))


@given(data=st.data())
def test_sources_in_any_order_end_in_the_same_rows(data: st.DataObject) -> None:
    waiting = {source: [r for r in ROWS if r.source == source] for source in
               {row.source for row in ROWS}}  # fmt: skip
    mixed: list[Recorded] = []
    while any(waiting.values()):
        source = data.draw(st.sampled_from(sorted(s for s, rows in waiting.items() if rows)))
        mixed.append(waiting[source].pop(0))
    assert content(projected(mixed, batch=7)) == content(projected(ROWS))


@given(upto=st.integers(1, len(ROWS)))
def test_at_every_moment_jobs_are_consistent(upto: int) -> None:
    for job in projected(ROWS[:upto]).tables["jobs"].values():
        assert 0.0 <= job.percent <= 100.0
        assert (job.ended_at is not None) == (job.state in ENDED)
        if job.state in ENDED:
            assert all(step.state in DONE_STEPS for step in job.steps)
        assert all(0.0 <= step.percent <= 100.0 for step in job.steps)


def test_folding_changes_no_document_in_place() -> None:
    router, documents = Router(), Documents(count_max=1_000)
    documents.complete = True
    works = [router.work(row) for row in ROWS]
    documents.missing(works)
    first = fold(works, documents)
    assert fold(works, documents).documents == first.documents


def test_a_batch_that_does_not_follow_the_cursors_writes_nothing() -> None:
    model = MemoryReadModel()
    project(ROWS[:5], model)
    before = content(model)
    with pytest.raises(Fenced):
        project(ROWS[:5], model)
    assert content(model) == before


def test_documents_are_dropped_past_the_bound_and_asked_for_again() -> None:
    router, documents = Router(), Documents(count_max=2)
    documents.complete = True
    works = [router.work(row) for row in ROWS]
    documents.missing(works)
    documents.committed(fold(works, documents))
    documents.trim()
    assert not documents.complete
    assert sum(map(len, documents.missing(works[:20]))) > 0


def test_every_type_that_is_routed_is_published_and_every_view_has_its_own_table() -> None:
    assert len({view.table for view in VIEWS}) == len(VIEWS)
    for view in VIEWS:
        for event in view.routes:
            registry.name_of(event)


@pytest.mark.parametrize(
    "change", [{"type": "scheduler.of-a-newer-build"}, {"schema_version": 99}], ids=str
)
def test_what_a_newer_build_says_is_not_skipped(change: dict[str, Any]) -> None:
    fields = {name: getattr(ROWS[0], name) for name in ROWS[0].__struct_fields__}
    with pytest.raises(registry.UnknownType):
        Router().work(Recorded(**{**fields, **change}))


def test_documents_survive_their_stored_form() -> None:
    model = projected(ROWS)
    for view in VIEWS:
        for document in model.tables[view.table].values():
            stored = msgspec.json.encode(document)
            assert msgspec.json.decode(stored, type=view.document) == document
