"""What an event says about one alert: the finding. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas.envelope import Received
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


ENDS: Final[Mapping[str, tuple[str, Severity]]] = {
    "failed": ("job-failed", "critical"),
    "partially-completed": ("job-partially-completed", "major"),
}
"""State in which a job ended badly → its alert and how severe that is."""


def job_ended(
    received: Received,
    *,
    plan: str,
    subject: str,
    title: str,
    text: str,
    remedy: str,
    severity: Severity | None = None,
    mailed: bool = False,
) -> tuple[Finding, ...]:
    """The alerts of a job that ended: the one of its state is seen, the other is cleared.

    Its event has a `state`. Without a remedy the job's own page is named; without a severity it
    is that of the state.
    """
    return tuple(
        Finding(
            plan=plan,
            condition=condition,
            subject=subject,
            holds=received.body.state == state,
            severity=severity or usual,
            title=title,
            text=text,
            remedy=remedy or f"seawall job show {received.stream}",
            job=received.stream,
            mailed=mailed,
        )
        for state, (condition, usual) in ENDS.items()
    )
