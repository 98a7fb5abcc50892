"""Reading documents: every problem at once, with its path."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.documents import (
    PROBLEM_COUNT_MAX,
    DefinitionErrors,
    Fields,
    Node,
    Problem,
    Report,
    describe,
    show,
)
from schemas.rules import duration, flag, name, number, one_of, size, text, whole


def read(value: object) -> tuple[Report, Fields]:
    report = Report()
    return report, Node(path=(), value=value, report=report).fields("a mapping")


def test_fields_read_typed_values_and_defaults() -> None:
    report, fields = read({"cpus": 2, "memory": "4GiB", "boots_in": "2s", "os": None})
    assert fields.need("cpus", whole(minimum=1, maximum=64), fallback=0) == 2
    assert fields.take("memory", size(), default=0) == 4 << 30
    assert fields.take("boots_in", duration(max_s=60), default=0.0) == 2.0
    assert fields.take("os", one_of(("linux", "windows")), default="linux") == "linux"
    assert fields.take("rate", number(minimum=0, maximum=1), default=0.5) == 0.5
    fields.close()
    report.raise_if_any()


def test_all_problems_are_reported_in_one_pass() -> None:
    report, fields = read({"cpus": "two", "on": "yes", "disks": [{"name": "sda"}, 7]})
    fields.need("name", name(), fallback="")
    fields.take("cpus", whole(minimum=1, maximum=64), default=1)
    fields.take("on", flag(), default=False)
    for item in fields.items("disks"):
        disk = item.fields("a mapping with name and file")
        disk.need("name", name(), fallback="")
        disk.need("file", text(), fallback="")
        disk.close()
    fields.close()
    with pytest.raises(DefinitionErrors) as caught:
        report.raise_if_any()
    assert [(problem.path, problem.found) for problem in caught.value.problems] == [
        (("name",), "nothing"),
        (("cpus",), '"two"'),
        (("on",), '"yes"'),
        (("disks", 0, "file"), "nothing"),
        (("disks", 1), "7"),
    ]


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    report, fields = read({"boot-ordr": 1})
    fields.take("boot_order", whole(minimum=1, maximum=9), default=1)
    fields.refuse("after", allowed="nothing")
    fields.close()
    (problem,) = report.problems
    assert problem.path == ("boot-ordr",)
    assert problem.allowed == "boot_order"
    assert problem.message == 'did you mean "boot_order"?'


def test_a_refused_key_is_known_but_not_offered() -> None:
    report, fields = read({"after": "x"})
    fields.refuse("after", allowed="nothing: not available in this version")
    fields.close()
    assert [problem.found for problem in report.problems] == ['"x"']


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem(
        path=("vms", 1, "boot_order"), found='"one"', allowed="a number", message="m"
    )
    assert describe(problem) == 'vms[1].boot_order: found "one"; allowed: a number; m'


def test_true_is_not_the_number_one() -> None:
    report, fields = read({"cpus": True, "rate": True})
    fields.take("cpus", whole(minimum=0, maximum=9), default=3)
    fields.take("rate", number(minimum=0, maximum=9), default=3)
    assert len(report.problems) == 2


def test_the_number_of_problems_is_bounded() -> None:
    report, fields = read({f"k{number}": 1 for number in range(PROBLEM_COUNT_MAX * 2)})
    fields.close()
    assert len(report.problems) == PROBLEM_COUNT_MAX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
@example("a\n\x80")
@example("\ud800\u2028" + 200 * "\U0010ffff")
def test_any_value_shows_as_one_short_line(value: object) -> None:
    shown = show(value)
    assert len(shown.splitlines()) == 1
    assert len(shown) < 400
