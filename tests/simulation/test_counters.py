"""The engine under the counter saga: random worlds, and a state machine that shrinks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shared.testing.counter import StartCounter
from shared.testing.virtual import VirtualLoop
from shared.testing.world import Knobs, until
from tests.simulation import counter
from tests.simulation.counter import BUDGETS, CounterWorld
from tests.simulation.quiet import quiet

COPIES: Final = 2
NAMES: Final = st.sampled_from([f"counter-{n}" for n in range(1, COPIES + 1)])
VERBS: Final = st.sampled_from(["commit", "claim", "platform"])
NEEDS: Final = st.lists(st.sampled_from([f"{b.mode} {b.name}" for b in BUDGETS]), unique=True)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_random_world_of_counters_holds_its_promises(seed: int) -> None:
    with quiet() as errors:
        verdict = counter.run(seed)
    assert verdict.broken + errors == [], "\n".join(verdict.notes)


def test_one_seed_gives_one_history() -> None:
    with quiet():
        first, second = counter.run(13), counter.run(13)
    assert first.digest == second.digest


class CounterMachine(RuleBasedStateMachine):
    """Two copies, and whatever may befall them; judged when the world has healed."""

    @initialize(poll_s=st.sampled_from([0.25, 5.0]), seed=st.integers(0, 99))
    def begin(self, poll_s: float, seed: int) -> None:
        self.quiet = quiet()
        self.errors = self.quiet.__enter__()
        self.loop = VirtualLoop()
        self.number = 0
        self._await(self._open(poll_s, seed))

    async def _open(self, poll_s: float, seed: int) -> None:
        self.world = CounterWorld(f"{seed}", copies=COPIES, knobs=Knobs(poll_s=poll_s))
        await self.world.open()

    def _await(self, story: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(story)

    @rule(
        key=st.integers(0, 2),
        steps=st.integers(1, 4),
        delay_s=st.sampled_from([0.0, 2.0, 40.0]),
        needs=NEEDS,
        again=st.booleans(),
    )
    def submit(
        self, key: int, steps: int, delay_s: float, needs: list[str], *, again: bool
    ) -> None:
        self.number += 1
        command = StartCounter(
            command_id=f"c{self.number}",
            counter=f"counter:k{key}:{self.number - (again and self.number > 1)}",
            steps=steps,
            delay_s=delay_s,
            needs=tuple(needs),
        )
        self._await(self.world.submit([command]))

    @rule(seconds=st.sampled_from([0.001, 0.3, 4.0, 20.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self._await(asyncio.sleep(seconds))

    @rule(name=NAMES)
    def a_copy_is_killed(self, name: str) -> None:
        self._await(self._now(lambda: self.world.kill(name)))

    @rule(
        name=NAMES, verb=st.sampled_from(["commit", "claim", "platform"]), count=st.integers(1, 5)
    )
    def a_copy_will_be_killed_after(self, name: str, verb: str, count: int) -> None:
        self.world.kill_after(name, verb, count)

    @rule(name=NAMES)
    def a_copy_is_frozen(self, name: str) -> None:
        self._await(self._now(lambda: self.world.freeze(name)))

    @rule(name=NAMES)
    def a_copy_is_thawed_or_started(self, name: str) -> None:
        self._await(self._now(lambda: self.world.thaw(name)))
        self._await(self._now(lambda: self.world.start(name)))

    @rule(name=NAMES)
    def a_copy_is_asked_to_end(self, name: str) -> None:
        self._await(self.world.end(name))

    @rule(share=st.sampled_from([0.0, 0.2]), lost=st.sampled_from([0.0, 1.0]))
    def the_weather_changes(self, share: float, lost: float) -> None:
        self.world.weather.fault_share = share
        self.world.weather.news_lost_share = lost

    @rule(seconds=st.sampled_from([0.1, 3.0, 30.0]), restarted=st.booleans())
    def the_database_is_away(self, seconds: float, *, restarted: bool) -> None:
        self.world.weather.away = True
        self._await(asyncio.sleep(seconds))
        self.world.weather.away = False
        if restarted:
            self._await(self._now(self.world.restart_queues))

    async def _now(self, act: Any) -> None:
        act()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            broken = self._await(self._end())
        finally:
            self.loop.close()
            self.quiet.__exit__(None, None, None)
        assert broken + self.errors == []

    async def _end(self) -> list[str]:
        self.world.heal()
        ended = await until(self.world.finished, within_s=3600)
        await asyncio.sleep(2 * self.world.knobs.platform_timeout_s)
        broken = await self.world.judge()
        await self.world.__aexit__()
        return broken if ended else ["not everything has ended", *broken]


CounterMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCounterMachine = CounterMachine.TestCase
