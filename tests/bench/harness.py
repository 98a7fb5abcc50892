"""Runs one benchmark, judges its goals, probes the machine around it, prints one JSON line.

To add a benchmark called `first-power-on`, write `tests/bench/first_power_on.py` (the module's
name is the benchmark's with `_` for `-`) with

    NAME = "first-power-on"
    UNIT = "ms"
    GOAL = Goal(most=150, parts={"p99_ms": Goal(most=300)})

    async def run() -> Measurement:
        async with folder() as home:                   # a scratch folder, removed afterwards
            samples = await repeat(lambda: once(home)) # five repetitions, told on stderr
        return Measurement(values=samples, parts={"p99_ms": …})

`value` is the median of `values`. `GOAL` speaks about `value`, and by name about entries of
`parts`; `Goal(…, any_of=True)` holds when one of its bounds does. A benchmark that checks more
than numbers (hashes, counts) says so with `Measurement(sound=False, …)`, and never holds then.
Say what goes on with `say()`: standard output carries only the result.

A run on a slow or uneven machine says `noisy` and is repeated, three times at most and only
while it can end within `LIMIT_S` (170 unless the module defines its own). The last run counts.
Owns none of the measured things.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg
import msgspec

from shared.embedded import EmbeddedPostgres

REPETITIONS: Final = 5
RUNS_MAX: Final = 4
LIMIT_S: Final = 170.0

# Absolute goals are meant for a machine that commits at least this often.
_COMMIT_PER_S_MIN: Final = 4_000
_PROBES_DIFFER_MAX: Final = 0.30
_PROBE_S: Final = 1.0
_SQL_TIMEOUT_S: Final = 10.0
_CPU_LOOPS: Final = 2_000_000


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds for a value and for named parts: `least ≤ value ≤ most`; all, or `any_of` them."""

    least: float | None = None
    most: float | None = None
    parts: dict[str, Goal] = {}
    any_of: bool = False

    def met(self, value: float, parts: Mapping[str, Any]) -> bool:
        """Whether the bounds hold; a part that is absent or no number does not hold."""
        verdicts = []
        if self.least is not None or self.most is not None:
            verdicts.append(
                (self.least is None or value >= self.least)
                and (self.most is None or value <= self.most)
            )
        for name, goal in self.parts.items():
            part = parts.get(name)
            verdicts.append(isinstance(part, int | float) and goal.met(part, {}))
        return any(verdicts) if self.any_of else all(verdicts)

    def __str__(self) -> str:
        said = [f">= {self.least:g}"] if self.least is not None else []
        said += [f"<= {self.most:g}"] if self.most is not None else []
        said += [f"{name} {goal}" for name, goal in self.parts.items()]
        return (" or " if self.any_of else ", ").join(said)


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a benchmark found; `sound` is False if what it did was wrong."""

    values: tuple[float, ...]
    parts: dict[str, Any] = {}
    sound: bool = True


class Benchmark(Protocol):
    """The shape of a benchmark's module."""

    NAME: str
    UNIT: str
    GOAL: Goal

    async def run(self) -> Measurement:
        """Measure once, repetitions included."""


def say(text: str) -> None:
    """Tell the person who waits; standard error."""
    print(text, file=sys.stderr, flush=True)


async def repeat(
    once: Callable[[], Awaitable[float]], *, times: int = REPETITIONS
) -> tuple[float, ...]:
    """The values of `times` repetitions, one after the other."""
    values = []
    for index in range(times):
        values.append(await once())
        say(f"  {index + 1}/{times}: {values[-1]:.4g}")
    return tuple(values)


@contextlib.asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """A scratch folder on the disk that `SEAWALL_BENCH_DIR` (or TMPDIR) names."""
    where = os.environ.get("SEAWALL_BENCH_DIR")
    home = Path(tempfile.mkdtemp(prefix="seawall-bench-", dir=where))
    try:
        yield home
    finally:
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


async def measure(bench: Benchmark) -> dict[str, Any]:
    """Run a benchmark with its probes until it is not noisy; return the line to print."""
    limit_s = getattr(bench, "LIMIT_S", LIMIT_S)
    began_s = time.monotonic()
    runs = 0
    async with _probes() as probe:
        while True:
            run_began_s = time.monotonic()
            runs += 1
            say(f"{bench.NAME}: run {runs}")
            before = await probe()
            found = await bench.run()
            after = await probe()
            noisy = _is_noisy(before, after)
            now_s = time.monotonic()
            ends_too_late = now_s - began_s + (now_s - run_began_s) > limit_s
            if not noisy or ends_too_late or runs == RUNS_MAX:
                break
            say(f"{bench.NAME}: noisy (before {before}, after {after})")
    return _line(bench, found, {"before": before, "after": after, "noisy": noisy, "runs": runs})


def _line(bench: Benchmark, found: Measurement, machine: dict[str, Any]) -> dict[str, Any]:
    value = statistics.median(found.values)
    return {
        "name": bench.NAME,
        "value": round(value, 4),
        "unit": bench.UNIT,
        "goal": str(bench.GOAL),
        "holds": found.sound and bench.GOAL.met(value, found.parts),
        "parts": {"values": [round(each, 4) for each in found.values], **found.parts},
        "machine": {**machine, "cores": os.cpu_count()},
    }


@contextlib.asynccontextmanager
async def _probes() -> AsyncIterator[Callable[[], Awaitable[dict[str, float]]]]:
    """A probe of the machine with a database of its own, idle while the benchmark runs."""
    async with folder() as home:
        server = EmbeddedPostgres(home)
        try:
            dsn = await asyncio.to_thread(server.start)

            async def probe() -> dict[str, float]:
                return {"commit_per_s": await _commit_per_s(dsn), "cpu": _cpu()}

            yield probe
        finally:
            await asyncio.to_thread(server.stop)


async def _commit_per_s(dsn: str) -> float:
    """Commits per second: one connection, prepared autocommit INSERT of 200 bytes."""
    connection = await asyncpg.connect(dsn, timeout=_SQL_TIMEOUT_S)
    try:
        await connection.execute(
            "create table if not exists probe (data bytea)", timeout=_SQL_TIMEOUT_S
        )
        insert = await connection.prepare("insert into probe values ($1)", timeout=_SQL_TIMEOUT_S)
        data = bytes(200)
        await insert.fetch(data, timeout=_SQL_TIMEOUT_S)
        count, began_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - began_s) < _PROBE_S:
            await insert.fetch(data, timeout=_SQL_TIMEOUT_S)
            count += 1
        return round(count / elapsed_s, 1)
    finally:
        await connection.close(timeout=_SQL_TIMEOUT_S)


def _cpu() -> float:
    """Millions of rounds per second of a fixed Python loop, the best of three."""
    best_s = float("inf")
    for _ in range(3):
        began_s = time.perf_counter()
        total = 0
        for number in range(_CPU_LOOPS):
            total += number & 7
        best_s = min(best_s, time.perf_counter() - began_s)
    return round(_CPU_LOOPS / best_s / 1e6, 2)


def _is_noisy(before: dict[str, float], after: dict[str, float]) -> bool:
    if min(before["commit_per_s"], after["commit_per_s"]) < _COMMIT_PER_S_MIN:
        return True
    return any(
        abs(before[name] - after[name]) > _PROBES_DIFFER_MAX * max(before[name], after[name])
        for name in before
    )
