"""Whether the packages that read Windows disks are there is said before they are needed."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from shared.platforms.windows import reader_problems


def test_nothing_is_wrong_where_the_packages_are_installed() -> None:
    assert reader_problems() == ()


@pytest.mark.parametrize("way", ["one", "none", "not-even-their-namespace"])
def test_a_missing_package_is_a_problem_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    real = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        if not name.startswith("dissect") or (way == "one" and name == "dissect.ntfs"):
            return real(name)
        if way == "not-even-their-namespace":
            raise ModuleNotFoundError(name)
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    (problem,) = reader_problems()
    assert problem.code == "windows-reader-missing"
    assert "requirements-windows.txt" in problem.remedy
