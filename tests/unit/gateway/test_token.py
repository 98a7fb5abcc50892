"""The admin token is made once, whole, whoever starts at the same moment."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from services.gateway.auth import ensure_token
from shared.errors import Permanent


def test_gateways_that_start_together_have_one_token(tmp_path: Path) -> None:
    for number in range(50):
        home = tmp_path / str(number)
        home.mkdir()
        together = threading.Barrier(4)
        found: list[str] = []

        def start(
            home: Path = home,
            together: threading.Barrier = together,
            found: list[str] = found,
        ) -> None:
            together.wait()
            found.append(ensure_token(home))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4 and len(set(found)) == 1 and found[0].startswith("sw_")
        assert [path.name for path in home.iterdir()] == ["token"]
        assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600


def test_an_empty_token_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    with pytest.raises(Permanent, match="is empty"):
        ensure_token(tmp_path)
