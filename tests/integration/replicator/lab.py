"""Iterations on real lab sites: the deciders by hand, the effect handlers for real.

Owns the two sites, their VMs and the loop that runs effects; no engine, no database.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from schemas import registry
from schemas import replicator as said
from schemas.envelope import Meta
from schemas.plans import REPLICATION_OPERATIONS, ScriptDefinition
from schemas.scheduler import SiteRef
from services.replicator.effects import handlers
from services.replicator.progress import Silence, TransferProgress
from services.replicator.settings import ReplicatorSettings
from services.replicator.tools import Paces, Patience, Tools
from services.replicator.transfer import TransferSettings
from shared.clock import SystemClock
from shared.effects.policy import OutcomeUnknown
from shared.effects.port import Budget, Claimed
from shared.effects.running import EffectRun, Progress, Stop
from shared.errors import SeawallError, Throttled, Transient
from shared.platforms.lab.manifest import LabPlatform, open_platform
from shared.platforms.ports import CopyFacts
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver
from tests.unit.replicator.world import World, iteration, start

DB = iteration()
SMALL_MARKS = TransferSettings(mark_bytes=2 << 20)
TRIES_MAX = 4


class Sinks:
    """Where a handler's signals go: facts to the world's deciders."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.facts: list[msgspec.Struct] = []
        self.heard = asyncio.Event()

    def progress(self, claimed: Claimed, progress: Progress) -> None: ...

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None:
        self._world.now = SystemClock().now()
        self._world.deliver(fact, stream=claimed.stream)
        self.facts.append(fact)
        self.heard.set()

    async def renew(self, claimed: Claimed) -> None: ...


class Lab:
    """A protected and a recovery site, and a world whose effects really happen on them."""

    def __init__(self, home: Path, *, settings: ReplicatorSettings | None = None) -> None:
        self.home = home
        for name in ("east", "west"):
            (home / name).mkdir(exist_ok=True)
        self.platforms: dict[str, LabPlatform] = {}
        self.world = World()
        self.world.now = SystemClock().now()
        self.sinks = Sinks(self.world)
        self.blobs: dict[str, bytes] = {}
        self.defined: list[str] = []
        self.lease = 1
        self.tools = Tools(
            open_site=self.open,
            define_budgets=self._define,
            read_states=self._states,
            paces=Paces(),
            patience=Patience(),
            progress=TransferProgress(Silence()),
            runner=ScriptRunner(home=home / "scripts"),
            secrets=SecretResolver(home=home),
            put_blob=self._put_blob,
            clock=SystemClock(),
            settings=settings or ReplicatorSettings(transfer=SMALL_MARKS),
        )
        self.handlers = handlers(self.tools)

    def open(self, ref: SiteRef) -> LabPlatform:
        """The site's adapter, opened once."""
        if ref.site not in self.platforms:
            self.platforms[ref.site] = open_platform(ref.settings)
        return self.platforms[ref.site]

    def ref(self, site: str) -> SiteRef:
        """A site by its name."""
        return SiteRef(site=site, platform="lab", settings={"path": str(self.home / site)})

    async def _define(self, ref: SiteRef) -> list[Budget]:
        self.defined.append(ref.site)
        return []

    async def _states(self, streams: Sequence[str]) -> dict[str, Any]:
        return {stream: self.world.state(stream) for stream in streams}

    async def _put_blob(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.blobs[name] = content
        return name

    async def close(self) -> None:
        """Close the sites."""
        for platform in self.platforms.values():
            await platform.close()

    # -- what is on the sites -----------------------------------------------------------------

    def disk(self, disk: str = "sda", vm: str = "db") -> Path:
        """Where a source disk lies."""
        return self.home / "east" / "vms" / vm / f"{disk}.raw"

    def add_vm(
        self, vm: str = "db", *, disks: Sequence[str] = ("sda",), size: int = 6 << 20
    ) -> None:
        """A VM with random content."""
        folder = self.home / "east" / "vms" / vm
        folder.mkdir(parents=True)
        listed = "".join(f"  - {{name: {disk}, file: {disk}.raw}}\n" for disk in disks)
        (folder / "vm.yaml").write_text(f"name: {vm}\ncpus: 2\ndisks:\n{listed}")
        for disk in disks:
            content = random.Random(f"{vm}/{disk}").randbytes(size)
            self.disk(disk, vm).write_bytes(content)

    async def copied(self, disk: str = "sda", vm: str = "db") -> str:
        """SHA-256 of a disk of the current copy."""
        west = self.open(self.ref("west"))
        where = west.folder.root / "replicas" / "shop" / vm
        from shared.platforms.lab.copies import CopyFolder

        home = CopyFolder(west.folder, "shop", vm)
        current = home.current()
        assert current is not None, f"no copy under {where}"
        view, facts = home.open_view(current.copy_id, disk)
        digest = hashlib.sha256()
        try:
            for offset in range(0, facts.size, 1 << 20):
                piece = memoryview(bytearray(min(1 << 20, facts.size - offset)))
                view.read(piece, offset)
                digest.update(piece)
        finally:
            view.close()
        return digest.hexdigest()

    def original(self, disk: str = "sda", vm: str = "db") -> str:
        """SHA-256 of a source disk as it is now."""
        return hashlib.sha256(self.disk(disk, vm).read_bytes()).hexdigest()

    async def current(self, vm: str = "db") -> CopyFacts | None:
        """The current copy."""
        return await self.open(self.ref("west")).target.current(plan="shop", vm=vm)

    async def leftovers(self) -> list[str]:
        """Snapshots and staged generations that exist."""
        snapshots = await self.open(self.ref("east")).source.list_snapshots()
        staged = await self.open(self.ref("west")).target.list_generations()
        return [f"{o.kind} {o.object_id}" for o in (*snapshots, *staged)]

    def journal(self, site: str, call: str) -> list[dict[str, Any]]:
        """The lines of one call."""
        path = self.home / site / "calls.jsonl"
        lines = [orjson.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["call"] == call]

    def add_script(self, text: str, **fields: Any) -> ScriptDefinition:
        """A stored script."""
        content = text.encode()
        sha256 = hashlib.sha256(content).hexdigest()
        self.world.deliver(
            said.StoreScript(
                plan="shop",
                sha256=sha256,
                part=0,
                parts=1,
                content=base64.b64encode(content).decode(),
            )
        )
        settings: dict[str, Any] = {"runtime": "sh", "timeout_s": 10.0, **fields}
        return ScriptDefinition(
            run="a-script",
            sha256=sha256,
            size=len(content),
            operations=REPLICATION_OPERATIONS,
            **settings,
        )

    # -- running ------------------------------------------------------------------------------

    def start(self, vm: str = "db", *, tick: str = "t1", **fields: Any) -> str:
        """Begin an iteration on the two sites; gives its stream."""
        stream = f"iteration:shop:{vm}:{tick}"
        message = msgspec.structs.replace(
            start(vm, **fields),
            iteration=stream,
            protected=self.ref("east"),
            recovery_site=self.ref("west"),
        )
        self.world.deliver(message)
        return stream

    def claim(self, effect_id: str, *, attempt: int = 0) -> EffectRun:
        """An effect as its handler sees it, under the present lease."""
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
            attempt=attempt,
            lease_no=self.lease,
            claim_no=self.lease,
            stream_version=0,
        )
        return EffectRun(claimed, effect.payload, self.sinks)

    async def do(self, effect_id: str) -> None:
        """Run an effect as the worker does, its retries without their waits, and settle it."""
        handler = self.handlers[self.world.effects[effect_id].kind]
        for attempt in range(TRIES_MAX):
            run = self.claim(effect_id, attempt=attempt)
            try:
                result = await handler.run(run)
            except Throttled as error:
                await asyncio.sleep(error.retry_after_s or 0.1)
                continue
            except SeawallError as error:
                if isinstance(error, Transient) and attempt < TRIES_MAX - 1:
                    continue
                unknown = isinstance(error, OutcomeUnknown)
                self._failed(effect_id, error, unknown=unknown)
                return
            self.world.now = SystemClock().now()
            self.world.settle(effect_id, result=result)
            return

    def _failed(self, effect_id: str, error: SeawallError, *, unknown: bool) -> None:
        self.world.now = SystemClock().now()
        self.world.settle_failed(effect_id, error, unknown=unknown)

    async def run(self) -> None:
        """Do everything there is to do, disks of one VM side by side."""
        for _ in range(200):
            self.world.deliver_all()
            if not self.world.effects:
                return
            await asyncio.gather(*(self.do(effect_id) for effect_id in list(self.world.effects)))
        raise AssertionError("the iteration does not come to rest")

    async def run_to(self, part: str, *, stream: str = DB) -> None:
        """Do everything until an effect of this part is asked for."""
        for _ in range(20):
            if f"{stream}/{part}" in self.world.effects:
                return
            await asyncio.gather(*(self.do(effect_id) for effect_id in list(self.world.effects)))
        raise AssertionError(f"{part} was never asked for")

    @contextlib.asynccontextmanager
    async def interrupted(
        self, effect_id: str, when: Callable[[], Awaitable[Any]], *, reason: Stop = Stop.LEASE
    ) -> AsyncIterator[None]:
        """Run an effect and stop its handler when something has happened."""
        run = self.claim(effect_id)
        handler = self.handlers[self.world.effects[effect_id].kind]
        task = asyncio.ensure_future(handler.run(run))
        async with asyncio.timeout(20):
            await when()
        run.stopped = reason
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        yield


def final(lab: Lab, stream: str = DB) -> said.IterationFinished:
    """How an iteration ended."""
    (event,) = [
        event
        for name, event in lab.world.log
        if name == stream and isinstance(event, said.IterationFinished)
    ]
    assert isinstance(event, said.IterationFinished)
    return event
