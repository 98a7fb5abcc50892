"""Decides what *prepare* writes, what it must not write, and what a person should know. Pure.

The same decision answers for a copy (before a recovery) and for a running source (readiness).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shared.errors import InvariantBroken
from shared.windows.drivers import BOOT, DISABLED, ON_DEMAND, DriverGroup, DriverTarget
from shared.windows.problems import problem
from shared.windows.structs import (
    DriverState,
    PrepareDecision,
    Problem,
    StartValue,
    StartWrite,
    Volume,
    WindowsFindings,
    WindowsSystem,
)

# A running Windows is always like that: worth telling only where something must be written.
_OF_WRITING: Final = frozenset({"journal-not-clean", "registry-not-clean", "hibernated"})

_Change = tuple[DriverState, StartValue, int]


def plan(findings: WindowsFindings, target: DriverTarget) -> PrepareDecision:
    """What to write so that this Windows boots on that target.

    Storage drivers are made boot-start, disabled network drivers on-demand; one that starts
    earlier than it must is left alone. With nothing to write, what would forbid writing is only
    a finding. A driver that is not installed is a finding too: whether to go on without it is for
    the one who recovers. Deterministic; deciding again after `apply` gives no writes.
    """
    if len(findings.systems) != 1:
        return PrepareDecision(
            target=target.name, before=findings, refusals=_no_single_windows(findings)
        )
    system = findings.systems[0]
    missing = tuple(_missing(system, target))
    forbidding = (*_volume_problems(findings, system), *system.problems)
    if not system.control_set:
        # Nothing is known of the drivers, so nothing can be said to be in order.
        return PrepareDecision(target=target.name, before=findings, refusals=forbidding)
    changes = tuple(_changes(system, target))
    if not changes:
        return PrepareDecision(
            target=target.name, before=findings, findings=(*forbidding, *missing)
        )
    obstacles = tuple(value.problem for _, value, _ in changes if value.problem is not None)
    refusals = (*forbidding, *obstacles)
    return PrepareDecision(
        target=target.name,
        before=findings,
        writes=() if refusals else tuple(_write(*change) for change in changes),
        refusals=refusals,
        findings=missing,
    )


def readiness(findings: WindowsFindings, target: DriverTarget) -> tuple[Problem, ...]:
    """What should be mended in the source before this target is needed, gravest first.

    For disks of a source, or of its latest copy. Empty when a recovery needs no preparation, or
    can be prepared and all drivers are there. The volume of a running source is always in use;
    that is told only where a driver still depends on the copy being written to.
    """
    decision = plan(findings, target)
    if not decision.refusals and not decision.writes:
        return tuple(f for f in decision.findings if f.code not in _OF_WRITING)
    pending = tuple(_not_boot_start(findings, target))
    return (*decision.findings, *decision.refusals, *pending)


def _no_single_windows(findings: WindowsFindings) -> tuple[Problem, ...]:
    """Why there is no Windows to prepare, or none in particular."""
    if findings.systems:
        names = ", ".join(
            volume.name for volume in findings.volumes if _holds_any(volume, findings.systems)
        )
        return (problem("several-windows", names),)
    suspects = (*findings.problems, *(p for v in findings.volumes for p in v.problems))
    return (*suspects, problem("no-windows"))


def _holds_any(volume: Volume, systems: tuple[WindowsSystem, ...]) -> bool:
    return any((s.disk, s.partition) == (volume.disk, volume.number) for s in systems)


def _volume_problems(findings: WindowsFindings, system: WindowsSystem) -> tuple[Problem, ...]:
    return tuple(
        problem
        for volume in findings.volumes
        if _holds_any(volume, (system,))
        for problem in volume.problems
    )


def _installed(system: WindowsSystem, group: DriverGroup) -> Iterator[DriverState]:
    """The drivers of a group that have a service with a start type, and a file."""
    for name in group.any_of:
        driver = system.driver(name)
        if driver is not None and driver.file_present and driver.values:
            yield driver


def _write(driver: DriverState, value: StartValue, new: int) -> StartWrite:
    if value.place is None:
        raise InvariantBroken(f"{driver.service}: a start type without a place or a reason")
    return StartWrite(
        service=driver.service, name=value.name, place=value.place, old=value.value, new=new
    )


def _changes(system: WindowsSystem, target: DriverTarget) -> Iterator[_Change]:
    """Each start type that the target needs otherwise, with what it needs."""
    for group in target.storage:
        for driver in _installed(system, group):
            yield from ((driver, v, BOOT) for v in driver.values if v.value != BOOT)
    for group in target.network:
        for driver in _installed(system, group):
            yield from ((driver, v, ON_DEMAND) for v in driver.values if v.value >= DISABLED)


def _missing(system: WindowsSystem, target: DriverTarget) -> Iterator[Problem]:
    """Groups of which no driver is installed, with what is missing of each."""
    for code, groups in (
        ("no-boot-driver", target.storage),
        ("no-network-driver", target.network),
    ):
        for group in groups:
            if any(_installed(system, group)):
                continue
            yield problem(code, ", ".join(group.any_of))
            for name in group.any_of:
                driver = system.driver(name)
                if driver is None or not driver.registered:
                    yield problem("driver-not-registered", name)
                elif not driver.file_present:
                    yield problem("driver-file-missing", f"{name} ({driver.file})")


def _not_boot_start(findings: WindowsFindings, target: DriverTarget) -> Iterator[Problem]:
    for system in findings.systems[:1]:
        drivers = [driver.service for driver, _, new in _changes(system, target) if new == BOOT]
        for service in dict.fromkeys(drivers):
            yield problem("driver-not-boot-start", service)
