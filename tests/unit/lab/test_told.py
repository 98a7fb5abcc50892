"""Limits that an operator tells of a site stand in place of the platform's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.scheduler import SiteRef
from shared.errors import Refused
from shared.platforms.ports import BudgetFacts
from shared.platforms.sites import Sites


def ref(path: Path, **told: str) -> SiteRef:
    limits = {f"limit.{name}": value for name, value in told.items()}
    return SiteRef(site="west", platform="lab", settings={"path": str(path), **limits})


def facts(path: Path, **told: str) -> dict[str, BudgetFacts]:
    platform = Sites().open(ref(path, **told))
    return {fact.name: fact for fact in platform.limits.budgets()}


def test_told_limits_replace_those_of_the_site_and_add_others(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "quotas: {RunInstances: {burst: 5, per_second: 2},"
        " StopInstances: {burst: 9, per_second: 9}}"
    )
    found = facts(tmp_path, RunInstances="100,20/s", CopySnapshot="0.5/s", writes="80")
    assert found["RunInstances"] == BudgetFacts(name="RunInstances", burst=100, per_second=20)
    assert found["CopySnapshot"] == BudgetFacts(name="CopySnapshot", burst=1, per_second=0.5)
    assert found["writes"] == BudgetFacts(name="writes", concurrent=80)
    assert found["StopInstances"].per_second == 9


@pytest.mark.parametrize("value", ["", "fast", "0", "-1/s", "5,/s", "nan/s", "1e99/s", "2.5"])
def test_what_is_no_limit_is_refused_with_what_is_allowed(tmp_path: Path, value: str) -> None:
    with pytest.raises(Refused, match=r"limit\.RunInstances.*allowed: 80 \(at once\)"):
        Sites().open(ref(tmp_path, RunInstances=value))
