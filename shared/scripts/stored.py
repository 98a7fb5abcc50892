"""The content of scripts in a service's own log: a stream per script, in parts.

Each service that runs scripts keeps what it runs, as facts of its own. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

import msgspec

from schemas.envelope import Received
from schemas.ids import stream_id
from shared.decider import NOTHING, Decision, Family


class ScriptContent(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one script by number, base64, until all are there."""

    sha256: str = ""
    parts: int = 0
    content: dict[int, str] = {}


def script_stream(plan: str, sha256: str) -> str:
    """The stream that keeps a script's content for a plan."""
    return stream_id("script", plan, sha256)


def store_part(state: ScriptContent, received: Received, *, fact: type[Any]) -> Decision:
    """Keep one part, as the service's `fact`; a repeat gives nothing."""
    part = received.body
    if part.part in state.content:
        return NOTHING
    stored = fact(
        plan=part.plan,
        sha256=part.sha256,
        part=part.part,
        parts=part.parts,
        content=part.content,
    )
    return Decision(events=(stored,))


def evolve(state: ScriptContent, event: Any) -> ScriptContent:
    """Add a part."""
    content = {**state.content, event.part: event.content}
    return ScriptContent(sha256=event.sha256, parts=event.parts, content=content)


def whole_content(state: ScriptContent | None) -> bytes | None:
    """The script if all parts are there and their SHA-256 is right, else None."""
    if state is None or not state.parts or len(state.content) < state.parts:
        return None
    try:
        pieces = [base64.b64decode(state.content[part]) for part in sorted(state.content)]
    except binascii.Error:
        return None
    content = b"".join(pieces)
    return content if hashlib.sha256(content).hexdigest() == state.sha256 else None


CONTENT: Final = Family(
    name="script",
    state=ScriptContent,
    initial=ScriptContent,
    evolve=evolve,
    is_terminal=lambda state: False,
)
