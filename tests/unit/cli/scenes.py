"""Looks at jobs of every kind, folded from what the deciders themselves said, and their pictures.

`python -m tests.unit.cli.scenes` writes the pictures in `views/` anew: read the difference before
it is committed.
"""

from __future__ import annotations

import datetime as dt
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.common import Problem, ScriptReport
from schemas.joins import job_now
from schemas.views import Job, Progress
from services.cli.live import waits
from services.cli.live.look import Look, queue_of
from services.cli.live.screen import Screen
from tests.unit.projector import test_replication_jobs as replication
from tests.unit.projector.test_recovery_jobs import begun, jobs
from tests.unit.projector.test_searches_and_groups import model as pair_model
from tests.unit.projector.test_searches_and_groups import searched
from tests.unit.projector.test_windows import WIN
from tests.unit.projector.test_windows import until as until_effect
from tests.unit.recovery.pair import SEARCH
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_asking import by_hand, until_asked
from tests.unit.recovery.test_cleanup import CLEANUP, clean, listed, recovered
from tests.unit.recovery.test_full_recoveries import past_preflight
from tests.unit.recovery.test_group import GROUP, failing, plans, recover
from tests.unit.recovery.test_pausing import go_to, paused
from tests.unit.recovery.world import JOB, World, header, script, vm
from tests.unit.replicator.world import iteration

VIEWS: Final = Path(__file__).parent / "views"
WIDTH: Final = 80
HEIGHT: Final = 24


# ── From recorded events to a look ───────────────────────────────────────────────────────────


def look(
    found: Mapping[str, Job],
    job: str = JOB,
    *,
    now: dt.datetime,
    progress: Mapping[str, Progress] | None = None,
    **more: Any,
) -> Look:
    """What `GET /v1/jobs` would answer of these documents at `now`."""
    members = [each for each in found.values() if each.parent_id == job]
    joined = job_now(found[job], children=members, progress=progress, now=now)
    told = [msgspec.to_builtins(job_now(each, progress=progress, now=now)) for each in members]
    return Look(job=msgspec.to_builtins(joined), parts=told, now=now, **more)


def drawn(seen: Look, *, width: int = WIDTH, height: int = HEIGHT, encoding: str = "utf-8") -> str:
    """The picture on a terminal of that size, without colours."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=height, no_color=True, emoji=False,
                      highlight=False, force_terminal=False)  # fmt: skip
    with console.capture() as capture:
        console.print(Screen(seen))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def fix_moments(put: Callable[[Any, str, Any], None]) -> None:
    """Have moments drawn as clock times in UTC: a picture does not depend on place and day."""
    put(waits, "moment", lambda value: value[11:19] if value else "–")


def _seen(world: World, job: str = JOB, **more: Any) -> Look:
    return look(jobs(world), job, now=world.now, **more)


def _run_until(world: World, over: Callable[[], bool]) -> None:
    """Let everything work out well until something is so."""
    for _ in range(500):
        world.deliver_all()
        if over():
            return
        if world.effects:
            world.settle(next(iter(world.effects)))
        else:
            world.fire_next_timer()
    raise AssertionError("it does not come to that")


# ── Test recoveries ──────────────────────────────────────────────────────────────────────────


def boot_delay() -> Look:
    """The first boot order is ready, and its delay keeps the second one."""
    world = begun(vm("db", boot_delay_s=40.0), vm("cache"), vm("web", 2), vm("api", 2))
    _run_until(world, lambda: len(world.events(said.MemberReady)) == 2)
    while world.effects:
        world.settle(next(iter(world.effects)))
        world.deliver_all()
    seen = _seen(world, delays={"db": 40.0})
    job = {**seen.job, "eta_s": 95.0, "forecast_s": 130.0}
    return msgspec.structs.replace(seen, job=job, now=seen.now + dt.timedelta(seconds=10))


def budgets() -> Look:
    """Creations wait for a budget that the site throttles."""
    world = begun(*(vm(f"app-{n}") for n in range(1, 4)))
    go_to(world, "create-instance")
    items = [
        {
            "effect_id": f"vm-recovery:shop:r1:app-{n}/create-instance", "plan": "shop",
            "position": n, "worker": "w1" if n == 1 else "",
            "ready_at": "2026-11-22T20:00:00+00:00",
            "blocked_by": [] if n == 1 else ["west/RunInstances"],
            "estimated_start": "2026-11-22T20:00:42+00:00", "needs": ["rate west/RunInstances"],
        }
        for n in range(1, 4)
    ]  # fmt: skip
    limits = [
        {"name": "west/RunInstances", "mode": "rate", "limit": 1.25, "cap": 2.0, "lowered": True,
         "paused_until": "2026-11-22T20:00:40+00:00", "throttled": 7},
        {"name": "west/StartInstances", "mode": "rate", "limit": 1.0, "cap": 2.0, "lowered": True,
         "paused_until": None, "throttled": 1},
    ]  # fmt: skip
    queue = queue_of({"items": items, "budgets": limits}, plan="shop")
    return _seen(world, queue=queue)


def paused_recovery() -> Look:
    world = begun(vm("db"), vm("web", 2))
    go_to(world, "create-instance")
    paused(world)
    return _seen(world)


def asking_vm() -> Look:
    """A VM waits for a person before it boots."""
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)), vm("app"))
    until_asked(world)
    world.deliver_all()
    return _seen(world)


def script_failed() -> Look:
    """A test that ended with a failed VM: retry, output and cleanup are offered."""
    world = begun(vm("db", post_script=script(on_failure="fail_vm")), vm("app"))
    db = "vm-recovery:shop:r1:db"
    post = f"{db}/post-script"
    _run_until(world, lambda: post in world.effects)
    report = ScriptReport(outcome="failed", exit_code=3, output="no", output_sha256="ab")
    world.settle(post, work.ScriptRan(report=report))
    world.run()
    return _seen(world)


def windows() -> Look:
    world = until_effect(begun(vm("win")), "prep-pool:west/on/prep1/1")
    while rest := [effect for effect in world.effects if effect.startswith(WIN)]:
        world.settle(rest[0])
        world.deliver_all()
    return _seen(world)


def many() -> Look:
    """More VMs than rows: those that need somebody are shown, the others counted."""
    world = begun(*(vm(f"vm-{n:02d}", 1 + n // 40) for n in range(60)), header=header())
    world.deliver_all()
    world.settle(f"{JOB}/preflight")
    world.deliver_all()
    world.settle("vm-recovery:shop:r1:vm-33/hold-copy", code="broken")
    world.deliver_all()
    world.settle("vm-recovery:shop:r1:vm-33/release-copy")
    for number in range(20):
        world.settle(f"vm-recovery:shop:r1:vm-{number:02d}/hold-copy")
    world.deliver_all()
    return _seen(world)


# ── Full recoveries ──────────────────────────────────────────────────────────────────────────


def fencing() -> Look:
    world = past_preflight(SiteWorld("failover").begin())
    for _ in range(4):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    return _seen(world)


def site_lost() -> Look:
    """A failover whose site cannot be reached: preflight says so."""
    world = SiteWorld("failover").begin()
    world.deliver_all()
    problem = Problem(
        code="source-unreachable",
        message="site east cannot be reached: its VMs cannot be shut down and may still run",
        remedy="if you know that they do not run, add --source-gone",
    )
    world.settle(f"{JOB}/preflight", work.PreflightReport(problems=(problem,)))
    world.live()
    return _seen(world)


def window() -> Look:
    """A failover that ended with a VM that did not come up."""
    world = SiteWorld("failover").begin()
    broken = "vm-recovery:shop:r1:web/create-instance"
    for _ in range(500):
        world.deliver_all()
        if broken in world.effects:
            world.settle(broken, code="broken")
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif world.sync():
            continue
        elif set(world.timers) <= {(JOB, "commit-reminder")}:
            return _seen(world)
        else:
            world.fire_next_timer()
    raise AssertionError("it does not end")


def rolled_back() -> Look:
    world = SiteWorld("failover").begin().live().roll_back()
    return _seen(world, "rollback:shop:b1")


# ── Searches, replication ────────────────────────────────────────────────────────────────────


def group() -> Look:
    """Plans that come after each other; the second one cannot be recovered."""
    pair = plans()
    failing(pair, "mail")
    recover(pair)
    pair.run()
    return look(pair_model(pair).tables["jobs"], GROUP, now=pair.world.now)


def group_begun() -> Look:
    """The first plan of a group is recovered, the others come after it."""
    pair = plans()
    recover(pair)
    pair.run(until=said.VmsLaunched)
    return look(pair_model(pair).tables["jobs"], GROUP, now=pair.world.now)


def cleanup() -> Look:
    """A cleanup that has listed what there is."""
    world = recovered()
    clean(world)
    listed(world, ("instance", "i1", "db"), ("disk", "d1", "db"))
    return _seen(world, CLEANUP)


def clean_point() -> Look:
    pair = searched()
    return look(pair_model(pair).tables["jobs"], SEARCH, now=pair.world.now)


def copying() -> Look:
    """An iteration whose bytes move."""
    world = replication.started(full=True)
    world.deliver_all()
    found = replication.jobs(world)
    name = iteration()
    now = found[name].created_at + dt.timedelta(seconds=70)
    moving = Progress(job=name, bytes_done=3 << 30, bytes_total=8 << 30, percent=37.5,
                      rate=120.0 * (1 << 20), at=now)  # fmt: skip
    return look(found, name, now=now, progress={name: moving})


SCENES: Final[Mapping[str, Callable[[], Look]]] = {
    scene.__name__.replace("_", "-"): scene
    for scene in (
        boot_delay, budgets, paused_recovery, asking_vm, script_failed, windows, many, fencing,
        site_lost, window, rolled_back, group, group_begun, cleanup, clean_point, copying,
    )
}  # fmt: skip


def main() -> None:
    """Write every picture."""
    fix_moments(setattr)
    for name, scene in SCENES.items():
        (VIEWS / f"{name}.txt").write_text(drawn(scene()), encoding="utf-8")
        sys.stdout.write(f"{name}\n{drawn(scene())}\n")


if __name__ == "__main__":
    main()
