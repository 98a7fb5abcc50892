"""A failover whose source site is gone, and the site once it is back: what runs there, and since
when. The scheduler's part in it is played as it would play it."""

from __future__ import annotations

from typing import Any

from schemas import lost_sites as said
from schemas import recovery_work as work
from schemas.scheduler import SiteLost
from services.recovery.domain import commit_window
from shared.decider import Effect
from shared.testing.spec import T0
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.world import JOB, header

EAST = header().protected
WATCH = "lost-site:east"
LOOK = (WATCH, "look")


class LostWorld(SiteWorld):
    """`back`: the site answers. Its originals run as the power was cut: all of them."""

    standing = frozenset({(JOB, "commit-reminder"), LOOK})

    def __init__(self, **options: Any) -> None:
        super().__init__("failover", source_gone=True, **options)
        # They may run at both sites: that is what is to be told.
        self.sites.watching = False
        self.back = False
        self.restarts: set[str] = set()
        self.keys: set[str] = set()
        self._do = self.sites.do
        self.sites.do = self.do  # type: ignore[method-assign]

    def do(self, effect: Effect) -> Any:
        """What the platform answers."""
        payload = effect.payload
        if isinstance(payload, work.Preflight):
            return work.PreflightReport(source_lost=True)
        if isinstance(payload, said.LookAtOriginals):
            return self._listed(payload)
        found = self._do(effect)
        if isinstance(payload, work.ShutDownSource | work.PowerOffSource):
            self.sites.sources[payload.vm] |= payload.vm in self.restarts
        return found

    def act(self, effect_id: str) -> None:
        """A site that is not back answers nobody."""
        payload = self.effects[effect_id].payload
        away = isinstance(payload, said.LookAtOriginals) or "source" in effect_id.split("/")[1]
        if away and not self.back:
            self.settle(effect_id, code="site-gone")
        else:
            super().act(effect_id)

    def asked(self, effect_id: str, effect: Effect) -> None:
        """A source's key that was used before would do nothing at its platform."""
        if effect_id.startswith("vm-source:"):
            assert effect_id not in self.keys, f"{effect_id} is asked for a second time"
            self.keys.add(effect_id)

    def lost(self) -> LostWorld:
        """The failover has ended, and the scheduler has its site watched."""
        self.begin().live()
        self.watch()
        return self

    def watch(self) -> None:
        """The scheduler hears that the site is lost."""
        for told in self.to_scheduler(SiteLost):
            self.deliver(said.WatchLostSite(site=EAST, plan=told.plan, recovery=told.job))

    def look(self) -> None:
        """The next look comes due and ends."""
        due, body = self.timers.pop(LOOK)
        self.now = max(self.now, due)
        self.deliver(body, stream=WATCH)
        self.live()

    def returns(self) -> LostWorld:
        """The site is back, and the watcher saw it."""
        self.back = True
        self.look()
        return self

    def power_off(self, number: int = 1, *, confirm: str = "east", **more: Any) -> LostWorld:
        """A person has the originals powered off."""
        job = f"site-power-off:east:p{number}"
        self.deliver(
            said.PowerOffOriginals(command_id="c", job=job, site="east", confirm=confirm, **more)
        )
        self.live()
        return self

    def _listed(self, payload: said.LookAtOriginals) -> said.OriginalsListed:
        found = []
        named: set[str] = set()
        for recovery in payload.recoveries:
            every = commit_window.given_up(self.state(recovery))
            vms = [vm for vm in every if not payload.vms or vm in payload.vms]
            named |= set(vms)
            running = [vm for vm in vms if self.sites.sources[vm]]
            found.append(self._given(recovery, vms, running))
        unknown = tuple(sorted(set(payload.vms) - named))
        return said.OriginalsListed(found=tuple(found), unknown=unknown)

    def _given(self, recovery: str, vms: list[str], running: list[str]) -> said.Given:
        on = {owner for (kind, _), (owner, on) in self.sites.made.items() if kind == "instance"}
        originals = tuple(
            said.Original(
                plan="shop",
                recovery=recovery,
                vm=vm,
                since=T0,
                instance=f"i-{vm}" if vm in on else "",
                doubled=vm in on,
            )
            for vm in running
        )
        return said.Given(
            recovery=recovery,
            plan="shop",
            given_up=len(vms),
            running=len(running),
            doubled=sum(each.doubled is True for each in originals),
            digest=",".join([str(len(vms)), *running]),
            originals=originals,
        )
