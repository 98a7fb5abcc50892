"""Two services that hand a baton to and fro: every step begins with a message to the other one.

`runner:<key>:<name>` runs in both; leg n is an effect of the one service, and its outcome sends
leg n + 1 to the other. On this the cost of the bus is measured. `python -m shared.testing.race`
runs one copy of both.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from schemas.common import Fact
from schemas.envelope import Received, commands_topic
from schemas.ids import key_of
from schemas.registry import published
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, on
from shared.effects.policy import STEP
from shared.effects.running import EffectRun
from shared.errors import InvariantBroken, SeawallError
from shared.fold import ServiceDefinition
from shared.migrations import migrate
from shared.process import Process, serve, start
from shared.settings import Settings, read_settings

SERVICES: Final = ("ping", "pong")


@published("race.run-leg")
class RunLeg(Fact, frozen=True, kw_only=True):
    """Message and effect's payload: run leg `number` of `legs`."""

    runner: str
    number: int
    legs: int


@published("race.leg-run")
class LegRun(Fact, frozen=True, kw_only=True):
    """A leg was run."""

    number: int


class Runner(msgspec.Struct):
    """How far a runner came in this service."""

    last: int = 0


def _evolve(state: Runner, event: object) -> Runner:
    if isinstance(event, LegRun):
        state.last = event.number
    return state


def _decide_run(state: Runner, received: Received) -> Decision:
    body: RunLeg = received.body
    if body.number <= state.last:
        return NOTHING
    part = f"leg/{body.number}"
    return Decision(effects=(Effect(part=part, kind="run-leg", payload=body, due=received.at),))


def definition(name: str) -> ServiceDefinition:
    """One of the two services."""
    (other,) = set(SERVICES) - {name}

    def decide_outcome(state: Runner, received: Received) -> Decision:
        outcome: EffectOutcome = received.body
        if not outcome.ok:
            raise InvariantBroken(f"a leg failed: {outcome.error}")
        leg: RunLeg = outcome.result
        run = (LegRun(number=leg.number),)
        if leg.number == leg.legs:
            return Decision(events=run)
        following = msgspec.structs.replace(leg, number=leg.number + 1)
        key = key_of(received.stream)
        return Decision(events=run, sends=(Send(to=other, key=key, message=following),))

    family = Family(
        name="runner", state=Runner, initial=Runner, evolve=_evolve,
        is_terminal=lambda state: False, outcome=decide_outcome,
    )  # fmt: skip
    return ServiceDefinition(
        name=name,
        families=(family,),
        handlers=(on(RunLeg, route=lambda r: r.body.runner, decide=_decide_run),),
        subscriptions=tuple((source, commands_topic(name)) for source in SERVICES),
    )


class RunningLeg:
    """The handler of a leg: nothing to do."""

    policy = STEP
    resumable = True

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        """Give the leg back."""
        leg: msgspec.Struct = effect.payload
        return leg


async def _main(settings: Settings) -> None:
    for name in SERVICES:
        await migrate(settings.databases.of(name), name)
    async with Process(settings, settings.databases, services=SERVICES) as process:
        parts = []
        for name in SERVICES:
            service = await process.service(definition(name))
            handlers = {"run-leg": RunningLeg()}
            queue = await process.queue(name)
            service.work(queue, handlers, heartbeat_s=settings.heartbeat_s)
            parts.append(service)
        await serve(process, parts)


def main() -> None:
    """Run until SIGTERM."""
    try:
        settings = read_settings()
        start(settings, _main(settings))
    except (SeawallError, asyncio.CancelledError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
