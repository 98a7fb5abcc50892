"""What happens to one step: read, look for zeros or equal content, write, verify.

**Verified** means: the digest of what was read from the snapshot equals the digest of what the
target returned for that range after the write (`Target.write` reads it again). That shows that
the right bytes are at the right place in the staged generation and that no buffer was reused too
early, no write was short, none went astray. Together with a successful `flush` before a mark and
before the end it shows that the device has accepted them. It does not show that the medium can
still return them next year, nor does it look at what the source read from its own medium.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import xxhash

from services.replicator.transfer.calls import SiteCalls
from services.replicator.transfer.errors import VerifyFailed
from services.replicator.transfer.plan import Step
from services.replicator.transfer.records import TransferRequest
from services.replicator.transfer.tally import Tally
from services.replicator.transfer.window import Window
from shared.platforms.ports import CHUNK_BYTES, Call, DigestName, Source, Target

Offload = Callable[[Callable[[memoryview], bytes], memoryview], Awaitable[bytes]]

# bytearray.startswith is a memcmp that ends at the first difference: 22 µs for a MiB of zeros,
# nothing for other content, no copy. Comparing memoryviews would unpack every byte.
_ZEROS = memoryview(bytes(CHUNK_BYTES))


async def on_a_thread(digest: Callable[[memoryview], bytes], view: memoryview) -> bytes:
    """The default `Offload`: a slow digest must not hold up the event loop."""
    return await asyncio.to_thread(digest, view)


class Pieces:
    """The work of one transfer's lanes."""

    def __init__(
        self,
        *,
        request: TransferRequest,
        source: Source,
        target: Target,
        source_calls: SiteCalls,
        target_calls: SiteCalls,
        timeout_s: float,
        windows: tuple[Window, ...],
        tally: Tally,
        offload: Offload,
    ) -> None:
        self._request = request
        self._source = source
        self._target = target
        self._source_calls = source_calls
        self._target_calls = target_calls
        self._timeout_s = timeout_s
        self._windows = windows
        self._tally = tally
        self._offload = offload

    async def copy(self, step: Step, buffer: bytearray) -> bytes | None:
        """Bring the step's range to the target, whatever was there."""
        return await self._bring(step, buffer, compare=False)

    async def compare(self, step: Step, buffer: bytearray) -> bytes | None:
        """Bring the step's range to the target unless the target holds it already."""
        return await self._bring(step, buffer, compare=True)

    async def check(self, step: Step, _buffer: bytearray) -> bytes | None:
        """Digest an adopted range. Holes are made again: that costs less than reading them."""
        if step.hole:
            await self._zero(step)
            return None
        digest = await self._digest(step, "xxh3_128")
        self._tally.bytes_adopted += step.length
        return digest

    async def _bring(self, step: Step, buffer: bytearray, *, compare: bool) -> bytes | None:
        if step.hole:
            await self._zero(step)
            return None
        view = memoryview(buffer)[: step.length]
        await self._read(step, view)
        self._tally.bytes_read += step.length
        digest = xxhash.xxh3_128_digest(view)
        if buffer.startswith(_ZEROS[: step.length]):
            self._tally.bytes_zero += step.length
            if not self._request.generation.blank:
                await self._zero(step)
        elif compare and await self._is_same(step, view):
            self._tally.bytes_same += step.length
            self._tally.verified(asyncio.get_running_loop().time())
        else:
            await self._write(step, view, digest, timed=not compare)
            self._tally.bytes_written += step.length
            self._tally.verified(asyncio.get_running_loop().time())
        return digest

    async def _read(self, step: Step, view: memoryview) -> None:
        await self._source_calls.ask(
            "read_chunk",
            f"r{step.offset}",
            lambda call: self._source.read(
                call,
                snapshot=self._request.snapshot,
                disk=self._request.disk,
                offset=step.offset,
                into=view,
            ),
            timeout_s=self._timeout_s,
        )

    async def _zero(self, step: Step) -> None:
        await self._target_calls.ask(
            "zero_range",
            f"z{step.offset}",
            lambda call: self._target.zero(
                call,
                generation=self._request.generation,
                offset=step.offset,
                length=step.length,
            ),
            timeout_s=self._timeout_s,
        )

    async def _is_same(self, step: Step, view: memoryview) -> bool:
        theirs = await self._digest(step, "sha256")
        return theirs == await self._offload(_sha256, view)

    async def _write(self, step: Step, view: memoryview, digest: bytes, *, timed: bool) -> None:
        def write(call: Call) -> Awaitable[bytes]:
            return self._target.write(
                call, generation=self._request.generation, offset=step.offset, data=view
            )

        stored = await self._target_calls.ask(
            "write_chunk",
            f"w{step.offset}",
            lambda call: self._timed(write(call)) if timed else write(call),
            timeout_s=self._timeout_s,
        )
        if stored != digest:
            raise VerifyFailed(
                f"disk {self._request.disk} at {step.offset}+{step.length}: the target returned "
                f"{stored.hex()} where {digest.hex()} was written",
                remedy="Check the target's storage. The copy is unharmed; the range is sent "
                "again at the next attempt.",
            )

    async def _digest(self, step: Step, algorithm: DigestName) -> bytes:
        return await self._target_calls.ask(
            "digest_chunk",
            f"{algorithm}-{step.offset}",
            lambda call: self._timed(
                self._target.digest(
                    call,
                    generation=self._request.generation,
                    offset=step.offset,
                    length=step.length,
                    algorithm=algorithm,
                )
            ),
            timeout_s=self._timeout_s,
        )

    async def _timed(self, call: Awaitable[bytes]) -> bytes:
        """Let the windows see how long the target takes, without the wait for a rate.

        Only the kind of call that every step makes is timed: two kinds have two floors.
        """
        clock = asyncio.get_running_loop().time
        began_s = clock()
        answer = await call
        for window in self._windows:
            window.answered(clock() - began_s)
        return answer


def _sha256(view: memoryview) -> bytes:
    return hashlib.sha256(view).digest()
