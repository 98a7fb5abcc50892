"""The page that is read when nobody can ask Seawall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli.__main__ import app
from tests.unit.cli.stub import Stub, listing, refusal

SITES = {
    name: {
        "name": name, "platform": "lab", "settings": {"path": f"/sites/{name}"},
        "credentials": "file:secrets/west" if name == "west" else "",
    }
    for name in ("east", "west")
}  # fmt: skip


def vm(name: str, order: int, **fields: Any) -> dict[str, Any]:
    return {
        "name": name, "boot_order": order, "boot_delay_s": 0.0, "recovery_scripts": [],
        "last_checkpoint_at": "2026-11-22T20:00:00+01:00", **fields,
    }  # fmt: skip


PLAN: dict[str, Any] = {
    "name": "shop", "version": 7, "state": "running", "protected_site": "east",
    "recovery_site": "west", "rpo": {"target_s": 1800, "achieved_s": 310.0},
    "rto": {"target_s": 600, "forecast_s": 94.6, "last_s": None},
    "vms": [
        vm("web", 3, last_checkpoint_at=None),
        vm("db", 1, boot_delay_s=20.0, recovery_scripts=["post-recovery"]),
    ],
    "definition": {
        "after": ["dns"],
        "recovery": {
            "pre_script": {"run": "page.sh", "sha256": "ab" * 32},
            "manual_steps": [
                {"name": "dns", "text": "point the name here", "owner": "dns team",
                 "at": "before-boot-order", "boot_order": 3},
            ],
        },
    },
}  # fmt: skip


@pytest.fixture
def served(stub: Stub) -> Stub:
    stub.tell("GET", "/v1/plans/shop", (200, PLAN))
    for name, site in SITES.items():
        stub.tell("GET", f"/v1/sites/{name}", (200, site))
    point = {"id": "checkpoint:shop:c1", "state": "available", "verdict": {"verdict": "clean"},
             "created_at": "2026-11-22T16:00:00+00:00"}  # fmt: skip
    stub.tell("GET", "/v1/checkpoints", (200, listing(point)))
    return stub


def say(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", "export", "shop", *arguments])


@pytest.mark.usefixtures("served")
def test_it_has_all_that_somebody_without_seawall_must_know() -> None:
    result = say("--runbook")
    assert result.exit_code == 0, result.output
    page = result.stdout
    for words in (
        "# Runbook: shop", "version 7", "target 30m 00s, now 5m 10s", "forecast 1m 35s",
        "Recover first: dns.", "| west | recovery | lab | path=/sites/west | file:secrets/west |",
        "| 1 | db | 20s | once it is ready | 2026-11-22 19:00 UTC |",
        "| 3 | web | none | none | **no copy yet** |", "script `page.sh` (SHA-256 abababababab…)",
        "By hand, *before-boot-order 3*, dns team: point the name here",
        "`checkpoint:shop:c1` of 2026-11-22 16:00 UTC, found clean",
        "`seawall recover shop --mode failover --source-gone --wait`",
        "`/sites/west/replicas/shop/VM`", "no VM of the table runs at east",
    ):  # fmt: skip
        assert words in page, words
    assert page.index("| 1 | db |") < page.index("| 3 | web |")


@pytest.mark.usefixtures("served")
def test_it_goes_to_a_file_where_one_is_named(tmp_path: Path) -> None:
    result = say("--runbook", "-f", str(tmp_path / "shop.md"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "shop.md").read_text().startswith("# Runbook: shop\n")
    lost = say("--runbook", "-f", str(tmp_path / "none" / "shop.md"))
    assert lost.exit_code == 2 and "no such file or directory" in lost.stderr


def test_what_cannot_be_exported_is_told(stub: Stub) -> None:
    assert say().exit_code == 2 and "--runbook" in say().stderr
    stub.tell("GET", "/v1/plans/shop", (404, refusal("not-found", "no plan is named 'shop'")))
    assert say("--runbook").exit_code == 4


def test_what_a_plan_has_not_is_left_out(served: Stub) -> None:
    plain = {**PLAN, "definition": {"recovery": {}}}
    served.tell("GET", "/v1/plans/shop", (200, plain))
    served.tell("GET", "/v1/checkpoints", (200, listing()))
    page = say("--runbook").stdout
    assert "## Newest" not in page and "## Around" not in page and "Recover first" not in page
