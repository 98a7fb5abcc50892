"""In what state a recovery that was cancelled leaves things, in words for who cancelled it.

Decides nothing. What is on the platform is listed and removed by a cleanup.
"""

from __future__ import annotations

from typing import Final

from services.recovery.domain.operations import securing
from services.recovery.domain.recovery_state import Recovery, told

NAMED_MAX: Final = 20
"""VMs that are named; of more only the number is told."""


def told_of(state: Recovery) -> str:
    """What became of the source, and what was made and stays until it is cleaned."""
    sources = securing.note(state.source)
    about = f"Sources: {sources}." if sources else "The source VMs were not touched."
    return f"{about} {_made(state)}"


def _made(state: Recovery) -> str:
    start = told(state)
    site = start.header.recovery_site.site
    if not state.made:
        return f"Nothing was made at {site}."
    on = [vm for vm, member in state.members.items() if member.powered_on_at is not None]
    powered = f"; powered on: {_named(on)}" if on else "; nothing was powered on"
    made = [vm for vm, member in state.members.items() if member.made]
    return (
        f"Made at {site} for {_named(made)}{powered}. "
        f"Remove it with `seawall cleanup {start.job}`."
    )


def _named(vms: list[str]) -> str:
    if len(vms) > NAMED_MAX:
        return f"{len(vms)} VMs"
    return ", ".join(vms)
