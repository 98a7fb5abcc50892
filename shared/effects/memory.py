"""The work queue in memory, for tests and simulation: one object is one shared database.

Passes the same contract suite as PostgreSQL and shares its order and spending (`select.py`).
Nothing here awaits, so every verb is one transaction. Time is the clock it is given.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from schemas.envelope import Meta
from schemas.registry import encode
from shared.clock import Clock
from shared.decider import Need, WorkClass
from shared.effects.adapt import OUTCOMES_EVERY_S, PAUSE_S_MAX, concerned
from shared.effects.port import (
    Budget,
    BudgetState,
    Claimed,
    ClaimResult,
    Lease,
    Waiting,
)
from shared.effects.select import (
    NOTHING,
    RESERVE_S,
    Head,
    Heads,
    Lane,
    Patience,
    Selection,
    choose_lanes,
    groups_of,
    select,
)
from shared.effects.stock import Answer, Stock, instant, state_of
from shared.errors import Refused
from shared.eventlog.port import Fenced, NewEffect, Pushback, Settled

_DEPTH: Final = 64
_NEXT_MIN_S: Final = 0.01
_NEVER: Final = float("-inf")


class _Worker(msgspec.Struct):
    lease: Lease
    service: str
    kinds: frozenset[str]
    expires_at: float


class _Effect(msgspec.Struct):
    """state: w waits for ready_at; r ready; x ready and to be cancelled; c claimed."""

    place: int
    effect_id: str
    lane: Lane
    needs: tuple[Need, ...]
    stream: str
    partition: int
    stream_version: int
    type: str
    schema_version: int
    data: bytes
    meta: Meta
    due: float
    ready_at: float
    attempt: int
    state: str
    lease_no: int
    claim_no: int
    budgeted: bool
    cancel_requested: bool

    @property
    def order(self) -> tuple[float, int]:
        return self.due, self.place


class MemoryWork:
    """A work queue shared by everything that holds this object.

    `platform_timeout_s`: how long a call of a dead worker may still run at the platform, and
    keep its slots, except for `quick_return_kinds`.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        platform_timeout_s: float = 60.0,
        quick_return_kinds: Collection[str] = (),
    ) -> None:
        self._clock = clock
        self._platform_timeout_s = platform_timeout_s
        self._quick = frozenset(quick_return_kinds)
        self._started_at = _NEVER
        self._lease_no = 0
        self._claim_no = 0
        self._place = 0
        self._workers: dict[int, _Worker] = {}
        self._effects: dict[str, _Effect] = {}
        self._waiting: dict[str, _Effect] = {}
        self._cancelled: dict[str, _Effect] = {}
        self._claimed: dict[int, dict[str, _Effect]] = {}
        self._lanes: dict[tuple[object, ...], Lane] = {}
        self._ready: dict[int, list[_Effect]] = {}
        self._stocks: list[Stock] = []
        self._names: dict[str, int] = {}
        self._seats: set[tuple[int, str]] = set()
        self._returns: list[tuple[float, int, int]] = []
        self._turns: dict[tuple[int, int, str], int] = {}
        self._reserved: dict[int, float] = {}
        self._answers: list[Answer] = []
        self._patience = Patience()

    def restart(self) -> None:
        """As the restart of a database server: no lease ends within its own length from now."""
        self._started_at = self._now()

    # Leases.

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease:
        before = [
            number
            for number, held in self._workers.items()
            if held.lease.worker == worker and held.service == service
        ]
        self._reap(before, self._platform_timeout_s)
        self._lease_no += 1
        lease = Lease(worker=worker, number=self._lease_no, lease_s=lease_s)
        self._workers[lease.number] = _Worker(lease, service, frozenset(), self._now() + lease_s)
        return lease

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        self._worker_of(lease).expires_at = self._now() + lease.lease_s
        return tuple(
            effect.effect_id
            for effect in self._claimed.get(lease.number, {}).values()
            if effect.cancel_requested
        )

    async def end_lease(self, lease: Lease) -> None:
        self._reap([lease.number], 0)

    async def renew_claims(self, lease: Lease, effect_ids: Sequence[str]) -> None:
        lost = [id_ for id_ in effect_ids if not self._stands(id_, lease.number)]
        if lost:
            raise Fenced("claim", lost)

    async def unanswered(self, lease: Lease, known: Collection[str]) -> Sequence[Claimed]:
        return tuple(
            _claimed(effect)
            for effect in self._claimed.get(lease.number, {}).values()
            if effect.effect_id not in known
        )

    # Claims.

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        worker = self._worker_of(lease)
        worker.kinds = frozenset(kinds)
        now = self._now()
        self._maintain(now)
        self._adapt(now)
        self._ripen(now)
        cancelled = self._cancelled_of(worker)[:count_max]
        selection = self._select(worker, now, count_max - len(cancelled))
        effects = [self._take(effect, lease, budgeted=False) for effect in cancelled]
        effects += self._grant(selection, lease, now)
        return ClaimResult(
            effects=tuple(effects),
            next_in_s=self._next_in_s(now, lease),
            more=bool(effects) and (selection.cut or bool(selection.seats)),
        )

    def _select(self, worker: _Worker, now: float, count_max: int) -> Selection:
        ready = [lane for lane in self._lanes.values() if self._ready.get(lane.lane_id)]
        if not ready:
            return NOTHING
        rooms = {budget: stock.room(now) for budget, stock in enumerate(self._stocks)}
        reserved = {lane for lane, until in self._reserved.items() if until > now}
        reading = choose_lanes(
            ready, rooms,
            service=worker.service, kinds=worker.kinds, shadows=self._shadows(worker),
        )  # fmt: skip
        if not reading.lanes and not reading.seat_lanes:
            return NOTHING
        held: dict[str, frozenset[int]] = {}
        for budget, stream in self._seats:
            held[stream] = held.get(stream, frozenset()) | {budget}
        heads = [
            self._heads(lane, worker, self._ready[lane.lane_id][: min(most, _DEPTH)])
            for lane, most in [*reading.lanes, *((lane, 1) for lane in reading.blocked)]
        ]
        for lane in reading.seat_lanes:
            sitting = [e for e in self._ready[lane.lane_id] if e.stream in held]
            heads.append(self._heads(lane, worker, sitting, whole=True))
        return select(
            [each for each in heads if each.heads], rooms, held=held,
            turns={group: self._turns.get(group, 0) for group in groups_of(reading)},
            reserved=reserved, now=now, count_max=count_max,
        )  # fmt: skip

    def _heads(
        self, lane: Lane, worker: _Worker, effects: Sequence[_Effect], *, whole: bool = False
    ) -> Heads:
        return Heads(
            lane,
            lane.service == worker.service and lane.kind in worker.kinds,
            [Head(effect.due, effect.effect_id, effect.stream) for effect in effects],
            whole or len(effects) == len(self._ready[lane.lane_id]),
        )

    def _grant(self, selection: Selection, lease: Lease, now: float) -> list[Claimed]:
        for budget, units in selection.units.items():
            self._stocks[budget].take(units, now)
        self._seats.update(selection.seats)
        self._turns.update(selection.turns)
        for _, lane in selection.granted:
            self._reserved.pop(lane.lane_id, None)
        for lane_id in self._patience.note(selection):
            self._reserved[lane_id] = now + RESERVE_S
        return [
            self._take(self._effects[effect_id], lease, budgeted=True)
            for effect_id, _ in selection.granted
        ]

    def _take(self, effect: _Effect, lease: Lease, *, budgeted: bool) -> Claimed:
        self._leave(effect)
        effect.state, effect.lease_no, effect.budgeted = "c", lease.number, budgeted
        self._claim_no += 1
        effect.claim_no = self._claim_no
        self._claimed.setdefault(lease.number, {})[effect.effect_id] = effect
        return _claimed(effect)

    def _cancelled_of(self, worker: _Worker) -> list[_Effect]:
        return [
            effect
            for effect in self._cancelled.values()
            if effect.lane.service == worker.service and effect.lane.kind in worker.kinds
        ]

    def _shadows(self, worker: _Worker) -> set[tuple[str, str]]:
        return {
            (other.service, kind)
            for other in self._workers.values()
            if other is not worker and self._alive(other)
            for kind in other.kinds
        }

    def _next_in_s(self, now: float, lease: Lease) -> float | None:
        times = [effect.ready_at for effect in self._waiting.values()]
        times += [at for at, _, _ in self._returns]
        times += [
            self._ends_at(w) for w in self._workers.values() if w.lease.number != lease.number
        ]
        times += [until for until in self._reserved.values() if until > now]
        waits = [at - now for at in times]
        waits += [wait for stock in self._stocks if (wait := stock.wait_s(now)) is not None]
        return max(min(waits), _NEXT_MIN_S) if waits else None

    # What a step does, inside the store's commit.

    def apply_work(
        self,
        service: str,
        *,
        effects: Sequence[NewEffect],
        stream_versions: Mapping[str, int],
        settled: Sequence[Settled],
        cancelled: Sequence[str],
        released_seats: Sequence[tuple[str, str]],
    ) -> None:
        """Settle, cancel, enqueue, release (budget, stream). All or nothing: raises Fenced."""
        lost = [s.effect_id for s in settled if not self._stands(s.effect_id, s.lease_no)]
        if lost:
            raise Fenced("claim", lost)
        for each in settled:
            if not each.keep:
                self._settle(each)
        for effect_id in cancelled:
            self._cancel(effect_id)
        for new in effects:
            self._enqueue(service, new, stream_versions.get(new.stream, 0))
        for name, stream in released_seats:
            budget = self._names.get(name)
            if budget is not None and (budget, stream) in self._seats:
                self._seats.remove((budget, stream))
                self._stocks[budget].in_use -= 1

    def _settle(self, settled: Settled) -> None:
        effect = self._effects[settled.effect_id]
        if effect.budgeted:
            for budget in self._slots(effect.lane):
                self._stocks[budget].in_use -= 1
        self._note_answer(settled, effect)
        if settled.requeue_at is None:
            self._leave(effect)
            del self._effects[settled.effect_id]
            return
        effect.attempt = settled.attempt
        effect.ready_at = settled.requeue_at.timestamp()
        self._free(effect)

    def _note_answer(self, settled: Settled, effect: _Effect) -> None:
        """Refusals, and outcomes of work that took budgets which were lowered."""
        now, pushback = self._now(), settled.pushback
        if pushback is not None:
            wait_s = pushback.retry_after_s
            until = None if wait_s is None else now + min(wait_s, PAUSE_S_MAX)
            for budget in self._concerned(effect.lane, pushback):
                self._answers.append(Answer(budget, now, effect.claim_no, until))
        elif settled.requeue_at is None and effect.budgeted:
            self._answers += [
                Answer(budget, now)
                for budget in effect.lane.budgets
                if self._stocks[budget].level.limit is not None
            ]

    def _concerned(self, lane: Lane, pushback: Pushback) -> list[int]:
        budgets = [self._stocks[budget].budget for budget in lane.budgets]
        taken, others = concerned(
            [(each.name, each.mode) for each in budgets],
            quota=pushback.quota,
            busy=pushback.busy,
        )
        return [
            budget
            for name in sorted(taken | others)
            if (budget := self._names.get(name)) is not None
            and (self._stocks[budget].budget.mode != "rate") == pushback.busy
        ]

    def _adapt(self, now: float) -> None:
        """Fold answers: refusals at once, outcomes when they have been gathered for a while."""
        if not any(
            each.claim_no is not None or each.at <= now - OUTCOMES_EVERY_S
            for each in self._answers
        ):
            return
        answers, self._answers = self._answers, []
        for budget in sorted({each.budget for each in answers}):
            own = [each for each in answers if each.budget == budget]
            self._stocks[budget].hear(own, now, self._claim_no)

    def _cancel(self, effect_id: str) -> None:
        effect = self._effects.get(effect_id)
        if effect is not None and not effect.cancel_requested:
            effect.cancel_requested = True
            if effect.state != "c":
                self._free(effect)

    def _enqueue(self, service: str, new: NewEffect, stream_version: int) -> None:
        wanted = new.effect
        effect_id = f"{new.stream}/{wanted.part}"
        if effect_id in self._effects:
            return
        name, schema_version, data = encode(wanted.payload)
        self._place += 1
        effect = _Effect(
            place=self._place, effect_id=effect_id, lane=self._lane(service, new),
            needs=tuple(sorted(wanted.needs)), stream=new.stream, partition=new.partition,
            stream_version=stream_version, type=name, schema_version=schema_version, data=data,
            meta=new.meta, due=wanted.due.timestamp(),
            ready_at=wanted.not_before.timestamp() if wanted.not_before else self._now(),
            attempt=0, state="w", lease_no=0, claim_no=0, budgeted=False,
            cancel_requested=False,
        )  # fmt: skip
        self._effects[effect_id] = effect
        self._free(effect)

    def _lane(self, service: str, new: NewEffect) -> Lane:
        effect = new.effect
        budgets = tuple(dict.fromkeys(self._budget(need) for need in sorted(effect.needs)))
        key = (
            service, effect.kind, int(effect.work_class), effect.priority, effect.plan,
            effect.interval_s, budgets,
        )  # fmt: skip
        if key not in self._lanes:
            self._lanes[key] = Lane(
                lane_id=len(self._lanes), service=service, kind=effect.kind,
                work_class=int(effect.work_class), priority=effect.priority, plan=effect.plan,
                interval_s=effect.interval_s, budgets=budgets,
                seats=frozenset(b for b in budgets if self._stocks[b].budget.mode == "seat"),
            )  # fmt: skip
        return self._lanes[key]

    def _budget(self, need: Need) -> int:
        """The budget a need names; one that nobody has defined has no room."""
        if need.budget not in self._names:
            self._names[need.budget] = len(self._stocks)
            unknown = Budget(name=need.budget, mode=need.mode)
            self._stocks.append(Stock(unknown, 0, 0, self._now()))
        return self._names[need.budget]

    # Where an effect stands.

    def _free(self, effect: _Effect) -> None:
        """Nobody runs it (any more): it waits, is ready, or is to be cancelled."""
        self._leave(effect)
        effect.lease_no, effect.budgeted = 0, False
        if effect.cancel_requested:
            effect.state = "x"
            self._cancelled[effect.effect_id] = effect
        elif effect.ready_at > self._now():
            effect.state = "w"
            self._waiting[effect.effect_id] = effect
        else:
            effect.state = "r"
            queue = self._ready.setdefault(effect.lane.lane_id, [])
            bisect.insort(queue, effect, key=lambda each: each.order)

    def _leave(self, effect: _Effect) -> None:
        """Take it from where its state had put it."""
        self._waiting.pop(effect.effect_id, None)
        self._cancelled.pop(effect.effect_id, None)
        self._claimed.get(effect.lease_no, {}).pop(effect.effect_id, None)
        if effect.state == "r":
            queue = self._ready[effect.lane.lane_id]
            del queue[bisect.bisect_left(queue, effect.order, key=lambda each: each.order)]

    def _ripen(self, now: float) -> None:
        for effect in list(self._waiting.values()):
            if effect.ready_at <= now:
                self._free(effect)

    # Death.

    def _alive(self, worker: _Worker) -> bool:
        return self._now() < self._ends_at(worker)

    def _ends_at(self, worker: _Worker) -> float:
        return max(worker.expires_at, self._started_at + worker.lease.lease_s)

    def _worker_of(self, lease: Lease) -> _Worker:
        worker = self._workers.get(lease.number)
        if worker is None or not self._alive(worker):
            raise Fenced("lease", [lease.worker])
        return worker

    def _stands(self, effect_id: str, lease_no: int) -> bool:
        effect = self._effects.get(effect_id)
        worker = self._workers.get(lease_no)
        return (
            effect is not None
            and effect.state == "c"
            and effect.lease_no == lease_no
            and worker is not None
            and self._alive(worker)
        )

    def _maintain(self, now: float) -> None:
        dead = [number for number, worker in self._workers.items() if not self._alive(worker)]
        self._reap(dead, self._platform_timeout_s)
        due = [each for each in self._returns if each[0] <= now]
        self._returns = [each for each in self._returns if each[0] > now]
        for _, budget, count in due:
            self._stocks[budget].in_use -= count

    def _reap(self, leases: Iterable[int], slow_s: float) -> None:
        ended = set(leases)
        held = [e for number in sorted(ended) for e in self._claimed.get(number, {}).values()]
        for effect in held:
            slow = slow_s > 0 and effect.lane.kind not in self._quick
            for budget in self._slots(effect.lane) if effect.budgeted else ():
                if slow:
                    self._returns.append((self._now() + slow_s, budget, 1))
                else:
                    self._stocks[budget].in_use -= 1
            effect.ready_at = min(effect.ready_at, self._now())
            self._free(effect)
        for number in ended:
            self._workers.pop(number, None)
            self._claimed.pop(number, None)

    def _slots(self, lane: Lane) -> list[int]:
        return [b for b in lane.budgets if self._stocks[b].budget.mode == "hold"]

    # Budgets, lists.

    async def define(self, budgets: Sequence[Budget]) -> None:
        now = self._now()
        known = {
            b.name: self._stocks[self._names[b.name]] for b in budgets if b.name in self._names
        }
        wrong = [
            b.name for b in budgets if b.name in known and known[b.name].budget.mode != b.mode
        ]
        if wrong:
            raise Refused(
                f"budgets exist with another mode: {', '.join(wrong)}",
                remedy="name the new budget differently",
                code="budget-mode",
            )
        for budget in budgets:
            stock = known.get(budget.name)
            if stock is None:
                self._names[budget.name] = len(self._stocks)
                self._stocks.append(Stock(budget, 0, budget.burst, now))
            elif stock.budget != budget:
                fresh = stock.budget.burst == 0
                stock.tokens = budget.burst if fresh else min(budget.burst, stock.filled(now))
                stock.refilled_at = max(now, stock.level.paused_until or 0)
                stock.budget = budget

    async def budgets(self) -> Sequence[BudgetState]:
        now = self._now()
        ordered = sorted(self._stocks, key=lambda stock: stock.budget.name)
        return tuple(state_of(stock, now) for stock in ordered)

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]:
        ordered = sorted(
            self._effects.values(),
            key=lambda e: (e.lane.work_class, e.state != "c", e.lane.priority, e.due, e.effect_id),
        )
        return tuple(self._describe(effect) for effect in ordered[:count_max])

    def _describe(self, effect: _Effect) -> Waiting:
        now, lane = self._now(), effect.lane
        worker = self._workers.get(effect.lease_no)
        blocked = [
            self._stocks[budget].budget.name
            for budget in (() if effect.state == "c" else lane.budgets)
            if (budget, effect.stream) not in self._seats and self._stocks[budget].room(now) < 1
        ]
        return Waiting(
            effect_id=effect.effect_id, service=lane.service, kind=lane.kind, plan=lane.plan,
            work_class=WorkClass(lane.work_class), priority=lane.priority,
            due=instant(effect.due), ready_at=instant(effect.ready_at), needs=effect.needs,
            worker=worker.lease.worker if worker else "", attempt=effect.attempt,
            blocked_by=tuple(blocked),
        )  # fmt: skip

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _claimed(effect: _Effect) -> Claimed:
    return Claimed(
        effect_id=effect.effect_id, stream=effect.stream, partition=effect.partition,
        kind=effect.lane.kind, type=effect.type, schema_version=effect.schema_version,
        data=effect.data, meta=effect.meta, attempt=effect.attempt, lease_no=effect.lease_no,
        stream_version=effect.stream_version, cancelled=not effect.budgeted,
        claim_no=effect.claim_no,
    )  # fmt: skip
