"""A rebuild writes a document when it is let go: once, and only what the tables lack."""

from __future__ import annotations

from schemas.folds import VIEWS
from services.projector.projection import Batch
from services.projector.write_back import WriteBack


def a_batch(**documents: object) -> Batch:
    """A batch that changes rows of the first view."""
    return Batch(
        documents=(documents, *({} for _ in VIEWS[1:])),
        events=[],
        cursors=[],
    )


def test_what_changed_often_is_written_once_and_last() -> None:
    documents = WriteBack(10)
    documents.committed(a_batch(shop="first"))
    documents.committed(a_batch(shop="second"))
    assert documents.let_go(keep=0).new[0] == {"shop": "second"}
    assert documents.let_go(keep=0).new[0] == {}


def test_a_row_that_came_and_went_is_never_written() -> None:
    documents = WriteBack(10)
    documents.committed(a_batch(shop="here"))
    documents.committed(a_batch(shop=None))
    unwritten = documents.let_go(keep=0)
    assert (unwritten.new[0], unwritten.stored[0]) == ({}, {})


def test_a_row_that_was_loaded_is_changed_or_removed_and_not_copied_in_again() -> None:
    documents = WriteBack(10)
    documents.loaded(0, {"shop", "bank", "absent"}, {"shop": "old", "bank": "old"})
    documents.committed(a_batch(shop="new", bank=None, absent="first"))
    unwritten = documents.let_go(keep=0)
    assert unwritten.stored[0] == {"shop": "new", "bank": None}
    assert unwritten.new[0] == {"absent": "first"}


def test_a_row_that_was_only_looked_at_is_not_written() -> None:
    documents = WriteBack(10)
    documents.loaded(0, {"shop"}, {"shop": "old"})
    unwritten = documents.let_go(keep=0)
    assert (unwritten.new[0], unwritten.stored[0]) == ({}, {})


def test_those_past_the_bound_go_and_from_then_on_absent_rows_are_looked_for() -> None:
    documents = WriteBack(2)
    documents.committed(a_batch(one=1, two=2))
    assert (documents.let_go().new[0], documents.complete) == ({}, True)
    documents.committed(a_batch(three=3))
    assert documents.let_go().new[0] == {"one": 1}
    assert not documents.complete
