"""The frontier passes a step when it and all before it are done, and its chain is order-free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.replicator.transfer.frontier import Frontier
from services.replicator.transfer.plan import Step

STEPS = [Step(offset, 10, False) for offset in range(0, 80, 10)]


def run(order: list[int], digests: list[bytes]) -> Frontier:
    frontier = Frontier()
    tickets = [frontier.issue(step) for step in STEPS]
    for index in order:
        frontier.complete(tickets[index], digests[index])
    return frontier


def digests(*, changed: int | None = None) -> list[bytes]:
    return [bytes([index + (100 if index == changed else 0)]) for index in range(len(STEPS))]


def test_a_slow_step_holds_the_frontier_at_its_start() -> None:
    frontier = Frontier()
    first, second, third = (frontier.issue(step) for step in STEPS[:3])
    frontier.complete(second, b"2")
    frontier.complete(third, b"3")
    assert (frontier.offset, frontier.outstanding) == (0, 3)
    frontier.complete(first, b"1")
    assert (frontier.offset, frontier.outstanding) == (30, 0)


@given(st.permutations(range(len(STEPS))))
def test_the_order_of_finishing_does_not_change_the_chain(order: list[int]) -> None:
    assert run(order, digests()).chain == run(list(range(len(STEPS))), digests()).chain


@given(st.integers(0, len(STEPS) - 1))
def test_other_content_gives_another_chain(changed: int) -> None:
    order = list(range(len(STEPS)))
    assert run(order, digests(changed=changed)).chain != run(order, digests()).chain


def test_a_chain_continues_where_an_earlier_one_ended() -> None:
    whole = run(list(range(len(STEPS))), digests())
    first = Frontier()
    for step, digest in zip(STEPS[:4], digests()[:4], strict=True):
        first.complete(first.issue(step), digest)
    second = Frontier(offset=first.offset, chain=first.chain)
    for step, digest in zip(STEPS[4:], digests()[4:], strict=True):
        second.complete(second.issue(step), digest)
    assert (second.offset, second.chain) == (whole.offset, whole.chain)
