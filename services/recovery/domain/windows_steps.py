"""The steps that only a Windows has: prepare its rebuilt disks, validate it once it is ready.

Saga steps. Decides which VM has them, when each is due, and what their ends say. Where they lie
between the other steps is `vm_state`'s; who has a seat on which prep node is `prep_pool`'s.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas import recovery as said
from schemas.common import OUTPUT_TAIL_BYTES, Problem, StepTiming
from schemas.recovery_work import CopyHeld, WindowsPrepared, WindowsValidated
from shared.decider import EffectOutcome

PREPARE: Final = "prepare-windows"
VALIDATE: Final = "validate-windows"
STEPS: Final = (PREPARE, VALIDATE)

SINCE_DEFINITION: Final = 2
"""Recoveries of earlier builds announced no such steps, and go on without."""


class WindowsWork(msgspec.Struct, frozen=True, kw_only=True):
    """How far a Windows is: `node` while it has a seat there; `validated` well or not."""

    node: str = ""
    prepared: bool = False
    validated: bool = False


def is_windows(told: said.VmEnrolled | None, copy: CopyHeld | None) -> bool:
    """Whether the held copy is of a Windows and this recovery has steps for it."""
    if told is None or copy is None or told.definition_version < SINCE_DEFINITION:
        return False
    return copy.os == "windows"


def to_prepare(told: said.VmEnrolled, copy: CopyHeld | None, work: WindowsWork) -> bool:
    """Whether its disks are still to be prepared."""
    return is_windows(told, copy) and not work.prepared


def to_validate(told: said.VmEnrolled, copy: CopyHeld | None, work: WindowsWork) -> bool:
    """Whether it is still to be asked how it is, once it is ready."""
    wanted = told.definition.windows.validate
    return is_windows(told, copy) and wanted and not work.validated


def names(told: said.VmEnrolled, copy: CopyHeld | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps it has after its disks are rebuilt, and after it is ready."""
    if not is_windows(told, copy):
        return (), ()
    return (PREPARE,), (VALIDATE,) if told.definition.windows.validate else ()


def ended(work: WindowsWork, timing: StepTiming) -> WindowsWork:
    """After one of the steps ended, in whatever way: a seat is never kept past its step."""
    if timing.name == PREPARE:
        done = timing.state == "completed"
        return msgspec.structs.replace(work, node="", prepared=work.prepared or done)
    return msgspec.structs.replace(work, validated=True)


def with_output(timing: StepTiming, outcome: EffectOutcome) -> StepTiming:
    """The timing of a step with what it did and found, as its output shows it."""
    lines: list[str] = []
    match outcome.result:
        case WindowsPrepared() as done:
            lines = [f"prepared for {done.target}"]
            lines += done.changes or ["nothing had to be changed"]
            lines += [_line(finding) for finding in done.findings]
        case WindowsValidated() as well:
            lines = [f"services run, {well.disks_online} disks online, network up"]
    output = "\n".join(lines).encode()[:OUTPUT_TAIL_BYTES].decode(errors="ignore")
    return msgspec.structs.replace(timing, output=output) if output else timing


def _line(finding: Problem) -> str:
    mend = f" ({finding.remedy})" if finding.remedy else ""
    return f"finding {finding.code}: {finding.message}{mend}"


def unhealthy(
    *, stopped: tuple[str, ...], disks_online: int, disks: int, network_up: bool
) -> Problem | None:
    """What is wrong with a Windows that says this of itself, gravest first; None: it is well."""
    if disks_online < disks:
        return Problem(
            code="disks-offline",
            message=f"{disks_online} of {disks} disks are online in the Windows",
            remedy="bring them online in the guest (diskpart: `online disk`); see its SAN policy",
        )
    if not network_up:
        return Problem(
            code="network-down",
            message="no network adapter of the Windows has an address",
            remedy="look for the network driver in the guest (docs/windows.md)",
        )
    if stopped:
        return Problem(
            code="services-not-running",
            message="services that should run do not: " + ", ".join(stopped),
            remedy="look at the guest's event log, and start them",
        )
    return None
