"""Answers to commands that were decided later than they came in."""

from __future__ import annotations

from typing import Any

from schemas.common import CommandSettled, Problem


def done(command_id: str, *, stream: str, details: dict[str, Any]) -> CommandSettled:
    """The command was granted."""
    return CommandSettled(command_id=command_id, outcome="done", stream=stream, details=details)


def refused_by(
    command_id: str, problem: Problem, *, stream: str, details: dict[str, Any] | None = None
) -> CommandSettled:
    """The command was refused because of `problem`."""
    return CommandSettled(
        command_id=command_id,
        outcome="refused",
        code=problem.code,
        message=problem.message,
        remedy=problem.remedy,
        stream=stream,
        details=details or {},
    )


def no_answer(site: str, waited_s: float) -> Problem:
    """Nobody inspected the site in time."""
    return Problem(
        code="site-unreachable",
        message=f"site {site} was not inspected within {waited_s:.0f} s",
        remedy="check that the replicator runs and can read the site, then try again",
    )
