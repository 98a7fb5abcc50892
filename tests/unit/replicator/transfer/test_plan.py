"""Extents become steps: no byte forgotten, none twice, nothing read without need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replicator.transfer import BadExtents, TransferSettings
from services.replicator.transfer.plan import Unlisted, approach, data_bytes, steps
from shared.platforms.ports import Extent, Extents, Generation

SETTINGS = TransferSettings(chunk_bytes=16, merge_gap_bytes=4, zero_bytes_max=64)
SIZE = 400


def page(*extents: Extent, complete: bool = True, reason: str = "") -> Extents:
    return Extents(extents=extents, complete=complete, reason=reason)


def planned(page: Extents, unlisted: Unlisted, *, start: int = 0) -> list[tuple[int, int, bool]]:
    made = steps(page, start=start, end=SIZE, unlisted=unlisted, settings=SETTINGS)
    return [(step.offset, step.length, step.hole) for step in made]


def generation(*, blank: bool) -> Generation:
    return Generation(
        generation_id="g", plan="p", vm="v", disk="d", size=SIZE, lease=1, blank=blank
    )


def test_an_extent_is_cut_at_chunk_boundaries() -> None:
    assert planned(page(Extent(10, 30)), Unlisted.SAME) == [
        (10, 6, False),
        (16, 16, False),
        (32, 8, False),
    ]


def test_a_small_gap_between_extents_is_read_with_them() -> None:
    assert planned(page(Extent(0, 4), Extent(8, 4)), Unlisted.SAME) == [(0, 12, False)]


def test_a_wide_gap_between_extents_is_left_alone_when_it_is_unchanged() -> None:
    assert planned(page(Extent(0, 4), Extent(9, 4)), Unlisted.SAME) == [
        (0, 4, False),
        (9, 4, False),
    ]


def test_a_changed_hole_is_punched_and_never_merged_over() -> None:
    assert planned(page(Extent(0, 4), Extent(4, 2, True), Extent(6, 4)), Unlisted.SAME) == [
        (0, 4, False),
        (4, 2, True),
        (6, 4, False),
    ]


def test_everything_that_is_not_data_is_punched_when_the_target_may_hold_something() -> None:
    assert planned(page(Extent(100, 16)), Unlisted.ZERO) == [
        (0, 64, True),
        (64, 36, True),
        (100, 12, False),
        (112, 4, False),
        (116, 12, True),
        (128, 64, True),
        (192, 64, True),
        (256, 64, True),
        (320, 64, True),
        (384, 16, True),
    ]


def test_a_blank_target_needs_no_holes() -> None:
    assert planned(page(Extent(16, 16), Extent(64, 8, True)), Unlisted.BLANK) == [(16, 16, False)]


def test_a_page_that_is_entered_in_the_middle_is_clipped() -> None:
    assert planned(page(Extent(0, 48)), Unlisted.SAME, start=20) == [
        (20, 12, False),
        (32, 16, False),
    ]


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(0, 10), Extent(5, 10)),
        (Extent(50, 10), Extent(0, 10)),
        (Extent(0, 0),),
        (Extent(-4, 8),),
        (Extent(396, 8),),
    ],
    ids=["overlap", "backwards", "empty", "before the disk", "past the disk"],
)
def test_a_list_that_contradicts_itself_is_refused(extents: tuple[Extent, ...]) -> None:
    with pytest.raises(BadExtents):
        planned(page(*extents), Unlisted.SAME)


def test_a_blank_target_is_never_compared_even_if_the_platform_cannot_tell() -> None:
    how = approach(page(complete=False), since=None, generation=generation(blank=True))
    assert (how.unlisted, how.compare) == (Unlisted.BLANK, False)


def test_a_complete_list_since_a_mark_is_taken_as_it_is() -> None:
    how = approach(page(), since="m1", generation=generation(blank=False))
    assert (how.unlisted, how.compare) == (Unlisted.SAME, False)


def test_an_incomplete_list_is_compared_and_the_reason_kept() -> None:
    how = approach(
        page(complete=False, reason="no journal"), since="m1", generation=generation(blank=False)
    )
    assert (how.unlisted, how.compare, how.reason) == (Unlisted.ZERO, True, "no journal")


def test_a_copy_without_a_mark_is_compared() -> None:
    how = approach(page(), since=None, generation=generation(blank=False))
    assert how.compare
    assert how.reason


def test_bytes_to_look_at_leave_out_holes_and_what_lies_before_the_start() -> None:
    assert data_bytes(page(Extent(0, 40), Extent(40, 10, True), Extent(60, 5)), start=30) == 15


@st.composite
def pages(draw: st.DrawFn) -> Extents:
    edges = draw(st.lists(st.integers(0, SIZE), unique=True, max_size=24).map(sorted))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return page(*(Extent(a, b - a, draw(st.booleans())) for a, b in pairs))


@given(pages(), st.sampled_from(Unlisted), st.integers(0, SIZE))
def test_steps_cover_what_they_must_in_order_without_overlap(
    listed: Extents, unlisted: Unlisted, start: int
) -> None:
    made = list(steps(listed, start=start, end=SIZE, unlisted=unlisted, settings=SETTINGS))
    ends = [start, *(step.end for step in made)]
    assert all(step.offset >= end for step, end in zip(made, ends, strict=False))
    assert all(step.hole or step.offset // 16 == (step.end - 1) // 16 for step in made), (
        "a data step leaves its chunk"
    )

    read = {at for step in made if not step.hole for at in range(step.offset, step.end)}
    holes = {at for step in made if step.hole for at in range(step.offset, step.end)}
    data, listed_holes = set[int](), set[int]()
    for extent in listed.extents:
        into = listed_holes if extent.hole else data
        into.update(range(max(start, extent.offset), extent.offset + extent.length))
    assert data <= read
    if unlisted is Unlisted.SAME:
        assert holes == listed_holes - read == listed_holes
    elif unlisted is Unlisted.ZERO:
        assert read | holes == set(range(start, SIZE))
    else:
        assert not holes
