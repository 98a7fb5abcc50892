"""`Target` of the lab: staged generations, the atomic switch, holds and checkpoints.

Owns the open handles of this process and the mapping of port calls to files; what lies where is
`copies`, what may be written when is `staging`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import xxhash

from shared.errors import Refused
from shared.platforms.lab import copies, sparse, staging
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.copies import CopyFolder
from shared.platforms.lab.folder import locked
from shared.platforms.lab.quotas import refuse_seat
from shared.platforms.lab.space import Space
from shared.platforms.lab.staging import StagedHandle
from shared.platforms.lab.vocabulary import SEATS
from shared.platforms.ports import CHUNK_BYTES, Call, CopyFacts, DigestName, Generation, Owned

_HANDLE_COUNT_MAX: Final = 256
_DATA_CALLS: Final = ("write_chunk", "zero_range", "digest_chunk", "read_back", "flush")


class LabTarget:
    """Copies under `replicas/` and `checkpoints/` of a site folder."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._space = Space(frame.folder)
        self._handles: OrderedDict[str, StagedHandle] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every open generation; they stay staged."""
        for generation_id in tuple(self._handles):
            self._drop(generation_id)

    # -- staged generations -------------------------------------------------------------------

    async def open_generation(self, call: Call, *, disk: str, size: int) -> Generation:
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work() -> tuple[Generation, bool, str]:
            quota = self._frame.settings().quotas.get(SEATS)
            self._space.take(0, self._frame.settings().capacity)
            if quota is None:
                with home.lock():
                    return staging.open_staged(home, call, disk=disk, size=size)
            where = self._frame.folder.ensure(".lab", "quotas")
            with locked(where / f"{SEATS}.lock"), home.lock():
                if not _is_open(home, call, disk):
                    refuse_seat(_staged_count(self._frame), quota)
                return staging.open_staged(home, call, disk=disk, size=size)

        return await self._frame.ensure("open_generation", call, work)

    async def write(
        self, call: Call, *, generation: Generation, offset: int, data: memoryview
    ) -> bytes:
        size = _chunk(generation, offset, len(data))

        def work() -> bytes:
            self._space.take(size, self._frame.settings().capacity)
            with self._handle(generation).use() as disk:
                disk.write(data, offset)
                landed = sparse.scratch()[:size]
                disk.read(landed, offset)
            return xxhash.xxh3_128_digest(landed)

        subject = generation.generation_id
        return await self._frame.data("write_chunk", call, subject, size, work)

    async def zero(self, call: Call, *, generation: Generation, offset: int, length: int) -> None:
        _within(generation, offset, length)

        def work() -> None:
            with self._handle(generation).use() as disk:
                disk.zero(offset, length)

        await self._frame.data("zero_range", call, generation.generation_id, length, work)

    async def digest(
        self,
        call: Call,
        *,
        generation: Generation,
        offset: int,
        length: int,
        algorithm: DigestName,
    ) -> bytes:
        _chunk(generation, offset, length)

        def work() -> bytes:
            found = sparse.scratch()[:length]
            with self._handle(generation).use() as disk:
                disk.read(found, offset)
            if algorithm == "sha256":
                return hashlib.sha256(found).digest()
            return xxhash.xxh3_128_digest(found)

        return await self._frame.data("digest_chunk", call, generation.generation_id, length, work)

    async def read_back(
        self, call: Call, *, generation: Generation, offset: int, into: memoryview
    ) -> None:
        size = _chunk(generation, offset, len(into))

        def work() -> None:
            with self._handle(generation).use() as disk:
                disk.read(into, offset)

        await self._frame.data("read_back", call, generation.generation_id, size, work)

    async def flush(self, call: Call, *, generation: Generation) -> None:
        def work() -> None:
            with self._handle(generation).use() as disk:
                os.fdatasync(disk.file.fd)
            self._settle(generation.generation_id)

        await self._frame.data("flush", call, generation.generation_id, 0, work)

    async def adopt(
        self, call: Call, *, generation: Generation, earlier_id: str, below: int
    ) -> bool:
        def work(pause: sparse.Checkpoint) -> bool:
            mine = self._handle(generation)
            adopted, size = staging.adopt(mine, earlier_id, below, pause)
            self._space.take(size, self._frame.settings().capacity)
            return adopted

        # Without a key: what it did lies in the generation, and doing it again changes nothing.
        unkeyed = msgspec.structs.replace(call, key="")
        return await self._frame.mutate("adopt", unkeyed, work, bool)

    async def finalize(
        self, call: Call, *, generations: Sequence[Generation], manifest: dict[str, Any]
    ) -> CopyFacts:
        if not generations:
            raise Refused("finalize needs at least one generation", code="nothing-staged")
        first = generations[0]
        home = CopyFolder(self._frame.folder, first.plan, first.vm)

        def work(pause: sparse.Checkpoint) -> CopyFacts:
            for generation in generations:
                self._drop(generation.generation_id)
            with home.lock():
                record = staging.finalize(home, call, generations, copies.plain_json(manifest))
                staging.tidy(home)
            return record.facts()

        def superfluous() -> None:
            # A claim that began anew, not knowing that its finalize had been done, staged these.
            for generation in generations:
                self._drop(generation.generation_id)
            with home.lock():
                for generation in generations:
                    home.drop_staged(generation.generation_id)

        return await self._frame.mutate("finalize", call, work, CopyFacts, on_known=superfluous)

    async def discard(self, call: Call, *, generation_id: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            self._drop(generation_id)
            home = self._home_of(call, generation_id)
            if home is None:
                return
            with home.lock():
                home.drop_staged(generation_id)
                home.sweep()

        await self._frame.mutate("discard", call, work, type(None), scope=generation_id)

    # -- copies and checkpoints ---------------------------------------------------------------

    async def hold(self, call: Call) -> CopyFacts:
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work(pause: sparse.Checkpoint) -> CopyFacts:
            with home.lock():
                return home.hold(call).facts()

        return await self._frame.mutate("hold", call, work, CopyFacts)

    async def release(self, call: Call, *, copy_id: str) -> None:
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work(pause: sparse.Checkpoint) -> None:
            with home.lock():
                home.release(copy_id)

        await self._frame.mutate("release", call, work, type(None), scope=copy_id)

    async def current(self, *, plan: str, vm: str) -> CopyFacts | None:
        home = CopyFolder(self._frame.folder, plan, vm)

        def work() -> CopyFacts | None:
            record = home.current()
            return None if record is None else record.facts()

        return await self._frame.read("current", Call(key="", plan=plan, vm=vm), work)

    async def list_current(self, *, plan: str) -> tuple[CopyFacts, ...]:
        def work() -> tuple[CopyFacts, ...]:
            homes = copies.copy_folders(self._frame.folder, plan)
            found = (home.current() for home in homes)
            return tuple(record.facts() for record in found if record is not None)

        return await self._frame.read("list_current", Call(key="", plan=plan), work)

    async def create_checkpoint(
        self, call: Call, *, checkpoint_id: str, manifest: dict[str, Any]
    ) -> CopyFacts:
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work(pause: sparse.Checkpoint) -> CopyFacts:
            with home.lock():
                plain = copies.plain_json(manifest)
                return home.create_checkpoint(call, checkpoint_id, plain).facts()

        return await self._frame.mutate(
            "create_checkpoint", call, work, CopyFacts, scope=checkpoint_id
        )

    async def delete_checkpoint(self, call: Call, *, checkpoint_id: str) -> None:
        folder = self._frame.folder

        def work(pause: sparse.Checkpoint) -> None:
            vms = [call.vm]
            if not call.vm:
                found = copies.list_checkpoints(folder, call.plan)
                vms = [record.vm for record in found if record.copy_id == checkpoint_id]
            for vm in vms:
                copies.delete_checkpoint(folder, call.plan, vm, checkpoint_id)

        await self._frame.mutate("delete_checkpoint", call, work, type(None), scope=checkpoint_id)

    async def list_checkpoints(self, *, plan: str) -> tuple[CopyFacts, ...]:
        def work() -> tuple[CopyFacts, ...]:
            found = copies.list_checkpoints(self._frame.folder, plan)
            return tuple(record.facts() for record in found)

        return await self._frame.read("list_checkpoints", Call(key="", plan=plan), work)

    async def list_generations(self) -> tuple[Owned, ...]:
        def work() -> tuple[Owned, ...]:
            return tuple(
                Owned(
                    kind="generation",
                    object_id=record.generation_id,
                    plan=record.plan,
                    vm=record.vm,
                    job=record.job,
                    key=record.key,
                )
                for home in copies.every_copy_folder(self._frame.folder)
                for record in home.all_staged()
            )

        return await self._frame.read("list_generations", None, work)

    # -- handles ------------------------------------------------------------------------------

    def _handle(self, generation: Generation) -> StagedHandle:
        """The open handle; opened by the first who needs it, the least used closed at a cap."""
        generation_id = generation.generation_id
        with self._lock:
            handle = self._handles.get(generation_id)
            if handle is not None:
                self._handles.move_to_end(generation_id)
                return handle
            home = CopyFolder(self._frame.folder, generation.plan, generation.vm)
            record = home.staged(generation_id)
            if record is None:
                self._frame.folder.require()
                raise staging.generation_gone(generation_id)
            handle = self._handles[generation_id] = StagedHandle(home, record)
            evicted = None
            if len(self._handles) > _HANDLE_COUNT_MAX:
                _, evicted = self._handles.popitem(last=False)
        if evicted is not None:
            evicted.close()
        return handle

    def _drop(self, generation_id: str) -> None:
        with self._lock:
            handle = self._handles.get(generation_id)
        if handle is not None:
            handle.close()
            with self._lock:
                self._handles.pop(generation_id, None)
        self._settle(generation_id)

    def _settle(self, generation_id: str) -> None:
        for name in _DATA_CALLS:
            self._frame.journal.settle(name, generation_id)

    def _home_of(self, call: Call, generation_id: str) -> CopyFolder | None:
        if call.plan and call.vm:
            return CopyFolder(self._frame.folder, call.plan, call.vm)
        for home in copies.every_copy_folder(self._frame.folder):
            if home.staged(generation_id) is not None:
                return home
        return None


def _within(generation: Generation, offset: int, length: int) -> int:
    if offset < 0 or length < 0 or offset + length > generation.size:
        raise Refused(
            f"bytes {offset} to {offset + length} are outside disk {generation.disk} of "
            f"{generation.size} bytes",
            code="out-of-range",
        )
    return length


def _chunk(generation: Generation, offset: int, length: int) -> int:
    if length > CHUNK_BYTES:
        raise Refused(f"a chunk has at most {CHUNK_BYTES} bytes", code="out-of-range")
    return _within(generation, offset, length)


def _is_open(home: CopyFolder, call: Call, disk: str) -> bool:
    wanted = (call.key, disk, call.lease)
    return any((r.key, r.disk, r.lease) == wanted for r in home.all_staged())


def _staged_count(frame: Frame) -> int:
    return sum(len(home.all_staged()) for home in copies.every_copy_folder(frame.folder))
