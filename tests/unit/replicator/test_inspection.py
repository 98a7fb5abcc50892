"""Looking at sites, and keeping scripts."""

from __future__ import annotations

import base64
import hashlib

from schemas import replicator as said
from schemas.scheduler import SiteInspected
from shared.scripts.stored import whole_content
from tests.unit.replicator.world import EAST, World


def ask(world: World, **fields: object) -> None:
    world.deliver(
        said.InspectSite(request="cmd-1", site=EAST, for_stream="plan:shop", **fields)  # type: ignore[arg-type]
    )


def test_who_asked_is_answered_once() -> None:
    world = World()
    ask(world)
    ask(world)
    (effect_id,) = world.effects
    ended = world.settle(effect_id)
    world.ended(effect_id.partition("/")[0], ended)
    (answer,) = world.told(SiteInspected)
    assert (answer.request, answer.for_stream) == ("cmd-1", "plan:shop")


def test_a_look_that_fails_is_answered_too() -> None:
    world = World()
    ask(world)
    world.settle(next(iter(world.effects)), code="bug")
    (answer,) = world.told(SiteInspected)
    assert answer.problem is not None
    assert answer.problem.code == "bug"
    assert answer.problem.remedy == "mend it"


def test_a_look_needs_no_budget_for_it_defines_them() -> None:
    world = World()
    ask(world)
    (effect,) = world.effects.values()
    assert effect.needs == ()


def test_the_site_and_its_vms_are_looked_at_apart() -> None:
    world = World()
    ask(world)
    ask(world, vms=("db",))
    assert len(world.effects) == 2


def test_a_script_is_whole_when_all_its_parts_are_there_in_any_order() -> None:
    world = World()
    content = b"#!/bin/sh\necho hello\n"
    sha256 = hashlib.sha256(content).hexdigest()
    pieces = [base64.b64encode(piece).decode() for piece in (content[:5], content[5:])]
    stream = f"script:shop:{sha256}"
    for part in (1, 0, 0):
        assert whole_content(world.state(stream)) in (None, content)
        world.deliver(
            said.StoreScript(plan="shop", sha256=sha256, part=part, parts=2, content=pieces[part])
        )
    assert whole_content(world.state(stream)) == content
    assert len(world.events(said.ScriptStored)) == 2
