"""docs/windows.md tells what the code can say."""

from __future__ import annotations

from shared.windows.drivers import TARGETS
from shared.windows.problems import PROBLEMS
from tests.tidy import tree

PAGE = tree.text("docs/windows.md")


def test_every_problem_is_explained() -> None:
    assert [code for code in PROBLEMS if f"`{code}`" not in PAGE] == []


def test_every_target_is_listed_with_its_drivers() -> None:
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
    for name, target in TARGETS.items():
        for group in (*target.storage, *target.network):
            assert any(service in rows[name] for service in group.any_of), (name, group)
