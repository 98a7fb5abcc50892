"""YAML with lines: words stay words, and nothing in a file can hurt the reader."""

from pathlib import Path

import pytest

from schemas.documents import Problem
from shared.yamlfile import YamlError, parse_yaml, read_yaml


def test_values_read_as_json_would_hold_them() -> None:
    text = "a: 1\nb: 1.5\nc: true\nd: ~\ne: [x, {f: y}]\ng: '7'\nh:\n"
    assert parse_yaml(text, file="p").value == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": ["x", {"f": "y"}],
        "g": "7",
        "h": None,
    }


@pytest.mark.parametrize(
    "word", ["no", "on", "08:30", "2026-11-22T20:00:00Z", "010", "0x1f", "1e3"]
)
def test_words_that_yaml_1_1_would_turn_stay_text(word: str) -> None:
    assert parse_yaml(f"a: {word}", file="p").value == {"a": word}


def test_every_path_has_its_line_and_a_missing_one_its_parents() -> None:
    document = parse_yaml(
        "name: shop\nvms:\n  - name: db\n    boot_order: one\n", file="shop.yaml"
    )
    assert document.place(("vms", 0, "boot_order")) == (4, 5)
    assert document.place(("vms", 0, "ready", "tcp")) == (3, 5)
    assert document.place(("nowhere",)) == (1, 1)
    problem = Problem(
        path=("vms", 0, "boot_order"), found='"one"', allowed="a whole number from 1"
    )
    assert document.render(problem) == (
        'shop.yaml:4: vms[0].boot_order: found "one"; allowed: a whole number from 1'
    )


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "f:3:1", 'duplicate key "a", first on line 1'),
        ("a: [1", "f:2:1", "flow sequence"),
        ("a: 1\n---\nb: 2", "f:2:1", "second document"),
        ("- !!python/object:os.system x", "f:1:3", "tag"),
        ("a: *b", "f:1:4", '"&b"'),
        ("a: &x [*x]", "f:1:8", '"&x"'),
        ("<<: 1", "f:1:1", "merge"),
        ("? [a]\n: b", "f:1:3", "key"),
        ("a: \t- b", "f:1:5", "not allowed"),
    ],
)
def test_bad_yaml_names_file_line_and_column(text: str, where: str, reason: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text, file="f")
    assert str(caught.value).startswith(where + ": ")
    assert reason in str(caught.value)


def test_aliases_repeat_a_value_at_their_own_place() -> None:
    document = parse_yaml("a: &x {b: 1}\nc: *x\n", file="f")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.place(("c", "b")) == (2, 1)


def test_nested_aliases_cannot_multiply_without_bound() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(YamlError, match="more than"):
        parse_yaml("\n".join(lines), file="f")


@pytest.mark.parametrize("tower", ["[" * 100_000, "- " * 50_000, "{a: " * 50_000])
def test_towers_of_brackets_are_refused_not_crashed_on(tower: str) -> None:
    with pytest.raises(YamlError, match=r"deeper|key"):
        parse_yaml(tower, file="f")


def test_bytes_that_are_no_text_name_their_line() -> None:
    with pytest.raises(YamlError, match=r"^f:2:1: is not UTF-8"):
        parse_yaml(b"a: 1\nb: \xff\n", file="f")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "plan.yaml"
    with pytest.raises(YamlError, match="No such file") as caught:
        read_yaml(missing)
    assert str(caught.value).startswith(f"{missing}: ")


def test_an_empty_file_is_nothing() -> None:
    assert parse_yaml("", file="f").value is None
