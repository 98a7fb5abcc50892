"""Prepares the disks of a Windows for a site: what every adapter does once it has opened them.

Blocking; call it on the platform's own threads. What is read, decided and written is
`shared.windows`'; how a disk is opened is the adapter's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from shared.platforms.ports import Finding, WindowsPrepared
from shared.windows import (
    Disk,
    DriverTarget,
    ReadableDisk,
    apply,
    inspect,
    plan,
    reader_missing,
    readiness,
)
from shared.windows.errors import NotPreparable
from shared.windows.structs import PrepareDecision, Problem

REFUSALS_TOLD_MAX: Final = 5


def reader_problems() -> tuple[Finding, ...]:
    """What keeps this machine from reading the disks of a Windows at all."""
    missing = reader_missing()
    if missing is None:
        return ()
    return (Finding(code=missing.code, message=missing.message, remedy=missing.remedy),)


def prepare(
    disks: Sequence[Disk], target: DriverTarget, *, pause: Callable[[], None]
) -> WindowsPrepared:
    """Inspect, decide, write and verify. May be repeated, also after a crash anywhere.

    `pause` is called before the first write, and raises where nobody wants it any more. Raises
    `NotPreparable`, naming every refusal, and what `inspect` and `apply` raise.
    """
    decision = plan(inspect(disks), target)
    if decision.refusals:
        raise _refused(decision)
    pause()
    done = apply(decision, disks)
    changes = tuple(f"{w.service}: {w.name} {w.old} → {w.new}" for w in done.written)
    return WindowsPrepared(
        target=target.name, changes=changes, findings=tuple(_findings(done.findings))
    )


def ready(disks: Sequence[ReadableDisk], target: DriverTarget) -> tuple[Finding, ...]:
    """What should be mended in the source of these disks before the target is needed."""
    return tuple(_findings(readiness(inspect(disks), target)))


def _refused(decision: PrepareDecision) -> NotPreparable:
    first = decision.refusals[0]
    told = [each.message for each in decision.refusals[:REFUSALS_TOLD_MAX]]
    return NotPreparable("; ".join(told), remedy=first.remedy, code=first.code)


def _findings(problems: Iterable[Problem]) -> Iterable[Finding]:
    for each in problems:
        yield Finding(code=each.code, message=each.message, remedy=each.remedy)
