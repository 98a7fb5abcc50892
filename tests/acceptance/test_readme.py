"""The README's first plan by hand, run as it is printed, against `seawall up`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.acceptance.operator import BARE_PATH, ControlPlane

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text()
BY_HAND: Final = README.partition("## A first plan by hand")[2].partition("\n## ")[0]
BIN: Final = Path(sys.executable).parent
RUN_S_MAX: Final = 60.0


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def script_of(console: str) -> str:
    """What a person types: lines after the prompt, and here-documents as they are."""
    return re.sub(r"^\$ ", "", console, flags=re.MULTILINE)


def test_the_two_commands_exist() -> None:
    (start,) = blocks("console", README.partition("## A first plan by hand")[0])
    commands = [line.partition("#")[0].split() for line in script_of(start).splitlines()]
    assert commands == [["make", "demo"], [".venv/bin/seawall", "up"]]
    targets = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", targets, flags=re.MULTILINE)
    answer = subprocess.run(
        [sys.executable, "-m", "services.cli", "up", "--help"],
        capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert answer.returncode == 0


def test_the_first_plan_by_hand_works_as_printed(tmp_path: Path) -> None:
    (plan,) = blocks("yaml", BY_HAND)
    (tmp_path / "shop.yaml").write_text(plan)
    typed = "".join(script_of(block) for block in blocks("console", BY_HAND))
    with ControlPlane(tmp_path) as plane:
        environment = {**plane.environment, "PATH": f"{BIN}:{BARE_PATH}"}
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", typed],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=RUN_S_MAX, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{plane.log()}"
        plans = plane.ask("GET", "/v1/plans").body["items"]
        checkpoints = plane.ask("GET", "/v1/checkpoints?plan=shop").body["items"]
    # The plan's own ticks go on: one may fall into these seconds, and so may its checkpoint.
    assert [each["vms"][0]["last_checkpoint_at"] is not None for each in plans] == [True]
    assert "available" in {each["state"] for each in checkpoints}
    assert list((tmp_path / "west" / "instances").glob("[!.]*")) == []
