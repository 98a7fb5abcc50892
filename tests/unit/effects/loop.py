"""A platform with a token bucket of its own, and a budget that follows its answers. No queue."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator

import msgspec

from shared.effects.adapt import OUTCOMES_EVERY_S
from shared.effects.port import Budget
from shared.effects.stock import Answer, Stock

TICK_S = 0.01
START = 1_000_000.0


class Server:
    """Takes `per_second` calls with a `burst`, and refuses the others."""

    def __init__(self, *, burst: float, per_second: float, retry_after: bool) -> None:
        self.burst = burst
        self.per_second = per_second
        self.retry_after = retry_after
        self._tokens = burst
        self._at = START

    def ask(self, now: float) -> tuple[bool, float | None]:
        """Whether a call is taken, and else when it says to come again."""
        grown = (now - self._at) * self.per_second
        self._tokens, self._at = min(self._tokens + grown, self.burst), now
        if self._tokens >= 1:
            self._tokens -= 1
            return True, None
        again = now + (1 - self._tokens) / self.per_second
        return False, again if self.retry_after else None


class Call(msgspec.Struct, frozen=True, order=True):
    """A call under way, answered at `at`."""

    at: float
    claim_no: int


class Loop:
    """Always more work than a budget lets pass; calls take up to twice `latency_s`."""

    def __init__(
        self, server: Server, cap: Budget, *, latency_s: float = 0.05, seed: int = 1
    ) -> None:
        self.server = server
        self.stock = Stock(cap, 0, cap.burst, START)
        self.now = START
        self.taken: list[float] = []
        self.refused: list[float] = []
        self.limits: list[float] = []
        self.granted: list[float] = []
        self.too_early = 0
        self._latency_s = latency_s
        self._chance = random.Random(seed)
        self._claim_no = 0
        self._calls: list[Call] = []
        self._answers: list[Answer] = []
        self._outcomes_at = START

    def run(self, seconds: float, *, busy: bool = True) -> None:
        """Let time pass; without work when not `busy`."""
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            self._hear()
            self._fold()
            if busy:
                self._send()

    def _hear(self) -> None:
        while self._calls and self._calls[0].at <= self.now:
            call = heapq.heappop(self._calls)
            taken, until = self.server.ask(self.now)
            if taken:
                self.taken.append(self.now)
                if self.stock.level.limit is not None:
                    self._answers.append(Answer(0, self.now))
            else:
                self.refused.append(self.now)
                self._answers.append(Answer(0, self.now, call.claim_no, until))

    def _fold(self) -> None:
        refused = any(each.claim_no is not None for each in self._answers)
        due = self.now - self._outcomes_at >= OUTCOMES_EVERY_S
        if self._answers and (refused or due):
            self.stock.hear(self._answers, self.now, self._claim_no)
            self._answers, self._outcomes_at = [], self.now
        self.limits.append(self.stock.limit(self.now))

    def _send(self) -> None:
        count = min(int(self.stock.room(self.now) + 1e-9), 64)
        if count <= 0:
            return
        if self.stock.paused_s(self.now):
            self.too_early += count
        self.stock.take(count, self.now)
        self._claim_no += 1
        for _ in range(count):
            self.granted.append(self.now)
            after_s = self._latency_s * self._chance.uniform(0.2, 2)
            heapq.heappush(self._calls, Call(self.now + after_s, self._claim_no))

    def since(self, seconds: float) -> tuple[float, float]:
        """Of what was answered after so many seconds: calls taken per second, share refused."""
        begin = START + seconds
        taken = sum(at >= begin for at in self.taken)
        refused = sum(at >= begin for at in self.refused)
        return taken / (self.now - begin), refused / max(taken + refused, 1)


def windows(times: list[float], seconds: float) -> Iterator[int]:
    """How many of the sorted `times` lie in each window that begins with one of them."""
    end = 0
    for begin, at in enumerate(times):
        while end < len(times) and times[end] < at + seconds:
            end += 1
        yield end - begin
