"""Our rules for source code, applied to every module; each is first shown that it can fail."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.tidy import rules, tree

# The two supervisors: whatever a task raises must reach the log and end or restart that task.
SUPERVISORS = {"shared/stepper.py", "shared/effects/running.py"}
# Sleeps here are bounded polls for a condition; everything else uses them.
MAY_SLEEP = {"tests/waiting.py"}
# Assembled, because this file is searched too.
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "XX" + "X:")
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
        ("index", "crates", "io"),
    )
)

Rule = Callable[[ast.Module], Iterator[str]]


def broken_in(rule: Rule, names: Iterable[str]) -> list[str]:
    return [f"{name}:{place}" for name in names for place in rule(tree.syntax(name))]


def is_pure(name: str) -> bool:
    parts = name.split("/")
    in_domain = parts[0] == "services" and "domain" in parts[2:3]
    return parts[0] == "schemas" or in_domain or parts[:2] == ["shared", "forecast"]


def test_modules_and_functions_are_short() -> None:
    found = [
        f"{name}:{place}"
        for name in tree.modules()
        for place in rules.too_long(tree.syntax(name), len(tree.text(name).splitlines()))
    ]
    assert found == []


def test_every_module_says_what_it_owns() -> None:
    assert broken_in(rules.no_docstring, tree.modules()) == []


def test_only_the_supervisors_catch_everything() -> None:
    others = (name for name in tree.modules() if name not in SUPERVISORS)
    assert broken_in(rules.catches_everything, others) == []


def test_cancellation_is_never_swallowed() -> None:
    assert broken_in(rules.swallows_cancellation, tree.modules()) == []


def test_tests_wait_for_conditions_not_for_time() -> None:
    tests = (n for n in tree.modules() if n.startswith("tests/") and n not in MAY_SLEEP)
    assert broken_in(rules.sleeps, tests) == []


def test_published_language_and_domain_do_not_touch_the_world() -> None:
    assert broken_in(rules.touches_the_world, filter(is_pure, tree.modules())) == []


@pytest.mark.parametrize("words", [UNFINISHED, REGISTRIES], ids=["unfinished", "registries"])
def test_no_file_contains(words: tuple[str, ...]) -> None:
    found = [f"{n}:{place}" for n in tree.files() for place in rules.contains(tree.text(n), words)]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (rules.no_docstring, "import x"),
        (rules.catches_everything, "try: x\nexcept: y"),
        (rules.catches_everything, "try: x\nexcept BaseException: y"),
        (rules.catches_everything, "try: x\nexcept (OSError, Exception): raise"),
        (rules.catches_everything, "with contextlib.suppress(Exception): x"),
        (rules.swallows_cancellation, "try: x\nexcept asyncio.CancelledError: pass"),
        (rules.sleeps, "import time\ntime.sleep(1)"),
        (rules.sleeps, "from time import sleep"),
        (rules.touches_the_world, "async def f(): ..."),
        (rules.touches_the_world, "open('x')"),
    ],
)
def test_a_rule_finds_what_it_forbids(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source))) != []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (rules.catches_everything, "try: x\nexcept BaseException:\n    undo()\n    raise"),
        (rules.catches_everything, "try: x\nexcept OSError: y"),
        (rules.swallows_cancellation, "try: x\nexcept asyncio.CancelledError: raise"),
    ],
)
def test_a_rule_allows_what_it_should(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source))) == []


def test_length_is_counted_per_module_and_per_function() -> None:
    source = "def f():\n" + textwrap.indent("x = 1\n" * rules.FUNCTION_LINES_MAX, "    ")
    found = list(rules.too_long(ast.parse(source), rules.MODULE_LINES_MAX + 1))
    assert [place.partition(":")[0] for place in found] == ["1", "1"]
