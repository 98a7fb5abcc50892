"""Stored script content, and the table of quotas that effects name."""

from __future__ import annotations

import base64
import hashlib

from schemas import recovery as said
from services.recovery.domain.work import QUOTAS
from shared.platforms.lab.vocabulary import CALLS
from shared.scripts.stored import whole_content
from tests.unit.recovery.world import World

CONTENT = b"echo one\necho two\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def part(number: int, content: bytes) -> said.StoreRecoveryScript:
    text = base64.b64encode(content).decode()
    return said.StoreRecoveryScript(plan="shop", sha256=SHA256, part=number, parts=2, content=text)


def stored(*parts: said.StoreRecoveryScript) -> bytes | None:
    world = World()
    for each in parts:
        world.deliver(each)
    return whole_content(world.state(f"script:shop:{SHA256}"))


def test_a_script_is_whole_when_all_parts_are_there_in_any_order_and_number() -> None:
    one, two = part(0, CONTENT[:9]), part(1, CONTENT[9:])
    assert stored(two, one, two) == CONTENT


def test_a_script_with_a_part_missing_or_wrong_content_is_not_there() -> None:
    assert stored(part(0, CONTENT[:9])) is None
    assert stored(part(0, CONTENT[:9]), part(1, b"else")) is None
    assert stored() is None


def test_effects_name_the_quotas_that_the_platform_spends() -> None:
    # A poll lists instances, a look reads states; all other work is called like its call.
    calls = {
        "poll-site": "list_instances",
        "measure-written": "list_instances",
        "look-at-source": "source_state",
        "look-at-sources": "list_vms",
        "look-at-lost-site": "source_state",
        "look-at-originals": "source_state",
        "look-at-instances": "list_made",
        "verify-copies": "list_current",
    }
    for work, quota in QUOTAS.items():
        assert CALLS[calls.get(work, work.replace("-", "_"))] == (quota,)
