"""Recoveries on real lab sites: the deciders by hand, the effect handlers for real.

Owns the sites, their copies and the loop that runs effects; no engine, no database.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from schemas import recovery as said
from schemas import registry
from schemas.envelope import Meta
from schemas.plans import RECOVERY_OPERATIONS, ScriptDefinition
from schemas.scheduler import SiteRef
from services.recovery.effects import handlers
from services.recovery.platform_work import Tools
from shared.clock import SystemClock
from shared.effects.policy import OutcomeUnknown
from shared.effects.port import Claimed
from shared.effects.running import EffectRun
from shared.errors import SeawallError
from shared.platforms.lab.manifest import LabPlatform, open_platform
from shared.platforms.ports import CHUNK_BYTES, Call
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver
from tests.unit.recovery.world import World

DISK = b"seawall!" * 8192


class Sinks:
    """Where a handler's signals go: facts to the world's deciders."""

    def __init__(self, world: World, reported: asyncio.Event) -> None:
        self._world = world
        self._reported = reported

    def progress(self, claimed: Claimed, progress: Any) -> None: ...

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None:
        self._world.now = SystemClock().now()
        self._world.deliver(fact, stream=claimed.stream)
        self._reported.set()

    async def renew(self, claimed: Claimed) -> None: ...


class Lab:
    """A recovery site with copies, and a world whose effects really happen on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "west").mkdir()
        (home / "secrets").mkdir()
        self.site = SiteRef(site="west", platform="lab", settings={"path": str(home / "west")})
        self.platform: LabPlatform = open_platform(self.site.settings)
        self.world = World()
        self.world.now = SystemClock().now()
        self.reported = asyncio.Event()
        self.blobs: dict[str, bytes] = {}
        self.tools = Tools(
            open_site=lambda ref: self.platform,
            read_states=self._states,
            runner=ScriptRunner(home=home / "scripts"),
            secrets=SecretResolver(home=home),
            put_blob=self._put_blob,
            clock=SystemClock(),
        )
        self.handlers = handlers(self.tools)

    async def _states(self, streams: Any) -> dict[str, Any]:
        return {stream: self.world.state(stream) for stream in streams}

    async def _put_blob(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.blobs[name] = content
        return name

    async def add_copy(
        self,
        vm: str,
        *,
        disks: tuple[str, ...] = ("sda",),
        boots_s: float = 0,
        os: str = "linux",
        content: bytes = DISK,
        agent: dict[str, Any] | None = None,
    ) -> None:
        """A finalized copy of a VM, as the replicator leaves it; all its disks hold `content`."""
        staged = []
        for disk in disks:
            call = Call(key=f"open/{vm}/{disk}", plan="shop", vm=vm, job="iteration:x", lease=1)
            target = self.platform.target
            opened = await target.open_generation(call, disk=disk, size=len(content))
            for at in range(0, len(content), CHUNK_BYTES):
                piece = memoryview(content)[at : at + CHUNK_BYTES]
                await target.write(call, generation=opened, offset=at, data=piece)
            await target.flush(call, generation=opened)
            staged.append(opened)
        files = [{"name": disk, "file": f"{disk}.raw", "size": len(content)} for disk in disks]
        guest = {"boots_in_s": boots_s, "agent": agent or {}}
        manifest = {
            "taken_at": "2026-11-22T20:00:00Z",
            "mark": "m1",
            "configuration": {"name": vm, "os": os, "disks": files, "guest": guest},
        }
        call = Call(key=f"finalize/{vm}", plan="shop", vm=vm, job="iteration:x", lease=1)
        await self.platform.target.finalize(call, generations=staged, manifest=manifest)

    def add_script(self, text: str, **fields: Any) -> ScriptDefinition:
        """A stored script."""
        content = text.encode()
        sha256 = hashlib.sha256(content).hexdigest()
        self.world.deliver(
            said.StoreRecoveryScript(
                plan="shop",
                sha256=sha256,
                part=0,
                parts=1,
                content=base64.b64encode(content).decode(),
            )
        )
        settings: dict[str, Any] = {"runtime": "sh", **fields}
        return ScriptDefinition(
            run="a.sh",
            sha256=sha256,
            size=len(content),
            operations=RECOVERY_OPERATIONS,
            **settings,
        )

    def effect_run(self, effect_id: str) -> EffectRun:
        """An effect as its handler sees it."""
        effect = self.world.effects[effect_id]
        name, version, data = registry.encode(effect.payload)
        claimed = Claimed(
            effect_id=effect_id,
            stream=effect_id.partition("/")[0],
            partition=0,
            kind=effect.kind,
            type=name,
            schema_version=version,
            data=data,
            meta=Meta(occurred_at=self.world.now),
            attempt=0,
            lease_no=1,
            claim_no=1,
            stream_version=0,
        )
        return EffectRun(
            claimed, registry.decode(name, version, data), Sinks(self.world, self.reported)
        )

    async def do(self, effect_id: str) -> Any:
        """Run an effect's handler once; its result, without telling anybody."""
        handler = self.handlers[self.world.effects[effect_id].kind]
        return await handler.run(self.effect_run(effect_id))

    async def step(self) -> bool:
        """Deliver messages and run one effect, or wait for a timer; False when all is done."""
        world = self.world
        world.now = SystemClock().now()
        world.deliver_all()
        if not world.effects:
            return await self._wait()
        effect_id = next(iter(world.effects))
        if effect_id in world.asked_to_stop:
            world.settle(effect_id, code="cancelled")
            return True
        try:
            result = await self.do(effect_id)
        except SeawallError as error:
            world.now = SystemClock().now()
            unknown = isinstance(error, OutcomeUnknown)
            world.settle(effect_id, code=error.code, unknown=unknown, remedy=error.remedy)
        else:
            world.now = SystemClock().now()
            world.settle(effect_id, result)
        return True

    async def _wait(self) -> bool:
        timers = self.world.timers
        if not timers:
            return False
        due = min(at for at, _ in timers.values())
        await asyncio.sleep(max(0.0, (due - SystemClock().now()).total_seconds()))
        return self.world.fire_next_timer()

    async def run(self, *, until: type | None = None) -> None:
        """Run until nothing is left to do, or an event of a type has happened."""
        async with asyncio.timeout(60):
            while not (until and self.world.events(until)) and await self.step():
                pass

    def declare(self, text: str) -> None:
        """Write the site's `site.yaml`."""
        (self.home / "west" / "site.yaml").write_text(text)

    def journal(self) -> list[dict[str, Any]]:
        """The platform's own call journal."""
        lines = (self.home / "west" / "calls.jsonl").read_text().splitlines()
        return [msgspec.json.decode(line) for line in lines]
