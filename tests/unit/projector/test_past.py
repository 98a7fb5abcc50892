"""What was at a moment is what the read models would have if the logs had ended there."""

from __future__ import annotations

import datetime as dt

import pytest

from schemas import registry, scheduler
from schemas.envelope import Recorded
from schemas.folds import VIEWS
from schemas.folds.folded import Folded
from schemas.language import import_all
from shared.eventlog.past import Cut, stream_of, streams_under
from tests.unit.projector.history import History, after, projected, protected
from tests.unit.projector.test_folding import a_history

EVERY_TABLE = [view.table for view in VIEWS]


def by_stream(rows: list[Recorded]) -> list[Recorded]:
    """As a log gives them: stream by stream."""
    return sorted(rows, key=lambda row: (row.source, row.stream, row.version))


def test_the_fold_of_what_had_happened_is_the_projection_of_it() -> None:
    rows = [row for row in a_history() if row.version > 0]
    moments = sorted({row.meta.occurred_at for row in rows})
    assert len(moments) > 5
    for moment in (moments[0] - dt.timedelta(seconds=1), *moments):
        folded = Folded(EVERY_TABLE)
        folded.take(Cut(moment).before(by_stream(rows)))
        then = projected([row for row in rows if row.meta.occurred_at <= moment])
        assert folded.tables == then.tables, moment


def test_pages_may_be_cut_anywhere() -> None:
    rows = by_stream([row for row in a_history() if row.version > 0])
    moment = sorted(row.meta.occurred_at for row in rows)[len(rows) // 2]
    whole, paged = Folded(EVERY_TABLE), Folded(EVERY_TABLE)
    whole.take(Cut(moment).before(rows))
    cut = Cut(moment)
    for row in rows:
        paged.take(cut.before([row]))
    assert paged.tables == whole.tables


def test_only_what_was_asked_for_is_folded() -> None:
    folded = Folded(("vms",))
    folded.take(a_history())
    assert set(folded.tables) == {"vms"}
    assert folded.tables["vms"]
    wanted = set(registry.names()) - set(folded.passed_over)
    assert "scheduler.vm-protected" in wanted
    assert "scheduler.plan-applied" not in wanted


def test_a_type_of_a_newer_build_is_met_not_passed_over() -> None:
    import_all()
    folded = Folded(("vms",))
    assert "scheduler.from-tomorrow" not in folded.passed_over
    (row,) = History().say("scheduler", "protected-vm:shop:db", protected()).rows
    unknown = {name: getattr(row, name) for name in Recorded.__struct_fields__}
    with pytest.raises(registry.UnknownType):
        folded.take([Recorded(**{**unknown, "type": "scheduler.from-tomorrow"})])


def test_a_stream_ends_at_its_first_later_event_whatever_clocks_say_after_it() -> None:
    stream = "protected-vm:shop:db"
    history = History().at(0).say("scheduler", stream, protected())
    history.at(20).say("scheduler", stream, scheduler.VmStarted(next_due_at=after(60)))
    history.at(5).say("scheduler", stream, scheduler.VmStopped())
    cut = Cut(after(10))
    kept = cut.before(history.rows)
    assert [row.version for row in kept] == [1]
    assert cut.is_over(stream)
    assert cut.began_at == after(0)


def test_a_moment_itself_is_part_of_what_had_happened() -> None:
    history = History().at(0).say("scheduler", "protected-vm:shop:db", protected())
    assert len(Cut(after(0)).before(history.rows)) == 1
    early = Cut(after(-1))
    assert early.before(history.rows) == []
    assert early.began_at == after(0)


def test_stretches_hold_their_streams_and_no_others() -> None:
    one = stream_of("scheduler", "protected-vm:shop:db")
    streams = ["protected-vm:shop:db", "protected-vm:shop:db-2", "protected-vm:shop:db.1",
               "protected-vm:shop-2:db", "protected-vm:shop:é", "protected-vm:sho:p"]  # fmt: skip

    def within(first: str, beyond: str) -> list[str]:
        return [s for s in streams if first.encode() <= s.encode() < beyond.encode()]

    assert within(one.first, one.beyond) == ["protected-vm:shop:db"]
    under = streams_under("scheduler", "protected-vm:shop:")
    assert within(under.first, under.beyond) == [*streams[:3], "protected-vm:shop:é"]
