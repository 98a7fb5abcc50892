"""What an event says about one alert: the finding. Decides nothing."""

from __future__ import annotations

import msgspec

from schemas.ids import StreamId, stream_id
from schemas.notifier import Severity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of one subject: seen (`holds`) or cleared. `mailed`: said by another mail.

    `thing` tells several of one subject apart: the alert closes when the last of them is cleared.
    `retold`: people are told again although the alert is open, unless they want silence.
    """

    plan: str
    condition: str
    subject: str
    holds: bool
    severity: Severity = "major"
    title: str = ""
    text: str = ""
    remedy: str = ""
    job: str = ""
    mailed: bool = False
    thing: str = ""
    retold: bool = False

    @property
    def stream(self) -> StreamId:
        """The alert's stream."""
        return stream_id("alert", self.plan, self.condition, self.subject)
