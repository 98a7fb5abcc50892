"""`Target` in memory: a generation is a bytearray, a copy a dictionary of bytes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import xxhash

from shared.errors import Permanent, Refused
from shared.platforms.lab.vocabulary import SEATS
from shared.platforms.memory.site import (
    Frame,
    HeldCopy,
    Staged,
    busy,
    check_chunk,
    disk_facts,
    moment,
    owned_by,
    unkeyed,
)
from shared.platforms.ports import (
    Call,
    CopyFacts,
    DigestName,
    Generation,
    Owned,
)


class MemoryTarget:
    """`Target` in memory: a generation is a bytearray, a copy a dictionary of bytes."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._site = frame.site

    async def open_generation(self, call: Call, *, disk: str, size: int) -> Generation:
        scope = f"{disk}/{call.lease}"
        known = self._site.done.get(("open_generation", call.key, scope))
        if known is not None and known.generation_id not in self._site.staged:
            # Unlike other keys: the generation went, so the claim gets another one.
            del self._site.done["open_generation", call.key, scope]

        def work() -> Generation:
            quota = self._site.settings.quotas.get(SEATS)
            if quota is not None and len(self._site.staged) >= (quota.concurrent or 0):
                raise busy(SEATS, 1.0)
            self._check_lease(call.plan, call.vm, disk, call.lease)
            current = self._site.current.get((call.plan, call.vm))
            base = current.content.get(disk) if current is not None else None
            same = current is not None and base is not None and len(base) == size
            facts = Generation(
                generation_id=self._site.next_id(f"g{call.lease}"),
                plan=call.plan,
                vm=call.vm,
                disk=disk,
                size=size,
                lease=call.lease,
                base_mark=current.facts.mark if same and current is not None else "",
                blank=not same,
            )
            self._site.staged[facts.generation_id] = Staged(
                facts=facts,
                owned=owned_by("generation", facts.generation_id, call),
                base_copy=current.facts.copy_id if same and current is not None else "",
                content=bytearray(base) if same and base is not None else bytearray(size),
            )
            return facts

        return await self._frame.run("open_generation", call, work, scope=scope, mutates=True)

    async def write(
        self, call: Call, *, generation: Generation, offset: int, data: memoryview
    ) -> bytes:
        check_chunk(len(data))

        def work() -> bytes:
            staged = self._staged(generation, offset, len(data))
            staged.content[offset : offset + len(data)] = data
            return xxhash.xxh3_128_digest(staged.content[offset : offset + len(data)])

        return await self._frame.run("write_chunk", unkeyed(call), work, size=len(data))

    async def zero(self, call: Call, *, generation: Generation, offset: int, length: int) -> None:
        def work() -> None:
            staged = self._staged(generation, offset, length)
            staged.content[offset : offset + length] = bytes(length)

        await self._frame.run("zero_range", unkeyed(call), work, size=length)

    async def digest(
        self,
        call: Call,
        *,
        generation: Generation,
        offset: int,
        length: int,
        algorithm: DigestName,
    ) -> bytes:
        check_chunk(length)

        def work() -> bytes:
            staged = self._staged(generation, offset, length)
            part = bytes(staged.content[offset : offset + length])
            if algorithm == "sha256":
                return hashlib.sha256(part).digest()
            return xxhash.xxh3_128_digest(part)

        return await self._frame.run("digest_chunk", unkeyed(call), work, size=length)

    async def read_back(
        self, call: Call, *, generation: Generation, offset: int, into: memoryview
    ) -> None:
        def work() -> None:
            staged = self._staged(generation, offset, len(into))
            into[:] = staged.content[offset : offset + len(into)]

        await self._frame.run("read_back", unkeyed(call), work, size=len(into))

    async def flush(self, call: Call, *, generation: Generation) -> None:
        def work() -> None:
            self._staged(generation, 0, 0)

        await self._frame.run("flush", unkeyed(call), work)

    async def adopt(
        self, call: Call, *, generation: Generation, earlier_id: str, below: int
    ) -> bool:
        def work() -> bool:
            mine = self._staged(generation, 0, 0)
            earlier = self._site.staged.get(earlier_id)
            if earlier is None or len(earlier.content) != len(mine.content):
                return False
            if (earlier.facts.disk, earlier.base_copy) != (mine.facts.disk, mine.base_copy):
                return False
            mine.content[:below] = earlier.content[:below]
            return True

        return await self._frame.run("adopt", unkeyed(call), work)

    async def finalize(
        self, call: Call, *, generations: Sequence[Generation], manifest: dict[str, Any]
    ) -> CopyFacts:
        if not generations:
            raise Refused("finalize needs at least one generation", code="nothing-staged")

        def work() -> CopyFacts:
            first = generations[0]
            current = self._site.current.get((first.plan, first.vm))
            for generation in generations:
                lowest = min(call.lease, generation.lease) if call.lease else generation.lease
                self._check_lease(first.plan, first.vm, generation.disk, lowest)
                staged = self._staged(generation, 0, 0)
                base_copy = current.facts.copy_id if current is not None else ""
                if staged.base_copy and staged.base_copy != base_copy:
                    raise Refused("the copy it starts from is not current", code="stale-base")
            return self._switch(call, generations, manifest, current)

        copy = await self._frame.run("finalize", call, work, mutates=True)
        for generation in generations:
            # Left only where the key was done before and its claim had begun anew.
            self._site.staged.pop(generation.generation_id, None)
        return copy

    def _switch(
        self,
        call: Call,
        generations: Sequence[Generation],
        manifest: dict[str, Any],
        current: HeldCopy | None,
    ) -> CopyFacts:
        first = generations[0]
        content = dict(current.content) if current is not None else {}
        for generation in generations:
            content[generation.disk] = bytes(
                self._site.staged.pop(generation.generation_id).content
            )
            self._site.leases[first.plan, first.vm, generation.disk] = max(
                call.lease, generation.lease
            )
        self._clear(first, {each.disk: each.lease for each in generations})
        configured = [disk["name"] for disk in manifest.get("configuration", {}).get("disks", ())]
        if configured:
            content = {name: content[name] for name in configured if name in content}
        facts = CopyFacts(
            copy_id=self._site.next_id("c"),
            plan=first.plan,
            vm=first.vm,
            taken_at=dt.datetime.fromisoformat(str(manifest.get("taken_at", moment()))),
            mark=str(manifest.get("mark", "")),
            disks=disk_facts(content),
            manifest=manifest,
        )
        copy = HeldCopy(facts=facts, owned=owned_by("copy", facts.copy_id, call), content=content)
        self._site.current[first.plan, first.vm] = copy
        return facts

    def _clear(self, first: Generation, leases: dict[str, int]) -> None:
        """Remove what lower leases left staged for the same disks."""
        for staged in tuple(self._site.staged.values()):
            each = staged.facts
            mine = (each.plan, each.vm) == (first.plan, first.vm)
            if mine and each.lease < leases.get(each.disk, 0):
                del self._site.staged[each.generation_id]

    async def discard(self, call: Call, *, generation_id: str) -> None:
        def work() -> None:
            self._site.staged.pop(generation_id, None)

        await self._frame.run("discard", call, work, scope=generation_id, mutates=True)

    async def hold(self, call: Call) -> CopyFacts:
        def work() -> CopyFacts:
            current = self._current(call)
            held_id = self._site.next_id("h")
            facts = msgspec.structs.replace(current.facts, copy_id=held_id)
            self._site.held[held_id] = HeldCopy(
                facts=facts, owned=owned_by("hold", held_id, call), content=current.content
            )
            return facts

        return await self._frame.run("hold", call, work, mutates=True)

    async def release(self, call: Call, *, copy_id: str) -> None:
        def work() -> None:
            self._site.held.pop(copy_id, None)

        await self._frame.run("release", call, work, scope=copy_id, mutates=True)

    async def current(self, *, plan: str, vm: str) -> CopyFacts | None:
        def work() -> CopyFacts | None:
            copy = self._site.current.get((plan, vm))
            return None if copy is None else copy.facts

        return await self._frame.run("current", Call(key="", plan=plan, vm=vm), work)

    async def list_current(self, *, plan: str) -> tuple[CopyFacts, ...]:
        def work() -> tuple[CopyFacts, ...]:
            found = sorted(self._site.current.items())
            return tuple(copy.facts for (of_plan, _), copy in found if of_plan == plan)

        return await self._frame.run("list_current", Call(key="", plan=plan), work)

    async def create_checkpoint(
        self, call: Call, *, checkpoint_id: str, manifest: dict[str, Any]
    ) -> CopyFacts:
        def work() -> CopyFacts:
            found = self._site.checkpoints.get((call.plan, call.vm, checkpoint_id))
            if found is not None:
                return found.facts
            current = self._current(call)
            facts = msgspec.structs.replace(
                current.facts,
                copy_id=checkpoint_id,
                manifest={**current.facts.manifest, **manifest},
            )
            self._site.checkpoints[call.plan, call.vm, checkpoint_id] = HeldCopy(
                facts=facts,
                owned=owned_by("checkpoint", checkpoint_id, call),
                content=current.content,
            )
            return facts

        return await self._frame.run(
            "create_checkpoint", call, work, scope=checkpoint_id, mutates=True
        )

    async def delete_checkpoint(self, call: Call, *, checkpoint_id: str) -> None:
        def work() -> None:
            for key in tuple(self._site.checkpoints):
                plan, vm, found = key
                if (plan, found) == (call.plan, checkpoint_id) and call.vm in ("", vm):
                    del self._site.checkpoints[key]

        await self._frame.run("delete_checkpoint", call, work, scope=checkpoint_id, mutates=True)

    async def list_checkpoints(self, *, plan: str) -> tuple[CopyFacts, ...]:
        def work() -> tuple[CopyFacts, ...]:
            found = [copy.facts for copy in self._site.checkpoints.values()]
            ours = [facts for facts in found if facts.plan == plan]
            return tuple(sorted(ours, key=lambda f: (f.taken_at, f.vm, f.copy_id)))

        return await self._frame.run("list_checkpoints", Call(key="", plan=plan), work)

    async def list_generations(self) -> tuple[Owned, ...]:
        return await self._frame.run(
            "list_generations", None, lambda: tuple(s.owned for s in self._site.staged.values())
        )

    def _current(self, call: Call) -> HeldCopy:
        current = self._site.current.get((call.plan, call.vm))
        if current is None:
            raise Permanent(f"VM {call.vm} has no copy yet", code="no-copy", remedy="replicate it")
        return current

    def _staged(self, generation: Generation, offset: int, length: int) -> Staged:
        staged = self._site.staged.get(generation.generation_id)
        if staged is None:
            raise Refused("the generation is no longer staged", code="generation-gone")
        if offset < 0 or length < 0 or offset + length > generation.size:
            raise Refused("outside the disk", code="out-of-range")
        return staged

    def _check_lease(self, plan: str, vm: str, disk: str, lease: int) -> None:
        highest = self._site.leases.get((plan, vm, disk), 0)
        if lease < highest:
            raise Refused(f"lease {lease} is below {highest}", code="stale-lease")
        self._site.leases[plan, vm, disk] = lease
