"""One trace: what a message leads to is under its step, an outcome under its effect."""

from __future__ import annotations

import msgspec
import pytest

from shared.effects.policy import STEP, RetryPolicy
from shared.effects.running import EffectRun
from shared.errors import SeawallError, Transient
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import Conflict, Step
from shared.testing.counter import Work
from tests.unit.telemetry.traced import Traced, parent_of, place_of, trace, traced

START = "decide counter.start"
EFFECT = "effect count"
OUTCOME = "decide outcome of count"


class Counting:
    """Counts, after the errors it is given."""

    policy: RetryPolicy = msgspec.structs.replace(STEP, base_s=0.0)
    resumable = False

    def __init__(self, *errors: SeawallError) -> None:
        self._errors = list(errors)

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        if self._errors:
            raise self._errors.pop(0)
        payload: Work = effect.payload
        return payload


async def submit(service: Traced, *counters: tuple[str, str]) -> None:
    """Start counters, each in the trace that a traceparent names, in one commit."""
    await service.service.stepper.submit([service.start(*each) for each in counters])


async def test_a_command_its_effect_and_the_outcome_are_one_line_of_parents() -> None:
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", trace(7)))
        await service.until(OUTCOME)
    started, effect, outcome = map(service.span, (START, EFFECT, OUTCOME))
    assert parent_of(started) == trace(7)
    assert parent_of(effect) == place_of(started)
    assert parent_of(outcome) == place_of(effect)
    assert {span.resource.attributes["service.name"] for span in service.spans()} == {"counter"}


async def test_facts_say_which_step_decided_them() -> None:
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", trace(7)))
        await service.until(OUTCOME)
        rows = await service.rows("counter:a:1")
    places = {row.type: row.meta.traceparent for row in rows}
    assert places["counter.started"] == place_of(service.span(START))
    assert places["counter.counted"] == place_of(service.span(OUTCOME))


async def test_inputs_that_meet_in_a_commit_stay_in_their_traces_and_are_linked() -> None:
    async with traced(count=Counting()) as service:
        await submit(service, *((f"counter:{n}:1", trace(n)) for n in (1, 2, 3)))
        await service.until(EFFECT, count=3)
    first, *others = service.spans(START)
    assert [parent_of(span) for span in (first, *others)] == [trace(1), trace(2), trace(3)]
    assert first.links == ()
    assert [link.context for span in others for link in span.links] == [first.context] * 2
    counted = [span.attributes["seawall.commit.inputs"] for span in others if span.attributes]
    assert counted == [3, 3]
    above = {parent_of(span) for span in service.spans(EFFECT)}
    assert above == {place_of(span) for span in (first, *others)}


async def test_each_try_of_an_effect_says_which_it_was_and_how_it_went() -> None:
    async with traced(count=Counting(Transient("busy", code="busy"))) as service:
        await submit(service, ("counter:a:1", trace(7)))
        await service.until(EFFECT, count=2)
    tries = [dict(span.attributes or {}) for span in service.spans(EFFECT)]
    assert {parent_of(span) for span in service.spans(EFFECT)} == {place_of(service.span(START))}
    known = {
        "seawall.effect.id": "counter:a:1/count/1",
        "seawall.effect.kind": "count",
        "seawall.stream": "counter:a:1",
        "seawall.correlation_id": "command-1",
    }
    assert all(known.items() <= each.items() for each in tries)
    assert [each["seawall.effect.attempt"] for each in tries] == [0, 1]
    assert [each["seawall.effect.outcome"] for each in tries] == ["retried", "ok"]
    assert tries[0]["error.type"] == "busy"


async def test_a_conflict_makes_no_second_span(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, conflicts = MemoryStore.commit, [Conflict(["counter:a:1"])] * 3

    async def moved(store: MemoryStore, step: Step) -> object:
        if step.cursors and conflicts:
            raise conflicts.pop()
        return await commit(store, step)

    monkeypatch.setattr(MemoryStore, "commit", moved)
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", trace(7)))
        await service.until(EFFECT)
    assert not conflicts
    assert parent_of(service.span(EFFECT)) == place_of(service.span(START))


async def test_a_message_that_spoils_its_batch_says_so_and_the_others_go_on() -> None:
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", trace(1)), ("no", trace(2)))
        await service.until(EFFECT)
    good, bad = sorted(service.spans(START), key=parent_of)
    assert good.status.is_unset
    assert dict(bad.attributes or {})["error.type"] == "InvariantBroken"


async def test_a_tick_is_the_root_of_a_trace_of_its_own() -> None:
    async with traced(count=Counting()) as service:
        tick = service.start("counter:a:1", "", correlation="")
        await service.service.stepper.submit([tick])
        await service.until(EFFECT)
    root = service.span(START)
    assert parent_of(root) == ""
    assert dict(root.attributes or {})["seawall.correlation_id"] == "row-1"
    assert parent_of(service.span(EFFECT)) == place_of(root)


async def test_what_belongs_to_a_story_that_nobody_traces_is_not_traced() -> None:
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", ""), ("counter:b:1", trace(7)))
        await service.until(OUTCOME)
        rows = await service.rows("counter:a:1")
    assert len(service.spans(START)) == len(service.spans(EFFECT)) == 1
    assert {row.meta.traceparent for row in rows} == {""}


async def test_a_trace_that_its_caller_does_not_sample_goes_on_and_is_not_told() -> None:
    unsampled = trace(7)[:-2] + "00"
    async with traced(count=Counting()) as service:
        await submit(service, ("counter:a:1", unsampled), ("counter:b:1", trace(8)))
        await service.until(OUTCOME)
        rows = await service.rows("counter:a:1")
    assert len(service.spans(START)) == 1
    assert {row.meta.traceparent[:35] for row in rows} == {unsampled[:35]}
    assert {row.meta.traceparent[-2:] for row in rows} == {"00"}
