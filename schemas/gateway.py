"""What the gateway says: which commands were accepted, from whom."""

from __future__ import annotations

from typing import Any

from schemas.common import Fact
from schemas.registry import published


@published("gateway.command-accepted")
class CommandAccepted(Fact, frozen=True, kw_only=True):
    """A person's command passed authentication and schema checks and is on its way."""

    command_id: str
    to: str
    type: str
    key: str
    actor: str
    job: str = ""
    idempotency_key: str = ""
    body_sha256: str = ""
    summary: dict[str, Any] = {}
