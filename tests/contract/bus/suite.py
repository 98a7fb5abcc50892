"""What every bus promises a reader, apart from any consumer."""

from __future__ import annotations

from schemas.ids import PARTITIONS, partition_of
from tests.contract.bus.copies import COMMANDS, EVERY, KEYS, Harness, send, starts

A, B = KEYS[3], KEYS[9]
AT_A = ("gateway", COMMANDS, partition_of(A))
AT_B = ("gateway", COMMANDS, partition_of(B))


class BusContract:
    async def test_rows_of_all_64_partitions_come_in_seq_order_per_partition(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts(KEYS, range(5)))
        rows = await harness.bus.fetch(EVERY, count_max=1000)
        for partition in range(PARTITIONS):
            found = [(row.seq, row.stream) for row in rows if row.partition == partition]
            senders = [f"command:{KEYS[partition]}:{n}" for n in range(5)]
            assert found == list(enumerate(senders, 1))
        assert len(rows) == 5 * PARTITIONS

    async def test_a_row_is_brought_as_the_log_has_it(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A], range(2)))
        told = await harness.gateway.read(COMMANDS, {partition_of(A): 0}, count_max=10)
        assert list(await harness.bus.fetch({AT_A: 0}, count_max=10)) == list(told)

    async def test_only_the_positions_named_are_read(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A, B], range(3)))
        rows = await harness.bus.fetch({AT_A: 1}, count_max=10)
        assert [(row.partition, row.seq) for row in rows] == [
            (partition_of(A), 2), (partition_of(A), 3),
        ]  # fmt: skip
        assert not await harness.bus.fetch({}, count_max=10)

    async def test_bounded_readings_one_after_the_other_skip_nothing(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts(KEYS, range(4)))
        positions = dict(EVERY)
        seen = 0
        for _ in range(1000):
            rows = await harness.bus.fetch(positions, count_max=7)
            assert len(rows) <= 7
            if not rows:
                break
            for row in rows:
                where = (row.source, row.topic, row.partition)
                assert row.seq == positions[where] + 1
                positions[where] = row.seq
                seen += 1
        assert seen == 4 * PARTITIONS

    async def test_asking_again_brings_the_same_again(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A], range(3)))
        first = await harness.bus.fetch({AT_A: 0}, count_max=10)
        assert await harness.bus.fetch({AT_A: 0}, count_max=10) == first

    async def test_the_logs_of_several_services_are_read_side_by_side(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts([A], range(2)))
        await send(harness.counter, starts([A], range(3)))
        own = ("counter", COMMANDS, partition_of(A))
        rows = await harness.bus.fetch({AT_A: 0, own: 1}, count_max=10)
        assert sorted((row.source, row.seq) for row in rows) == [
            ("counter", 2), ("counter", 3), ("gateway", 1), ("gateway", 2),
        ]  # fmt: skip

    async def test_the_lag_is_what_waits_past_the_positions(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A, B], range(3)))
        assert await harness.bus.lag({AT_A: 1, AT_B: 3}) == 2
        assert await harness.bus.lag(EVERY) == 6
        assert await harness.bus.lag({}) == 0

    async def test_heads_tell_epoch_and_end_of_each_log_that_is_there(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts([A], range(3)))
        strange = ("nobody", COMMANDS, 0)
        assert await harness.bus.heads({AT_A: 1, AT_B: 0, strange: 0}) == {
            AT_A: (1, 3), AT_B: (1, 0),
        }  # fmt: skip

    async def test_a_restored_log_is_told_by_heads_and_rows(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A], range(3)))
        await harness.restore_gateway(epoch=2, keep=2)
        assert (await harness.bus.heads({AT_A: 2}))[AT_A] == (2, 2)
        rows = await harness.bus.fetch({AT_A: 1}, count_max=10)
        assert [(row.epoch, row.seq) for row in rows] == [(2, 2)]
