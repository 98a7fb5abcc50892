"""Which tests run side by side: trials in one lane, beside all else."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

_TRIALS: Final = "tests/acceptance/"


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """Trials start whole control planes and wait for them, one after the other, so that no two of
    them fill the machine. Everything else goes by module, for fixtures that a module shares."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return _TRIALS if module.startswith(_TRIALS) else module
