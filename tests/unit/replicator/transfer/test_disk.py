"""A transfer makes the staged generation equal to the snapshot, whatever happens on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replicator.transfer import (
    BadExtents,
    Mark,
    Pace,
    SizeDiffers,
    TransferRequest,
    TransferResult,
    TransferSettings,
    VerifyFailed,
    copy_disk,
)
from shared.errors import Permanent, SeawallError, Throttled, Transient
from shared.platforms.ports import Extent, Generation
from tests.failures import failure_mode
from tests.unit.replicator.transfer.world import (
    CHUNK,
    KIB,
    SETTINGS,
    Kept,
    World,
    in_virtual_time,
    inline,
)


def random_bytes(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


async def transfer(
    world: World,
    request: TransferRequest,
    *,
    kept: Kept | None = None,
    store: Callable[[Mark], Awaitable[None]] | None = None,
    tuning: TransferSettings = SETTINGS,
    target_pace: Pace | None = None,
) -> TransferResult:
    kept = kept or Kept()
    return await copy_disk(
        world,  # type: ignore[arg-type]  # only what the data path calls
        world,  # type: ignore[arg-type]
        request=request,
        progress=kept.tell,
        checkpoint_mark=store or kept.keep,
        target_pace=target_pace,
        settings=tuning,
        offload=inline,
    )


def marking(mark_bytes: int) -> TransferSettings:
    return TransferSettings(
        chunk_bytes=CHUNK,
        window_bytes=4 * CHUNK,
        window_bytes_min=2 * CHUNK,
        window_bytes_max=8 * CHUNK,
        mark_bytes=mark_bytes,
        merge_gap_bytes=512,
    )


# --- content


async def test_a_first_copy_equals_the_snapshot_and_is_flushed() -> None:
    world = World(random_bytes(50 * CHUNK + 123))
    result = await transfer(world, world.request(world.generation()))
    assert world.generations["g1"] == world.content
    assert world.flushed == ["g1"]
    assert result.bytes_read == result.bytes_written == len(world.content)
    assert not result.compared
    assert 0 <= result.changes_known_s <= result.seconds
    assert result.verified_from_s is not None
    assert 0 <= result.verified_from_s <= result.seconds


async def test_where_no_block_is_to_be_verified_none_is_said_to_be() -> None:
    world = World(bytes(4 * CHUNK))
    result = await transfer(world, world.request(world.generation()))
    assert result.verified_from_s is None


async def test_zero_chunks_of_a_blank_generation_are_neither_written_nor_punched() -> None:
    content = bytes(10 * CHUNK) + random_bytes(CHUNK) + bytes(5 * CHUNK)
    world = World(content)
    result = await transfer(world, world.request(world.generation()))
    assert world.generations["g1"] == content
    assert (world.calls["write"], world.calls["zero"]) == (1, 0)
    assert result.bytes_zero == 15 * CHUNK


async def test_holes_of_the_source_are_not_read() -> None:
    content = bytes(20 * CHUNK) + random_bytes(CHUNK) + bytes(20 * CHUNK)
    world = World(content, extents=[Extent(20 * CHUNK, CHUNK)])
    result = await transfer(world, world.request(world.generation()))
    assert world.generations["g1"] == content
    assert result.bytes_read == CHUNK


async def test_only_changed_extents_are_sent_over_the_previous_copy() -> None:
    base = random_bytes(40 * CHUNK)
    content = bytearray(base)
    content[CHUNK : CHUNK + 700] = random_bytes(700, seed=8)
    content[9 * CHUNK - 10 : 9 * CHUNK + 10] = random_bytes(20, seed=9)
    world = World(bytes(content), extents=[Extent(CHUNK, 700), Extent(9 * CHUNK - 10, 20)])
    generation = world.generation(base=base, base_mark="m1")
    result = await transfer(world, world.request(generation, since="m1"))
    assert world.generations["g1"] == content
    assert (result.bytes_written, result.compared) == (720, False)
    assert world.asked_since == ["m1"]


async def test_a_hole_over_former_data_is_punched() -> None:
    base = random_bytes(8 * CHUNK)
    content = base[: 2 * CHUNK] + bytes(3 * CHUNK) + base[5 * CHUNK :]
    world = World(content, extents=[Extent(2 * CHUNK, 3 * CHUNK, True)])
    await transfer(world, world.request(world.generation(base=base), since="m1"))
    assert world.generations["g1"] == content
    assert (world.calls["read"], world.calls["zero"]) == (0, 1)


async def test_a_chunk_that_became_zero_is_punched_over_former_data() -> None:
    base = random_bytes(4 * CHUNK)
    content = base[:CHUNK] + bytes(CHUNK) + base[2 * CHUNK :]
    world = World(content, extents=[Extent(CHUNK, CHUNK)])
    await transfer(world, world.request(world.generation(base=base), since="m1"))
    assert world.generations["g1"] == content
    assert world.calls["write"] == 0


async def test_without_a_change_list_the_disk_is_compared_and_only_differences_are_sent() -> None:
    base = random_bytes(30 * CHUNK)
    content = bytearray(base)
    content[7 * CHUNK] ^= 1
    content[20 * CHUNK : 22 * CHUNK] = bytes(2 * CHUNK)
    world = World(bytes(content), extents=[Extent(0, 20 * CHUNK), Extent(22 * CHUNK, 8 * CHUNK)])
    world.complete, world.reason = False, "the change journal is newer than the disk"
    result = await transfer(world, world.request(world.generation(base=base), since="m1"))
    assert world.generations["g1"] == content
    assert (result.compared, result.reason) == (True, world.reason)
    assert (result.bytes_written, result.bytes_same) == (CHUNK, 27 * CHUNK)


async def test_a_mark_that_is_not_the_copys_own_is_not_trusted() -> None:
    base = random_bytes(6 * CHUNK)
    content = random_bytes(6 * CHUNK, seed=8)
    world = World(content)
    generation = world.generation(base=base, base_mark="m0")
    result = await transfer(world, world.request(generation, since="m1"))
    assert world.generations["g1"] == content
    assert world.asked_since == [None]
    assert result.compared
    assert "m0" in result.reason


async def test_extents_arrive_in_pages() -> None:
    content = random_bytes(64 * CHUNK)
    extents = [Extent(at, KIB) for at in range(0, 64 * CHUNK, 2 * KIB)]
    base = bytearray(content)
    for extent in extents:
        base[extent.offset : extent.offset + KIB] = bytes(KIB)
    world = World(content, extents=extents)
    world.page_extents = 10
    await transfer(world, world.request(world.generation(base=bytes(base)), since="m1"))
    assert world.generations["g1"] == content
    assert world.calls["extents"] == 13


async def test_an_empty_list_changes_nothing_and_still_flushes() -> None:
    base = random_bytes(4 * CHUNK)
    world = World(base, extents=[])
    result = await transfer(world, world.request(world.generation(base=base), since="m1"))
    assert (result.bytes_read, world.flushed) == (0, ["g1"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_to_any_disk_arrives(data: st.DataObject) -> None:
    """Against a plain model: apply writes, discards and zeros to a disk, list them, transfer."""
    size = data.draw(st.integers(1, 40 * KIB), label="size")
    base = random_bytes(size, seed=data.draw(st.integers(0, 3), label="base"))
    content = bytearray(base)
    edges = sorted(data.draw(st.sets(st.integers(0, size), max_size=16), label="edges"))
    extents = []
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        hole = data.draw(st.booleans())
        zeros = hole or data.draw(st.booleans())
        content[start:end] = bytes(end - start) if zeros else random_bytes(end - start, seed=end)
        extents.append(Extent(start, end - start, hole))
    world = World(bytes(content), extents=extents)
    world.page_extents = data.draw(st.integers(1, 20), label="page")
    asyncio.run(_transferred(world, base))
    assert world.generations["g1"] == content


async def _transferred(world: World, base: bytes) -> None:
    await transfer(world, world.request(world.generation(base=base), since="m1"))


# --- verification


@failure_mode(
    "Recovery site",
    "lying",
    sees=(
        "What was written reads back otherwise: the transfer fails verification and the "
        "copy is never switched."
    ),
    does="Distrust that storage. The copy before stands; `vm reset` makes a new one.",
)
async def test_content_that_the_target_lost_fails_the_transfer() -> None:
    world = World(random_bytes(20 * CHUNK))
    world.mangle = lambda offset, data: data[:-1] if offset == 3 * CHUNK else data
    with pytest.raises(VerifyFailed, match=str(3 * CHUNK)):
        await transfer(world, world.request(world.generation()))


async def test_a_disk_file_that_shrank_fails_the_transfer_as_the_platform_says() -> None:
    world = World(random_bytes(20 * CHUNK))
    request = world.request(world.generation())
    world.content = world.content[: 10 * CHUNK]
    with pytest.raises(Permanent) as raised:
        await transfer(world, request)
    assert raised.value.code == "disk-shrank"


async def test_sizes_that_differ_are_refused_before_anything_is_read() -> None:
    world = World(random_bytes(4 * CHUNK))
    smaller = Generation(generation_id="g1", plan="p", vm="v", disk="sda", size=CHUNK, lease=1)
    with pytest.raises(SizeDiffers):
        await transfer(world, world.request(smaller))
    assert not world.calls


async def test_a_list_that_leaves_the_disk_fails_the_transfer() -> None:
    world = World(random_bytes(4 * CHUNK), extents=[Extent(3 * CHUNK, 2 * CHUNK)])
    with pytest.raises(BadExtents):
        await transfer(world, world.request(world.generation()))


# --- failing and stopping


async def test_the_first_failure_is_raised_and_nothing_is_written_afterwards() -> None:
    world = World(random_bytes(200 * CHUNK))
    world.latency_s["read"] = 0.001

    def vanish(_key: str) -> SeawallError | None:
        return Transient("the site folder is gone") if world.calls["write"] >= 20 else None

    world.fail["write"] = vanish
    with pytest.raises(Transient, match="site folder is gone"):
        await transfer(world, world.request(world.generation()))
    assert world.under_way == 0
    written = world.bytes_written
    await asyncio.sleep(0.02)
    assert world.bytes_written == written
    assert world.flushed == []


async def test_a_transient_error_is_not_retried_here() -> None:
    world = World(random_bytes(CHUNK))
    world.fail["write"] = lambda _key: Transient("no")
    with pytest.raises(Transient):
        await transfer(world, world.request(world.generation()))
    assert world.calls["write"] == 1


async def test_cancelling_lets_the_calls_in_hand_end_and_begins_no_other() -> None:
    world = World(random_bytes(400 * CHUNK))
    world.latency_s["write"] = 0.05
    task = asyncio.create_task(transfer(world, world.request(world.generation())))
    async with asyncio.timeout(5):
        while world.calls["write"] < 8:  # noqa: ASYNC110 - the world has no event for it
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.under_way == 0
    begun, written = world.calls["write"], world.bytes_written
    assert written == begun * CHUNK
    await asyncio.sleep(0.1)
    assert (world.calls["write"], world.bytes_written) == (begun, written)


def test_cancelling_does_not_wait_longer_than_agreed_for_a_call_that_hangs() -> None:
    async def story() -> None:
        world = World(random_bytes(40 * CHUNK))
        world.latency_s["write"] = 50.0
        task = asyncio.create_task(transfer(world, world.request(world.generation())))
        await asyncio.sleep(1.0)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - began_s <= 1.0
        assert world.bytes_written == 0

    in_virtual_time(story)


def test_a_call_that_never_answers_fails_the_transfer_in_bounded_time() -> None:
    async def story() -> None:
        world = World(random_bytes(4 * CHUNK))
        world.latency_s["read"] = 10_000.0
        with pytest.raises(Transient) as raised:
            await transfer(world, world.request(world.generation()))
        assert raised.value.code == "call-timed-out"

    in_virtual_time(story)


# --- throttling


@failure_mode(
    "Recovery site",
    "slow",
    sees=(
        "Writes wait as the site asks and the window of calls in flight shrinks; "
        "throttled calls are counted in the job."
    ),
    does="`seawall queue` shows what budgets hold work up.",
)
def test_throttling_is_waited_for_as_asked_and_counted() -> None:
    async def story() -> None:
        world = World(random_bytes(40 * CHUNK))
        refused: set[str] = set()

        def throttle(key: str) -> SeawallError | None:
            if key in refused or len(refused) >= 5:
                return None
            refused.add(key)
            return Throttled("slow down", retry_after_s=2.0)

        world.fail["write"] = throttle
        began_s = asyncio.get_running_loop().time()
        result = await transfer(world, world.request(world.generation()))
        assert world.generations["g1"] == world.content
        assert result.throttled == 5
        assert asyncio.get_running_loop().time() - began_s >= 2.0
        assert world.calls["write"] == 45
        assert refused <= set(world.keys)

    in_virtual_time(story)


@failure_mode(
    "Protected site",
    "slow",
    sees=(
        "Transfers wait as the site asks, without using attempts; one that never gets on "
        "fails as `throttled`."
    ),
    does="Lower the plan's priority or its rate, or raise the site's limits.",
)
def test_a_site_that_throttles_for_ever_fails_the_transfer_as_throttled() -> None:
    async def story() -> None:
        world = World(random_bytes(4 * CHUNK))
        world.fail["write"] = lambda _key: Throttled("slow down")
        with pytest.raises(Throttled):
            await transfer(world, world.request(world.generation()))
        assert asyncio.get_running_loop().time() <= SETTINGS.throttle_wait_s_max + 1

    in_virtual_time(story)


def test_cancelling_does_not_wait_for_a_throttled_site() -> None:
    async def story() -> None:
        world = World(random_bytes(4 * CHUNK))
        world.fail["write"] = lambda _key: Throttled("slow down", retry_after_s=100.0)
        task = asyncio.create_task(transfer(world, world.request(world.generation())))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1.0)
        began_s = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - began_s < 0.1

    in_virtual_time(story)


# --- bounds


async def test_no_more_chunks_are_in_flight_than_the_window_allows() -> None:
    world = World(random_bytes(300 * CHUNK))
    world.latency_s["write"] = 0.001
    await transfer(world, world.request(world.generation()))
    assert world.under_way_max > SETTINGS.crew
    assert world.under_way_max <= SETTINGS.window_bytes_max // CHUNK


def test_reading_never_runs_away_from_a_write_that_hangs() -> None:
    async def story() -> None:
        world = World(random_bytes(1_000 * CHUNK))

        original = world.write

        async def hang_once(*args: object, **kwargs: object) -> bytes:
            if kwargs["offset"] == 0:
                await asyncio.sleep(30.0)
            return await original(*args, **kwargs)  # type: ignore[arg-type]

        world.write = hang_once  # type: ignore[method-assign]
        task = asyncio.create_task(transfer(world, world.request(world.generation())))
        await asyncio.sleep(20.0)
        assert world.calls["read"] == SETTINGS.window_bytes // CHUNK
        await task
        assert world.generations["g1"] == world.content

    in_virtual_time(story)


def test_progress_comes_at_most_four_times_a_second_and_ends_complete() -> None:
    async def story() -> None:
        world = World(random_bytes(200 * CHUNK))
        world.latency_s["write"] = 0.1
        kept = Kept()
        began_s = asyncio.get_running_loop().time()
        await transfer(world, world.request(world.generation()), kept=kept)
        elapsed_s = asyncio.get_running_loop().time() - began_s
        assert 2 <= len(kept.progress) <= elapsed_s / 0.25 + 1
        assert [told.bytes_done for told in kept.progress] == sorted(
            told.bytes_done for told in kept.progress
        )
        last = kept.progress[-1]
        assert last.bytes_done == last.bytes_total == len(world.content)
        assert last.rate_bytes_per_s > 0

    in_virtual_time(story)


async def test_every_mutating_call_has_a_key_of_its_own() -> None:
    base = random_bytes(20 * CHUNK)
    world = World(bytes(4 * CHUNK) + random_bytes(16 * CHUNK, seed=8))
    await transfer(world, world.request(world.generation(base=base)), tuning=marking(5 * CHUNK))
    assert len(world.keys) == len(set(world.keys))
    assert all(key.startswith("it-1/transfer/sda/g1/") for key in world.keys)


# --- marks and resuming


async def test_below_a_mark_everything_is_written_and_flushed() -> None:
    world = World(random_bytes(100 * CHUNK))
    world.latency_s["write"] = 0.0005
    marks: list[Mark] = []

    async def store(mark: Mark) -> None:
        assert world.flushed
        assert world.generations["g1"][: mark.offset] == world.content[: mark.offset]
        marks.append(mark)

    request = world.request(world.generation())
    result = await transfer(world, request, store=store, tuning=marking(10 * CHUNK))
    assert 3 <= len(marks) == result.marks <= 10
    assert [mark.offset for mark in marks] == sorted(mark.offset for mark in marks)
    assert marks[0].offset >= 1
    assert result.mark.offset == len(world.content)


async def interrupted(world: World, generation: Generation, *, since: str | None = None) -> Mark:
    """Run a transfer until the target fails at three quarters, and return its last mark."""
    kept = Kept()
    most = world.bytes_written + len(world.content) * 3 // 4

    def vanish(_key: str) -> SeawallError | None:
        return Transient("gone") if world.bytes_written >= most else None

    world.fail["write"] = vanish
    with pytest.raises(Transient):
        await transfer(
            world, world.request(generation, since=since), kept=kept, tuning=marking(5 * CHUNK)
        )
    world.fail.clear()
    return kept.marks[-1]


async def test_an_interrupted_transfer_resumes_from_its_mark_in_a_generation_of_its_own() -> None:
    world = World(random_bytes(100 * CHUNK))
    mark = await interrupted(world, world.generation("g1"))
    before = world.bytes_written
    request = world.request(world.generation("g2"), resume=mark)
    result = await transfer(world, request, tuning=marking(5 * CHUNK))
    assert world.generations["g2"] == world.content
    assert mark.offset >= 50 * CHUNK
    assert result.bytes_adopted == mark.offset
    assert world.bytes_written - before == len(world.content) - mark.offset


async def test_a_resumed_transfer_ends_with_the_chain_of_an_uninterrupted_one() -> None:
    content = random_bytes(100 * CHUNK)
    whole = World(content)
    straight = await transfer(whole, whole.request(whole.generation()))
    world = World(content)
    mark = await interrupted(world, world.generation("g1"))
    resumed = await transfer(world, world.request(world.generation("g2"), resume=mark))
    assert resumed.mark.chain == straight.mark.chain


async def test_an_adopted_range_that_differs_from_its_mark_is_compared_and_mended() -> None:
    world = World(random_bytes(100 * CHUNK))
    mark = await interrupted(world, world.generation("g1"))
    world.generations["g1"][3 * CHUNK + 5] ^= 1
    result = await transfer(world, world.request(world.generation("g2"), resume=mark))
    assert world.generations["g2"] == world.content
    assert result.compared
    assert "mark" in result.reason
    assert result.bytes_adopted == 0


async def test_a_generation_that_cannot_be_taken_over_leaves_nothing_to_be_trusted() -> None:
    world = World(random_bytes(100 * CHUNK))
    mark = await interrupted(world, world.generation("g1"))
    del world.generations["g1"]
    generation = world.generation("g2")
    world.generations["g2"][: 2 * CHUNK] = random_bytes(2 * CHUNK, seed=9)
    world.content = bytes(2 * CHUNK) + world.content[2 * CHUNK :]
    world.listed = [Extent(CHUNK, len(world.content) - CHUNK)]
    result = await transfer(world, world.request(generation, resume=mark))
    assert world.generations["g2"] == world.content
    assert (result.bytes_adopted, result.compared) == (0, True)


async def test_a_mark_of_another_snapshot_is_not_used() -> None:
    world = World(random_bytes(20 * CHUNK))
    foreign = Mark(snapshot_id="snap-0", generation_id="g0", offset=CHUNK, chain="00")
    await transfer(world, world.request(world.generation(), resume=foreign))
    assert world.calls["adopt"] == 0
    assert world.generations["g1"] == world.content


async def test_an_interrupted_increment_resumes_over_the_base() -> None:
    base = random_bytes(100 * CHUNK)
    content = bytearray(random_bytes(100 * CHUNK, seed=8))
    content[10 * CHUNK : 12 * CHUNK] = bytes(2 * CHUNK)
    extents = [
        Extent(0, 10 * CHUNK),
        Extent(10 * CHUNK, 2 * CHUNK, True),
        Extent(12 * CHUNK, 88 * CHUNK),
    ]
    world = World(bytes(content), extents=extents)
    mark = await interrupted(world, world.generation("g1", base=base), since="m1")
    request = world.request(world.generation("g2", base=base), since="m1", resume=mark)
    result = await transfer(world, request)
    assert world.generations["g2"] == content
    assert (result.compared, result.bytes_adopted > 0) == (False, True)


async def test_a_mark_that_cannot_be_stored_is_missed_and_the_transfer_goes_on() -> None:
    world = World(random_bytes(60 * CHUNK))
    world.latency_s["write"] = 0.0005

    async def store(_mark: Mark) -> None:
        raise Transient("the database is away")

    result = await transfer(
        world, world.request(world.generation()), store=store, tuning=marking(10 * CHUNK)
    )
    assert world.generations["g1"] == world.content
    assert result.marks == 0
    assert result.marks_missed >= 1


async def test_a_flush_that_fails_under_a_mark_fails_the_transfer() -> None:
    world = World(random_bytes(60 * CHUNK))
    world.latency_s["write"] = 0.0005
    world.fail["flush"] = lambda _key: Permanent("the disk is broken", code="target-broken")
    with pytest.raises(Permanent):
        await transfer(world, world.request(world.generation()), tuning=marking(10 * CHUNK))
    assert world.calls["write"] < 60
