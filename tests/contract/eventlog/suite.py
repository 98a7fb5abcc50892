"""What every store of a service promises. Run against each implementation by a subclass."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from abc import ABC, abstractmethod

import msgspec
import pytest

from schemas.envelope import Recorded
from schemas.ids import PARTITIONS, partition_of
from shared.errors import InvariantBroken, Refused
from shared.eventlog.port import (
    Conflict,
    EventStore,
    Fenced,
    NameTaken,
    Step,
)
from shared.eventlog.steps import BLOB_BYTES_MAX
from tests.contract.eventlog.rows import (
    LONG_AGO,
    META,
    OTHER,
    TOPIC,
    append,
    cursor,
    due,
    event,
    events,
    message,
    parked,
    seqs,
    snapshot,
    timer,
    versions,
)

A, B, C = "counter:a", "counter:b", "counter:c"
P_A = partition_of("a")


class Harness(ABC):
    """A store under test, and its clock."""

    store: EventStore

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Return when the store's clock has gone on by so much."""

    @abstractmethod
    async def now(self) -> dt.datetime:
        """The store's clock."""


class LogContract:
    async def test_an_event_is_read_back_as_it_was_written(self, store: EventStore) -> None:
        data = '{"text": "é\\u0000\\"", "n":1.50}'.encode()
        assert await store.commit(Step(rows=[event(A, 1, data)])) == {(TOPIC, P_A): 1}
        expected = Recorded(
            source=store.service, epoch=1, topic=TOPIC, partition=P_A, seq=1, stream=A, version=1,
            type="test.counted", schema_version=2, data=data, meta=META,
        )  # fmt: skip
        assert list(await store.read(TOPIC, {P_A: 0}, count_max=10)) == [expected]
        assert list((await store.load({A: 0}))[A].events) == [expected]

    async def test_seq_is_dense_per_topic_and_partition(self, store: EventStore) -> None:
        rows = [message("a"), event(A, 1), message("a"), event(A, 2), event(B, 1), message("b")]
        heads = await store.commit(Step(rows=rows))
        assert heads == {
            (TOPIC, P_A): 2, (OTHER, P_A): 2,
            (TOPIC, partition_of("b")): 1, (OTHER, partition_of("b")): 1,
        }  # fmt: skip
        assert (await store.commit(Step(rows=[event(A, 3), message("a")])))[TOPIC, P_A] == 3
        assert await seqs(store, TOPIC, P_A) == [1, 2, 3]
        assert await seqs(store, OTHER, P_A) == [1, 2, 3]

    async def test_rows_keep_the_order_of_the_step(self, store: EventStore) -> None:
        rows = [message("a", data=b'{"m":%d}' % n) for n in range(30)]
        await append(store, *rows)
        read = await store.read(OTHER, {P_A: 0}, count_max=100)
        assert [row.data for row in read] == [row.data for row in rows]

    async def test_heads_are_given_for_the_topics_asked(self, store: EventStore) -> None:
        assert await store.heads([TOPIC, OTHER]) == {}
        await append(store, event(A, 1), event(A, 2), message("b"))
        assert await store.heads([TOPIC]) == {(TOPIC, P_A): 2}
        assert await store.heads([OTHER, "none"]) == {(OTHER, partition_of("b")): 1}

    async def test_an_empty_step_changes_nothing(self, store: EventStore) -> None:
        assert await store.commit(Step()) == {}
        assert await store.heads([TOPIC]) == {}

    async def test_a_message_does_not_move_its_senders_stream(self, store: EventStore) -> None:
        await append(store, message("a", sender=A))
        await append(store, event(A, 1), message("a", sender=A))
        assert await versions(store, A) == [1]

    async def test_a_stream_moves_only_from_the_expected_version(self, store: EventStore) -> None:
        await append(store, *events(A, [1, 2]))
        for wrong in (1, 2, 4, 9):
            with pytest.raises(Conflict) as conflict:
                await append(store, event(A, wrong))
            assert conflict.value.streams == (A,)
        await append(store, event(A, 3))
        assert await versions(store, A) == [1, 2, 3]

    async def test_a_conflict_names_every_stream_that_moved_and_no_other(
        self, store: EventStore
    ) -> None:
        await append(store, event(A, 1), *events(B, [1, 2]))
        stale = [*events(A, [1, 2]), event(B, 2), event(C, 1), event("counter:d", 7)]
        with pytest.raises(Conflict) as conflict:
            await append(store, *stale)
        assert set(conflict.value.streams) == {A, B, "counter:d"}

    async def test_a_refused_step_leaves_no_gap(self, store: EventStore) -> None:
        await append(store, event(A, 1))
        with pytest.raises(Conflict):
            await append(store, message("a"), event(C, 1), event(A, 1))
        await append(store, event(A, 2), message("a"))
        assert await seqs(store, TOPIC, P_A) == [1, 2]
        assert await seqs(store, OTHER, P_A) == [1]
        assert await versions(store, C) == []

    async def test_versions_inside_a_step_must_follow_on(self, store: EventStore) -> None:
        for rows in ([1, 3], [1, 1], [2, 1]):
            with pytest.raises(InvariantBroken):
                await append(store, *events(A, rows))
        assert await versions(store, A) == []

    async def test_a_partition_outside_the_64_is_our_bug(self, store: EventStore) -> None:
        stray = msgspec.structs.replace(event(A, 1), partition=PARTITIONS)
        for rows in ([stray], [stray, message("a")]):
            with pytest.raises(InvariantBroken):
                await append(store, *rows)

    async def test_reading_goes_on_after_the_seq_given(self, store: EventStore) -> None:
        await append(store, *events(A, range(1, 8)), *events(B, range(1, 4)))
        read = await store.read(TOPIC, {P_A: 5, partition_of("b"): 0}, count_max=100)
        assert [(row.stream, row.seq) for row in read] == [
            (A, 6), (A, 7), (B, 1), (B, 2), (B, 3),
        ]  # fmt: skip
        assert await store.read(TOPIC, {P_A: 7}, count_max=100) == ()
        assert await store.read(TOPIC, {}, count_max=100) == ()

    async def test_a_reading_is_bounded_and_fills_partitions_in_the_order_given(
        self, store: EventStore
    ) -> None:
        p_b = partition_of("b")
        await append(store, *events(A, range(1, 6)), *events(B, range(1, 6)))
        first_b = await store.read(TOPIC, {p_b: 0, P_A: 0}, count_max=7)
        assert [(row.stream, row.seq) for row in first_b] == [
            *((B, n) for n in range(1, 6)), (A, 1), (A, 2),
        ]  # fmt: skip

    async def test_one_of_two_racing_writers_of_a_stream_wins(self, store: EventStore) -> None:
        async def write(n: int) -> bool:
            try:
                await append(store, event(A, 1), message("a", data=b'{"m":%d}' % n))
            except Conflict:
                return False
            return True

        won = await asyncio.gather(*(write(n) for n in range(8)))
        assert won.count(True) == 1
        assert await seqs(store, OTHER, P_A) == [1]

    async def test_writers_of_many_streams_in_any_order_never_block_each_other_for_good(
        self, store: EventStore
    ) -> None:
        streams = [f"counter:k{n}" for n in range(12)]

        async def write(turn: int) -> None:
            for _ in range(5):
                order = streams[turn:] + streams[:turn]
                await append(store, *(message(name.split(":")[1]) for name in order))

        await asyncio.gather(*(write(turn) for turn in range(6)))
        heads = await store.heads([OTHER])
        assert sum(heads.values()) == 6 * 5 * len(streams)
        for _, partition in heads:
            found = await seqs(store, OTHER, partition)
            assert found == list(range(1, len(found) + 1))

    async def test_writers_that_race_over_several_streams_lose_nothing(
        self, store: EventStore
    ) -> None:
        streams = [f"counter:k{n}" for n in range(4)]
        written = 0

        async def write(turn: int) -> None:
            nonlocal written
            for _ in range(6):
                chosen = (streams[turn:] + streams[:turn])[:3]
                loaded = await store.load(dict.fromkeys(chosen, 0))
                rows = [event(stream, len(loaded[stream].events) + 1) for stream in chosen]
                try:
                    await append(store, *rows)
                except Conflict:
                    continue
                written += len(rows)

        await asyncio.gather(*(write(turn) for turn in range(4)))
        loaded = await store.load(dict.fromkeys(streams, 0))
        assert 0 < sum(len(found.events) for found in loaded.values()) == written
        for found in loaded.values():
            assert [row.version for row in found.events] == list(range(1, len(found.events) + 1))


class LoadContract:
    async def test_what_was_never_written_is_empty(self, store: EventStore) -> None:
        loaded = await store.load({A: 0, B: 4})
        assert set(loaded) == {A, B}
        assert loaded[A].snapshot is None
        assert list(loaded[A].events) == []

    async def test_loading_gives_the_events_after_the_callers_version(
        self, store: EventStore
    ) -> None:
        await append(store, *events(A, range(1, 12)), *events(B, [1]))
        loaded = await store.load({A: 8, B: 1})
        assert [row.version for row in loaded[A].events] == [9, 10, 11]
        assert list(loaded[B].events) == []

    async def test_a_caller_with_nothing_gets_the_snapshot_and_the_rest(
        self, store: EventStore
    ) -> None:
        step = Step(rows=events(A, range(1, 6)), snapshots=[snapshot(A, 5)])
        await store.commit(step)
        await append(store, *events(A, [6, 7]))
        loaded = (await store.load({A: 0}))[A]
        assert loaded.snapshot == snapshot(A, 5)
        assert [row.version for row in loaded.events] == [6, 7]

    async def test_a_caller_with_a_version_gets_no_snapshot(self, store: EventStore) -> None:
        await store.commit(Step(rows=events(A, range(1, 6)), snapshots=[snapshot(A, 5)]))
        loaded = (await store.load({A: 2}))[A]
        assert loaded.snapshot is None
        assert [row.version for row in loaded.events] == [3, 4, 5]

    async def test_a_version_below_zero_asks_for_every_event(self, store: EventStore) -> None:
        await store.commit(Step(rows=events(A, range(1, 6)), snapshots=[snapshot(A, 5)]))
        loaded = (await store.load({A: -1}))[A]
        assert loaded.snapshot is None
        assert [row.version for row in loaded.events] == [1, 2, 3, 4, 5]

    async def test_an_older_snapshot_does_not_replace_a_newer(self, store: EventStore) -> None:
        await store.commit(Step(rows=events(A, range(1, 6)), snapshots=[snapshot(A, 5)]))
        await store.commit(Step(snapshots=[snapshot(A, 3)]))
        assert (await store.load({A: 0}))[A].snapshot == snapshot(A, 5)

    async def test_a_snapshot_of_another_schema_replaces_any(self, store: EventStore) -> None:
        await store.commit(Step(rows=events(A, range(1, 6)), snapshots=[snapshot(A, 5)]))
        await store.commit(Step(snapshots=[snapshot(A, 4, schema=2)]))
        loaded = (await store.load({A: 0}))[A]
        assert loaded.snapshot == snapshot(A, 4, schema=2)
        assert [row.version for row in loaded.events] == [5]

    async def test_a_snapshot_of_a_refused_step_is_not_kept(self, store: EventStore) -> None:
        await append(store, event(A, 1))
        with pytest.raises(Conflict):
            await store.commit(Step(rows=[event(A, 1)], snapshots=[snapshot(A, 1)]))
        assert (await store.load({A: 0}))[A].snapshot is None


class CursorContract:
    async def test_a_cursor_moves_with_the_step(self, store: EventStore) -> None:
        assert await store.cursors() == {}
        await store.commit(Step(rows=[event(A, 1)], cursors=[cursor(0, 4)]))
        await store.commit(Step(cursors=[cursor(4, 9), cursor(0, 2, partition=6)]))
        assert await store.cursors() == {
            ("scheduler", OTHER, 5): (1, 9), ("scheduler", OTHER, 6): (1, 2),
        }  # fmt: skip

    async def test_a_cursor_that_moved_meanwhile_fences_the_step(self, store: EventStore) -> None:
        await store.commit(Step(cursors=[cursor(0, 4), cursor(0, 1, partition=6)]))
        for stale in (cursor(0, 3), cursor(3, 5), cursor(5, 6)):
            with pytest.raises(Fenced) as fenced:
                step = Step(rows=[event(A, 1)], cursors=[stale, cursor(1, 2, partition=6)])
                await store.commit(step)
            assert fenced.value.what == "cursor"
            assert fenced.value.names == (f"scheduler/{OTHER}/5",)
        assert (await store.cursors())["scheduler", OTHER, 6] == (1, 1)
        assert await versions(store, A) == []

    async def test_a_cursor_belongs_to_one_epoch(self, store: EventStore) -> None:
        await store.commit(Step(cursors=[cursor(0, 4)]))
        for other_epoch in (cursor(4, 5, epoch=2), cursor(0, 5, epoch=2)):
            with pytest.raises(Fenced):
                await store.commit(Step(cursors=[other_epoch]))

    async def test_a_cursor_never_goes_back(self, store: EventStore) -> None:
        await store.commit(Step(cursors=[cursor(0, 4)]))
        for wrong in (cursor(4, 4), cursor(4, 3)):
            with pytest.raises(InvariantBroken):
                await store.commit(Step(cursors=[wrong]))

    async def test_one_of_two_copies_with_the_same_messages_commits(
        self, store: EventStore
    ) -> None:
        async def consume() -> bool:
            try:
                await store.commit(Step(rows=[message("a")], cursors=[cursor(0, 1)]))
            except Fenced:
                return False
            return True

        assert (await asyncio.gather(*(consume() for _ in range(6)))).count(True) == 1
        assert await seqs(store, OTHER, P_A) == [1]


class ReadContract:
    async def test_a_step_may_rest_on_streams_it_does_not_move(self, store: EventStore) -> None:
        await append(store, *events(A, [1, 2]))
        await store.commit(Step(rows=[event(B, 1)], read=[(A, 2), (C, 0)]))
        assert await versions(store, B) == [1]

    async def test_a_stream_read_that_moved_on_is_a_conflict_even_where_nothing_is_appended(
        self, store: EventStore
    ) -> None:
        await append(store, *events(A, [1, 2]), event(C, 1))
        for stale in ((A, 1), (A, 0), (A, 3), (C, 0)):
            with pytest.raises(Conflict) as conflict:
                await store.commit(Step(cursors=[cursor(0, 4)], read=[(B, 0), stale]))
            assert conflict.value.streams == (stale[0],)
        assert await store.cursors() == {}
        await store.commit(Step(cursors=[cursor(0, 4)], read=[(A, 2), (B, 0), (C, 1)]))

    async def test_every_stale_reading_is_named(self, store: EventStore) -> None:
        await append(store, *events(A, [1, 2]), event(B, 1), event(C, 1))
        with pytest.raises(Conflict) as conflict:
            await store.commit(Step(rows=[message("a")], read=[(A, 1), (B, 1), (C, 0)]))
        assert set(conflict.value.streams) == {A, C}
        assert await seqs(store, OTHER, P_A) == []


class TimerContract:
    async def test_a_due_timer_is_given_as_it_was_set(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A)]))
        (found,) = await due(store)
        assert (found.stream, found.name, found.due, found.partition) == (A, "wake", LONG_AGO, P_A)
        assert (found.type, found.schema_version) == ("test.woke", 3)
        assert (found.data, found.meta) == (b'{"t":1}', META)

    async def test_timers_come_out_in_the_order_they_are_due(self, store: EventStore) -> None:
        at = [LONG_AGO + dt.timedelta(microseconds=n) for n in (5, 1, 4, 2, 3)]
        await store.commit(
            Step(timers=[timer(f"counter:k{n}", due=due) for n, due in enumerate(at)])
        )
        assert [found.due for found in await due(store, count_max=3)] == sorted(at)[:3]

    async def test_only_timers_of_the_partitions_asked_are_given(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A), timer(B)]))
        found = await store.due_timers([P_A], count_max=10)
        assert [timer.stream for timer in found] == [A]
        assert await store.due_timers([], count_max=10) == ()

    async def test_a_timer_waits_until_it_is_due(self, harness: Harness) -> None:
        store = harness.store
        later = await harness.now() + dt.timedelta(seconds=0.3)
        await store.commit(Step(timers=[timer(A, due=later)]))
        assert await due(store) == []
        wait_s = await store.next_timer_in_s([P_A])
        assert wait_s is not None
        assert 0 < wait_s <= 0.3
        await harness.pass_time(0.31)
        assert [found.stream for found in await due(store)] == [A]
        assert await store.next_timer_in_s([P_A]) == 0

    async def test_without_timers_there_is_nothing_to_wait_for(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(B)]))
        assert await store.next_timer_in_s([P_A]) is None
        assert await store.next_timer_in_s([]) is None

    async def test_a_timer_fires_once(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A), timer(B)]))
        both = await due(store)
        await store.commit(Step(fired=[both[0]], rows=[message("a")]))
        with pytest.raises(Fenced) as fenced:
            await store.commit(Step(fired=both, rows=[message("a")]))
        assert fenced.value.what == "timer"
        assert fenced.value.names == (f"{both[0].stream}/wake",)
        assert [found.stream for found in await due(store)] == [both[1].stream]
        assert await seqs(store, OTHER, P_A) == [1]

    async def test_a_timer_that_was_set_again_is_not_ours_to_fire(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A)]))
        (old,) = await due(store)
        await store.commit(Step(timers=[timer(A, data=b'{"t":2}')]))
        with pytest.raises(Fenced):
            await store.commit(Step(fired=[old]))
        (new,) = await due(store)
        assert new.data == b'{"t":2}'

    async def test_a_fired_timer_may_be_set_again_in_its_step(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A)]))
        (old,) = await due(store)
        await store.commit(Step(fired=[old], timers=[timer(A, due=LONG_AGO)]))
        (new,) = await due(store)
        assert new.token != old.token

    async def test_a_cancelled_timer_is_gone(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A), timer(A, "other"), timer(B)]))
        await store.commit(Step(cancelled_timers=[(A, "wake"), (B, "never set")]))
        assert {(t.stream, t.name) for t in await due(store)} == {(A, "other"), (B, "wake")}

    async def test_set_and_cancelled_in_one_step_is_set(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A)], cancelled_timers=[(A, "wake")]))
        assert len(await due(store)) == 1

    async def test_the_last_of_two_settings_in_one_step_counts(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(A, data=b"1"), timer(A, data=b"2")]))
        assert [found.data for found in await due(store)] == [b"2"]

    async def test_timers_of_a_refused_step_are_not_set(self, store: EventStore) -> None:
        await store.commit(Step(timers=[timer(B)]))
        with pytest.raises(Conflict):
            await store.commit(
                Step(rows=[event(A, 9)], timers=[timer(A)], cancelled_timers=[(B, "wake")])
            )
        assert [found.stream for found in await due(store)] == [B]


class ReservationContract:
    async def test_a_taken_name_refuses_the_whole_step(self, store: EventStore) -> None:
        await store.commit(Step(reserved=[("plan/shop", A)]))
        with pytest.raises(NameTaken) as taken:
            await store.commit(
                Step(rows=[event(B, 1)], reserved=[("plan/bar", B), ("plan/shop", B)])
            )
        assert (taken.value.name, taken.value.holder) == ("plan/shop", A)
        assert await versions(store, B) == []
        await store.commit(Step(reserved=[("plan/bar", C)]))

    async def test_a_name_may_be_taken_again_by_its_holder(self, store: EventStore) -> None:
        await store.commit(Step(reserved=[("plan/shop", A)]))
        await store.commit(Step(rows=[event(A, 1)], reserved=[("plan/shop", A)]))
        assert await versions(store, A) == [1]

    async def test_one_step_cannot_give_a_name_to_two_streams(self, store: EventStore) -> None:
        with pytest.raises(NameTaken):
            await store.commit(Step(reserved=[("plan/shop", A), ("plan/shop", B)]))
        await store.commit(Step(reserved=[("plan/shop", C)]))

    async def test_a_name_is_given_back_by_its_holder_only(self, store: EventStore) -> None:
        await store.commit(Step(reserved=[("plan/shop", A)]))
        await store.commit(Step(released=[("plan/shop", B)]))
        with pytest.raises(NameTaken):
            await store.commit(Step(reserved=[("plan/shop", B)]))
        await store.commit(Step(released=[("plan/shop", A)]))
        await store.commit(Step(reserved=[("plan/shop", B)]))

    async def test_a_name_changes_hands_in_one_step(self, store: EventStore) -> None:
        await store.commit(Step(reserved=[("plan/shop", A)]))
        await store.commit(Step(released=[("plan/shop", A)], reserved=[("plan/shop", B)]))
        with pytest.raises(NameTaken) as taken:
            await store.commit(Step(reserved=[("plan/shop", A)]))
        assert taken.value.holder == B

    async def test_one_of_many_racing_for_a_name_gets_it(self, store: EventStore) -> None:
        async def take(n: int) -> bool:
            stream = f"counter:k{n}"
            try:
                await store.commit(Step(rows=[event(stream, 1)], reserved=[("x", stream)]))
            except NameTaken:
                return False
            return True

        assert (await asyncio.gather(*(take(n) for n in range(8)))).count(True) == 1


class ParkedContract:
    async def test_messages_are_set_aside_and_taken_up_again(self, store: EventStore) -> None:
        await store.commit(Step(parked=[parked(9), parked(7)], cursors=[cursor(0, 9)]))
        assert list(await store.parked()) == [parked(7), parked(9)]
        await store.commit(Step(unparked=[parked(7)], rows=[event(A, 1)]))
        assert list(await store.parked()) == [parked(9)]

    async def test_a_message_is_taken_up_once(self, store: EventStore) -> None:
        await store.commit(Step(parked=[parked(7), parked(9)]))
        await store.commit(Step(unparked=[parked(7)]))
        with pytest.raises(Fenced):
            await store.commit(Step(unparked=[parked(9), parked(7)], rows=[event(A, 1)]))
        assert list(await store.parked()) == [parked(9)]
        assert await versions(store, A) == []

    async def test_a_retry_that_fails_again_changes_the_reason(self, store: EventStore) -> None:
        await store.commit(Step(parked=[parked(7)]))
        await store.commit(Step(unparked=[parked(7)], parked=[parked(7, "still unknown")]))
        assert list(await store.parked()) == [parked(7, "still unknown")]

    async def test_a_request_stays_with_its_message_until_that_is_set_aside_again(
        self, store: EventStore
    ) -> None:
        await store.commit(Step(parked=[parked(7), parked(9)]))
        assert await store.ask_parked([parked(7), parked(8)], asked="retry") == 1
        assert [each.asked for each in await store.parked()] == ["retry", ""]
        await store.commit(Step(parked=[parked(7, "told again")]))
        assert [each.asked for each in await store.parked()] == ["retry", ""]
        await store.commit(Step(unparked=[parked(7)], parked=[parked(7)]))
        assert [each.asked for each in await store.parked()] == ["", ""]

    async def test_a_request_can_be_changed_and_taken_back(self, store: EventStore) -> None:
        await store.commit(Step(parked=[parked(7)]))
        await store.ask_parked([parked(7)], asked="retry")
        await store.ask_parked([parked(7)], asked="skip")
        assert [each.asked for each in await store.parked()] == ["skip"]
        await store.ask_parked([parked(7)], asked="")
        assert [each.asked for each in await store.parked()] == [""]


class BlobContract:
    async def test_a_blob_is_kept_under_its_hash(self, store: EventStore) -> None:
        content = bytes(range(256)) * 500
        sha256 = await store.put_blob(content)
        assert sha256 == hashlib.sha256(content).hexdigest()
        assert await store.put_blob(content) == sha256
        assert await store.get_blob(sha256) == content
        assert await store.get_blob("0" * 64) is None

    async def test_a_blob_over_the_limit_is_refused(self, store: EventStore) -> None:
        with pytest.raises(Refused) as refused:
            await store.put_blob(bytes(BLOB_BYTES_MAX + 1))
        assert refused.value.code == "blob-too-large"


class PartitionContract:
    async def test_a_copy_alone_has_every_partition(self, store: EventStore) -> None:
        assert await store.balance(copy_id="x", lease_s=5) == frozenset(range(PARTITIONS))
        assert await store.balance(copy_id="x", lease_s=5) == frozenset(range(PARTITIONS))

    async def test_partitions_spread_evenly_and_nobody_shares(self, store: EventStore) -> None:
        copies = ["x", "y", "z"]
        held: list[frozenset[int]] = []
        for _ in range(3):
            held = [await store.balance(copy_id=copy, lease_s=5) for copy in copies]
        assert sorted(map(len, held)) == [21, 21, 22]
        assert frozenset().union(*held) == frozenset(range(PARTITIONS))

    async def test_a_newcomer_takes_only_what_was_given_up(self, store: EventStore) -> None:
        first = await store.balance(copy_id="x", lease_s=5)
        assert await store.balance(copy_id="y", lease_s=5) == frozenset()
        kept = await store.balance(copy_id="x", lease_s=5)
        assert kept < first
        assert len(kept) == 32
        assert await store.balance(copy_id="y", lease_s=5) == first - kept

    async def test_a_copy_that_left_is_replaced_at_once(self, store: EventStore) -> None:
        await store.balance(copy_id="x", lease_s=60)
        await store.balance(copy_id="y", lease_s=60)
        await store.leave(copy_id="x")
        assert await store.balance(copy_id="y", lease_s=60) == frozenset(range(PARTITIONS))

    async def test_a_dead_copy_keeps_its_partitions_until_its_lease_ends(
        self, harness: Harness
    ) -> None:
        store = harness.store
        await store.balance(copy_id="dead", lease_s=0.3)
        assert await store.balance(copy_id="y", lease_s=5) == frozenset()
        await harness.pass_time(0.31)
        assert await store.balance(copy_id="y", lease_s=5) == frozenset(range(PARTITIONS))

    async def test_two_copies_never_hold_one_partition(self, store: EventStore) -> None:
        held: dict[str, frozenset[int]] = {}

        for copy in ("x", "y", "x", "y", "z", "y", "x", "z", "y", "x"):
            held[copy] = await store.balance(copy_id=copy, lease_s=5)
            others = [partitions for name, partitions in held.items() if name != copy]
            assert not held[copy] & frozenset().union(*others)
        assert sum(map(len, held.values())) == PARTITIONS


class StoreContract(
    LogContract, LoadContract, CursorContract, ReadContract, TimerContract, ReservationContract,
    ParkedContract, BlobContract, PartitionContract,
):  # fmt: skip
    """All of it."""
