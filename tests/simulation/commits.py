"""Judges commits: whom they may leave out, by whose word, and what is left of these.

From the commands that were given, the ends that were told and the machines that the sites saw;
by no code of the product.
"""

from __future__ import annotations

from schemas import operations as ops
from schemas import recovery as rec
from schemas import scheduler_operations as sch_ops
from schemas.common import CommandSettled
from schemas.ids import parts_of
from tests.simulation.facts import Facts
from tests.simulation.lives import Powered, ready_of
from tests.simulation.plane import Plane


def judged(world: Plane, facts: Facts) -> list[str]:
    """Everything that is not as it must be."""
    return [*_by_word(world, facts), *_refused(world, facts), *_let_go(world, facts)]


def stranded(facts: Facts, job: str) -> list[str]:
    """The VMs of a full recovery that came up nowhere: not those that it left where they run."""
    return [vm for vm in _wanted(facts, job) if vm not in ready_of(facts, job)]


def _wanted(facts: Facts, job: str) -> list[str]:
    """The VMs that should have come up: all but those that could not be fenced and are on."""
    bodies = [body for _, body in facts.by_stream[job]]
    secured = {b.vm: b.state for b in bodies if isinstance(b, ops.MemberSecured)}
    back = {b.vm for b in bodies if isinstance(b, ops.MemberRestored) and b.state != "stays-off"}
    stayed = {vm for vm, state in secured.items() if state == "failed" and vm in back}
    return [member.vm for member in bodies[0].members if member.vm not in stayed]


def _asked(world: Plane) -> dict[str, ops.StartCommit]:
    """Commit → its command."""
    bodies = [asked.body for asked in world.asked]
    return {body.job: body for body in bodies if isinstance(body, ops.StartCommit)}


def _by_word(world: Plane, facts: Facts) -> list[str]:
    """Nobody is left out without the word."""
    asked = _asked(world)
    return [
        f"commit: {body.commit} leaves {stranded(facts, row.stream)} out, and nobody said so"
        for row, body in facts.of(ops.RecoveryCommitted)
        if stranded(facts, row.stream) and not asked[body.commit].without_failed
    ]


def _refused(world: Plane, facts: Facts) -> list[str]:
    """It is refused for them only where they are, at that moment."""
    commands = {body.command_id: body for body in _asked(world).values()}
    broken: list[str] = []
    for row, answer in facts.of(CommandSettled):
        command = commands.get(answer.command_id)
        if command is None or answer.code != "not-ready":
            continue
        ready = [
            end.ready
            for other, end in facts.by_stream[command.recovery]
            if isinstance(end, rec.RecoveryFinished)
            and other.meta.occurred_at <= row.meta.occurred_at
        ]
        all_up = not ready or ready[-1] >= len(_wanted(facts, command.recovery))
        if command.without_failed or all_up:
            broken.append(f"commit: {command.job} was refused, though all came up")
    return broken


def _let_go(world: Plane, facts: Facts) -> list[str]:
    """Who was left out has no instance there, and is the scheduler's to replicate again."""
    found = Powered(world)
    returned = {(body.job, parts_of(row.stream)[-1]) for row, body in facts.of(sch_ops.VmReturned)}
    broken: list[str] = []
    for row, _ in facts.of(ops.RecoveryCommitted):
        job, at = row.stream, row.meta.occurred_at
        for vm in stranded(facts, job):
            if any(life.there(at) for life in found.of(job, vm)):
                broken.append(f"commit: an instance of {vm} is left when {job} is committed")
            if (job, vm) not in returned:
                broken.append(f"commit: {vm} was left out of {job}, and is not given back")
    return broken
