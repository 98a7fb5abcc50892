"""docs/lab.md says what the code does where a list could go stale."""

from __future__ import annotations

import re
from pathlib import Path

from shared.platforms.lab.vocabulary import CALLS

PAGE = Path(__file__).parents[3] / "docs" / "lab.md"


def test_the_page_lists_every_call_with_its_quotas() -> None:
    _, _, section = PAGE.read_text("utf-8").partition("## Calls and quotas")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    wanted = {
        name: ", ".join(f"`{quota}`" for quota in quotas) or "–" for name, quotas in CALLS.items()
    }
    assert listed == wanted
