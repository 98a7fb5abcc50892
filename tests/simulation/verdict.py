"""What a run of a world comes to, and the judgements every world shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Recorded
from shared.effects.port import Budget
from shared.fold import ServiceDefinition
from shared.testing.world import Granted, World

EPSILON: Final = 1e-6


class Verdict(msgspec.Struct, kw_only=True):
    """One seed's run: what was broken (nothing, where it is good), and the history's hash."""

    kind: str
    seed: int
    broken: list[str] = []
    digest: str = ""
    facts: dict[str, Any] = {}
    notes: list[str] = []


def decoded(rows: Sequence[Recorded]) -> list[tuple[Recorded, Any]]:
    """Rows with their bodies."""
    return [(row, registry.decode(row.type, row.schema_version, row.data)) for row in rows]


def dense(history: Mapping[tuple[str, str], Sequence[Recorded]]) -> list[str]:
    """Seqs are 1, 2, 3… per log and partition, and so are versions per stream."""
    broken: list[str] = []
    for (service, topic), rows in history.items():
        last: dict[int, int] = {}
        versions: dict[str, int] = {}
        for row in rows:
            if row.seq != last.get(row.partition, 0) + 1:
                broken.append(f"seq: {service} {topic}/{row.partition} jumps to {row.seq}")
            last[row.partition] = row.seq
            if row.version and row.version != versions.get(row.stream, 0) + 1:
                broken.append(f"version: {row.stream} jumps to {row.version}")
            if row.version:
                versions[row.stream] = row.version
    return broken


async def consumed(world: World, definition: ServiceDefinition) -> list[str]:
    """Every message was taken once: cursors stand at the heads, nothing is parked."""
    broken: list[str] = []
    store = world.stores[definition.name]
    cursors = await store.cursors()
    for source, topic in definition.subscriptions:
        for (_, partition), head in (await world.stores[source].heads([topic])).items():
            at = cursors.get((source, topic, partition), (0, 0))[1]
            if at != head:
                broken.append(
                    f"consumed: {definition.name} stands at {at} of {head} in {topic}/{partition}"
                )
    broken += [f"parked: {parked.key} {parked.reason}" for parked in await store.parked()]
    return broken


async def nothing_left(world: World, *, but: Sequence[str] = ()) -> list[str]:
    """No effect waits or runs, and no budget is in use. `but`: kinds that go on for ever."""
    broken: list[str] = []
    for service, queue in world.queues.items():
        for each in await queue.waiting(count_max=1000):
            if each.service == service and each.kind not in but:
                broken.append(f"left: effect {each.effect_id} {each.blocked_by}")
        if not but:
            broken += [
                f"left: {state.in_use} of {state.budget.name} in use"
                for state in await queue.budgets()
                if state.in_use
            ]
    return broken


def rates_kept(budgets: Sequence[Budget], grants: Sequence[Granted]) -> list[str]:
    """No bucket was ever overspent, by the database's clock."""
    broken: list[str] = []
    for budget in budgets:
        if budget.mode != "rate":
            continue
        tokens, at = budget.burst, 0.0
        for grant in grants:
            if budget.name not in grant.needs or grant.cancelled:
                continue
            tokens = min(budget.burst, tokens + (grant.at_s - at) * budget.per_second) - 1
            at = grant.at_s
            if tokens < -EPSILON:
                broken.append(f"budget: {budget.name} overspent at {at:.3f}")
                break
    return broken


def settled_once(
    commands: Sequence[str], answers: Sequence[CommandSettled]
) -> tuple[dict[str, CommandSettled], list[str]]:
    """Every accepted command has exactly one answer."""
    found: dict[str, CommandSettled] = {}
    broken: list[str] = []
    for answer in answers:
        if answer.command_id in found:
            broken.append(f"settled: {answer.command_id} was answered twice")
        found[answer.command_id] = answer
    broken += [f"settled: {each} has no answer" for each in commands if each not in found]
    return found, broken
