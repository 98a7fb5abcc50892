"""What an operator sees and does when a part fails: told by the tests that make it fail.

`@failure_mode(part, how, sees=…, does=…)` stands on the test that produces the failure and
asserts what is seen. `python -m tests.failures` writes docs/failure-modes.md from them; a tidy
test compares both, so no row is without a test and no such test without a row. The source is
read, not imported: the arguments are literals.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

How = Literal["dead", "slow", "lying", "cut off"]
Test = TypeVar("Test", bound=Callable[..., object])

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "failure-modes.md"
ORDER: Final[tuple[How, ...]] = ("dead", "slow", "lying", "cut off")

PARTS: Final = (
    "Postgres",
    "Kafka",
    "A service",
    "Protected site",
    "Recovery site",
    "Prep node",
    "Guest",
    "Script",
    "Mail server",
    "Log and read models",
)

HEAD: Final = """\
# When something fails

Each part, and how it may fail: it is *dead*, *slow*, *lying* (it says or does what is not so) or
*cut off* (from some of the others, or in the middle of an answer). What an operator then sees, and
does. Every row is produced by the test it names; the page is written from the tests by
`python -m tests.failures`.
"""


class FailureMode(msgspec.Struct, frozen=True, kw_only=True):
    """A row. `test` is `path::name`."""

    part: str
    how: How
    sees: str
    does: str
    test: str


def failure_mode(part: str, how: How, *, sees: str, does: str) -> Callable[[Test], Test]:
    """Mark the test that makes `part` fail in the way `how`. Literals only."""
    assert part in PARTS and how in ORDER and sees and does

    def marked(test: Test) -> Test:
        return test

    return marked


def found() -> list[FailureMode]:
    """All marks, by part and way of failing."""
    rows = [row for path in sorted((ROOT / "tests").rglob("*.py")) for row in _marks(path)]
    return sorted(rows, key=lambda row: (PARTS.index(row.part), ORDER.index(row.how), row.test))


def _marks(path: Path) -> Iterator[FailureMode]:
    source = path.read_text(encoding="utf-8")
    if "@failure_mode(" not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "failure_mode":
                part, how = map(ast.literal_eval, call.args)
                words = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
                test = f"{path.relative_to(ROOT)}::{node.name}"
                yield FailureMode(part=part, how=how, test=test, **words)


def page() -> str:
    """The page's text."""
    rows = found()
    text = HEAD
    for part in PARTS:
        text += f"\n## {part}\n\n| | what is seen | what to do |\n|---|---|---|\n"
        for row in (each for each in rows if each.part == part):
            name = row.test.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            link = f"[{name}](../{row.test.partition('::')[0]})"
            text += f"| {row.how} | {row.sees} | {row.does}<br>*{link}* |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
