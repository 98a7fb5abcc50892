"""The import direction of architecture.md, proven in the test run as well as by `make check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tidy import tree

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """The project's own contracts, applied to a small tree that breaks every one of them."""
    sources = {
        "schemas/plans.py": "import shared.errors",
        "shared/errors.py": "",
        "shared/decider.py": "import time",
        "shared/forecast.py": "",
        "shared/platforms/lab.py": "import dissect",
        "shared/bus.py": "import faust, shared.platforms.lab",
        "services/scheduler/main.py": "",
        "services/recovery/domain/boot.py": "import services.recovery.handlers",
        "services/recovery/handlers.py": "import services.scheduler.main",
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for folder in path.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(tree.text("pyproject.toml"))
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "0 kept, 7 broken" in done.stdout, done.stdout + done.stderr
