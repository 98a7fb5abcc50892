"""What the effect handlers work with, and the manners of every platform call they make."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from schemas.scheduler import SiteRef
from services.replicator.progress import TransferProgress
from services.replicator.settings import ReplicatorSettings
from services.replicator.transfer import Pace, SitePace
from shared.clock import Clock
from shared.effects.port import Budget
from shared.effects.running import EffectRun
from shared.errors import SeawallError, Throttled, Transient
from shared.platforms.ports import Call, Platform
from shared.scripts.effect import PutBlob
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver

log = structlog.get_logger()
T = TypeVar("T")

OpenSite = Callable[[SiteRef], Platform]
"""An open adapter of a site; opening again gives the one that is open."""

ReadStates = Callable[[Sequence[str]], Awaitable[Mapping[str, Any]]]
"""Folded states of streams of this service, as committed now; initial ones where unknown."""


class Paces:
    """One data-path pace per open site, shared by all disks of this process."""

    def __init__(self) -> None:
        self._by_site: dict[str, tuple[Platform, Pace]] = {}

    def of(self, site: str, platform: Platform) -> Pace:
        """The site's pace; a site that was opened anew has a new one."""
        found = self._by_site.get(site)
        if found is None or found[0] is not platform:
            found = self._by_site[site] = (platform, SitePace(platform.limits))
        return found[1]


class Patience:
    """How long effects have been refused room by a target, as far as this process knows."""

    def __init__(self, *, count_max: int = 10_000) -> None:
        self._since: dict[str, float] = {}
        self._count_max = count_max

    def refused(self, effect_id: str, now: float) -> float:
        """Refused again at `now` (monotonic seconds); gives the seconds since the first time."""
        if effect_id not in self._since and len(self._since) >= self._count_max:
            self._since.pop(next(iter(self._since)))
        return now - self._since.setdefault(effect_id, now)

    def granted(self, effect_id: str) -> None:
        """It has room, or does not want it any more."""
        self._since.pop(effect_id, None)


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What the effect handlers work with. `define_budgets` gives a site's, once they stand."""

    open_site: OpenSite
    define_budgets: Callable[[SiteRef], Awaitable[Sequence[Budget]]]
    read_states: ReadStates
    paces: Paces
    patience: Patience
    progress: TransferProgress
    runner: ScriptRunner
    secrets: SecretResolver
    put_blob: PutBlob
    clock: Clock
    settings: ReplicatorSettings = ReplicatorSettings()


def call_of(effect: EffectRun, *, key: str = "") -> Call:
    """The token and tags of an effect's mutation; the job is the effect's stream."""
    return Call(
        key=key or effect.effect_id,
        plan=effect.payload.plan,
        vm=getattr(effect.payload, "vm", ""),
        job=effect.stream,
        lease=effect.fence,
    )


async def within(call: Awaitable[T], *, what: str, timeout_s: float) -> T:
    """The call's answer, or Transient after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError:
        raise Transient(
            f"{what} had no answer within {timeout_s:g} s",
            code="timed-out",
            remedy="look at the site's load and its network",
        ) from None


async def landed(
    call: Coroutine[Any, Any, T], *, what: str, timeout_s: float, landing_s: float
) -> T:
    """As `within`, for a call that makes something.

    A call that was sent cannot be taken back. When cancelled it is waited for as long as
    `landing_s`, so that whoever then looks for what it made does not look too early.
    """
    task = asyncio.create_task(call)
    try:
        return await within(asyncio.shield(task), what=what, timeout_s=timeout_s)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=landing_s)
        raise
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def noting(
    effect: EffectRun, work: Awaitable[T], notes: Callable[[], Sequence[msgspec.Struct]]
) -> T:
    """Do the work. Where it fails, first have the owner record what the effect was carrying.

    A routine step's facts travel in payloads, which a failed outcome does not have. A note that
    cannot be recorded costs details of a failed job, never its outcome.
    """
    try:
        return await work
    except Throttled:
        raise
    except SeawallError:
        try:
            for note in notes():
                await effect.report(note)
        except SeawallError as error:
            log.info("effect.not-noted", error=error.message)
        raise
