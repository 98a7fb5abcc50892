"""The page of failure modes is what the tests that produce them say."""

from __future__ import annotations

import pytest

from tests.failures import ORDER, PAGE, PARTS, found, page


def test_the_page_is_written_from_the_tests() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.failures`"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_fails_in_every_way(part: str) -> None:
    assert {row.how for row in found() if row.part == part} == set(ORDER)
