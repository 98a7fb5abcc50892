"""The frame around every platform call: quotas, faults, latency, idempotency, journal, threads.

Owns what is the same for all calls. A mutating call leaves a record per key under `.lab/done`,
which is also the key's lock: effect, then record, then the journal's `ok` line, then the
record's `journalled` mark. Whatever step a kill falls on, the repeat finds out which of them
happened: the effect by its object's name, which the key determines, the line by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec

from shared.errors import Permanent, SeawallError, Throttled, Transient
from shared.platforms.lab.folder import SiteFolder, lock_fd, short_hash
from shared.platforms.lab.journal import CallJournal
from shared.platforms.lab.quotas import Quotas, Slots
from shared.platforms.lab.settings import SiteSettings, read_site
from shared.platforms.lab.sparse import Checkpoint
from shared.platforms.lab.vocabulary import CALLS
from shared.platforms.ports import Call

T = TypeVar("T")

APART: Final[dict[str, str]] = {
    "hold": "holds",
    "release": "holds",
    "create_instance": "machines",
    "power_on": "machines",
    "power_off": "machines",
    "delete_instance": "machines",
    "list_instances": "machines",
}
"""Calls with threads of their own. Holds wait for the disk to sync and are many at once; machines
take a few small files. In one queue with 250 holds each step of a VM took half a second."""

THREAD_COUNT: Final = 8
HOLD_THREAD_COUNT: Final = 2
"""Holds sync two files each. More of them side by side make our own database wait, whose commits
sync to the same disk, and with it the VMs that are further."""

DOOR_THREAD_COUNT: Final = 2
"""Where quotas are spent: a call is counted when it arrives, not when a thread is free to work on
it. Behind 250 calls that sync files the wait was half a second, and what then came at once was
more than the quota allows."""

_RECORD_BYTES_MAX: Final = 1 << 20
_PENDING, _JOURNALLED = b"p", b"j"


class Frame:
    """Runs a site's calls on threads of its own. One per open platform."""

    def __init__(self, folder: SiteFolder) -> None:
        self.folder = folder
        self.journal = CallJournal(folder)
        self.threads = ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix="lab")
        self._apart = {
            "holds": ThreadPoolExecutor(HOLD_THREAD_COUNT, thread_name_prefix="lab-holds"),
            "machines": ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix="lab-machines"),
        }
        self._door = ThreadPoolExecutor(DOOR_THREAD_COUNT, thread_name_prefix="lab-door")
        self._quotas = Quotas(folder)
        self._settings = SiteSettings()
        self._settings_stamp: tuple[int, int, int] | None = (-1, -1, -1)
        self._faults: dict[str, random.Random] = {}

    def stop(self) -> None:
        """Wait for calls in hand; later ones fail."""
        for pool in (self._door, *self._apart.values(), self.threads):
            pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Stop, and write what the journal still holds back."""
        self.stop()
        self.journal.close()

    def settings(self) -> SiteSettings:
        """`site.yaml` as it is now; read again when it changed, one stat otherwise."""
        path = self.folder.root / "site.yaml"
        try:
            found = os.stat(path)
        except FileNotFoundError:
            stamp = None
        else:
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._settings_stamp:
            self._settings = read_site(path)
            self._settings_stamp = stamp
            self.journal.enabled = self._settings.journal != "off"
        return self._settings

    async def read(self, name: str, call: Call | None, work: Callable[[], T]) -> T:
        """A call that changes nothing: no key is remembered, a line without one is journalled."""
        asked = msgspec.structs.replace(call, key="") if call is not None else None
        extra = {"part_of": call.key} if call is not None and call.key else None
        return await self._framed(
            name, asked, lambda pause: self._journalled(name, asked, work, extra)
        )

    async def look(self, name: str, call: Call, work: Callable[[], T]) -> T:
        """A look within a call that is waiting: it spends nothing and only errors are noted."""

        def looked(pause: Checkpoint) -> T:
            with self._translated(name, call):
                return work()

        return await self._thread(looked, self.threads)

    async def data(
        self, name: str, call: Call, subject: str, size: int, work: Callable[[], T]
    ) -> T:
        """A data-path call: added up per `subject` in the journal instead of a line each."""

        def counted(pause: Checkpoint) -> T:
            with self._translated(name, call):
                result = work()
            self.journal.add(name, call, subject, size)
            return result

        return await self._framed(name, call, counted)

    async def mutate(
        self,
        name: str,
        call: Call,
        work: Callable[[Checkpoint], T],
        result: type[T],
        *,
        scope: str = "",
        extra: Callable[[T], dict[str, Any]] | None = None,
        size: Callable[[T], int] | None = None,
        on_known: Callable[[], None] | None = None,
    ) -> T:
        """A call that changes something; a repeat of its key (and `scope`) gives the first
        result and does nothing, but for `on_known`, which clears up what the repeat brought.
        `work` must find by itself what an earlier try of it left."""

        def once(pause: Checkpoint) -> T:
            worked = False

            def noted() -> T:
                nonlocal worked
                worked = True
                return work(pause)

            with self._translated(name, call):
                value = self._once(name, call, noted, result, scope, extra, size)
                if on_known is not None and not worked:
                    on_known()
                return value

        return await self._framed(name, call, once)

    async def ensure(self, name: str, call: Call, work: Callable[[], tuple[T, bool, str]]) -> T:
        """A call that makes an object which may be made anew after it was removed.

        `work` finds or makes it under its own lock, and returns it, whether it was there, and
        its id, which the journalled key carries, so that each object has one `ok` line.
        """

        def once(pause: Checkpoint) -> T:
            with self._translated(name, call):
                value, known, object_id = work()
            asked = msgspec.structs.replace(call, key=f"{call.key}@{object_id}")
            self.journal.line(name, asked, "known" if known else "ok")
            return value

        return await self._framed(name, call, once)

    async def _framed(self, name: str, call: Call | None, work: Callable[[Checkpoint], T]) -> T:
        pool = self._apart[APART[name]] if name in APART else self.threads
        if not self._simulates(name, call):
            return await self._thread(work, pool)
        slots = Slots()
        try:
            admitted_at = await self._thread(
                lambda pause: self._admit(name, call, slots), self._door
            )
            latency_s = self._settings.latency_s.get(name, 0.0)
            if latency_s:
                await asyncio.sleep(latency_s)
            return await self._thread(
                lambda pause: self.journal.admitted(admitted_at, lambda: work(pause)), pool
            )
        finally:
            slots.close()

    def _simulates(self, name: str, call: Call | None) -> bool:
        """Whether the call needs more than one hop to a thread."""
        try:
            self.folder.require()
            site = self.settings()
        except SeawallError:
            self.journal.line(name, call, "error")
            raise
        if name in site.latency_s or name in site.faults:
            return True
        return bool(site.quotas) and any(quota in site.quotas for quota in CALLS[name])

    def _admit(self, name: str, call: Call | None, slots: Slots) -> str:
        """Let the call pass, or raise; gives the moment at which its quotas did."""
        site = self._settings
        needs = [(quota, site.quotas[quota]) for quota in CALLS[name] if quota in site.quotas]
        try:
            admitted_at = self._quotas.spend(needs, slots=slots)
        except Throttled:
            self.journal.line(name, call, "throttled")
            raise
        except OSError as error:  # the site may vanish at this very moment
            raise self.folder.translate(error, name) from error
        probability = site.faults.get(name, 0.0)
        if probability and self._chance(name, site.fault_seed) < probability:
            self.journal.line(name, call, "fault")
            raise Transient(f"{name}: a simulated fault, nothing was done", code="fault")
        return admitted_at

    def _chance(self, name: str, seed: int) -> float:
        """The next of a sequence per call name, the same for every process and seed."""
        if name not in self._faults:
            self._faults[name] = random.Random(f"{seed}/{name}")
        return self._faults[name].random()

    async def _thread(self, work: Callable[[Checkpoint], T], pool: ThreadPoolExecutor) -> T:
        stopped = threading.Event()

        def pause() -> None:
            if stopped.is_set():
                raise Transient("the call was cancelled", code="cancelled")

        loop = asyncio.get_running_loop()
        running: Awaitable[T] = loop.run_in_executor(pool, work, pause)
        try:
            return await running
        except asyncio.CancelledError:
            stopped.set()
            raise

    def _journalled(
        self, name: str, call: Call | None, work: Callable[[], T], extra: dict[str, Any] | None
    ) -> T:
        with self._translated(name, call):
            result = work()
        self.journal.line(name, call, "ok", extra=extra)
        return result

    @contextlib.contextmanager
    def _translated(self, name: str, call: Call | None) -> Any:
        """Errors of the operating system become ours; a failure is journalled."""
        try:
            self.folder.require()
            yield
        except OSError as error:
            self.journal.line(name, call, "error")
            raise self.folder.translate(error, f"{name} failed") from error
        except Throttled:
            self.journal.line(name, call, "throttled")
            raise
        except SeawallError as error:
            self.journal.line(name, call, "error", extra={"code": error.code})
            raise

    def _once(
        self,
        name: str,
        call: Call,
        work: Callable[[], T],
        result: type[T],
        scope: str,
        extra: Callable[[T], dict[str, Any]] | None,
        size: Callable[[T], int] | None,
    ) -> T:
        def told(value: T, *, known: bool) -> None:
            self.journal.line(
                name,
                call,
                "known" if known else "ok",
                size=size(value) if size is not None and not known else 0,
                extra=extra(value) if extra is not None and not known else None,
            )

        if not call.key:
            value = work()
            told(value, known=False)
            return value
        record = Record(self.folder, name, call.key, scope)
        try:
            found = record.read()
            if found is not None:
                value = msgspec.json.decode(found.result, type=result)
                journalled = found.journalled or self.journal.holds_ok(
                    name, call.key, found.position
                )
                told(value, known=journalled)
                record.mark_journalled()
                return value
            value = work()
            record.write(msgspec.json.encode(value), self.journal.position())
            told(value, known=False)
            record.mark_journalled()
            return value
        finally:
            record.close()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A key's first result as stored, and whether its journal line is known to be written."""

    result: msgspec.Raw
    position: int
    journalled: bool = False


class Record:
    """The file of one call and key: its lock while open, its result afterwards.

    One byte (`p` or `j`), the result as one JSON line. A line without its end, torn by a kill,
    counts as no result.
    """

    def __init__(self, folder: SiteFolder, name: str, key: str, scope: str) -> None:
        digest = short_hash(name, key, scope, length=32)
        path = folder.root / ".lab" / "done" / digest[:2] / digest
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
        except FileNotFoundError:
            folder.ensure(".lab", "done", digest[:2])
            self._fd = os.open(path, flags, 0o644)
        try:
            lock_fd(self._fd, what=f"{name} with the same key")
        except SeawallError:
            os.close(self._fd)
            raise

    def read(self) -> Done | None:
        """The first result; None where the call was never finished."""
        raw = os.pread(self._fd, _RECORD_BYTES_MAX, 0)
        if len(raw) < 2 or not raw.endswith(b"\n"):
            return None
        try:
            done = msgspec.json.decode(raw[1:], type=Done)
        except msgspec.DecodeError as error:
            raise Permanent(
                "the record of an earlier call cannot be read",
                code="bad-record",
                remedy="look at the files under .lab/done of the site folder",
            ) from error
        return msgspec.structs.replace(done, journalled=raw[:1] == _JOURNALLED)

    def write(self, result: bytes, position: int) -> None:
        """Store the result."""
        line = msgspec.json.encode(Done(result=msgspec.Raw(result), position=position))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, _PENDING + line + b"\n", 0)

    def mark_journalled(self) -> None:
        """Note that the journal has its line."""
        os.pwrite(self._fd, _JOURNALLED, 0)

    def close(self) -> None:
        os.close(self._fd)
