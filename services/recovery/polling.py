"""One look at the watched instances of a site: one listing, and a probe for those that ask.

Owns the probes. When to look is `domain.watch`'s. A guest that does not answer is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from schemas.recovery_work import PollSite, ReadyGuest, SitePolled, Watched
from services.recovery.platform_work import Tools
from shared.effects.running import EffectRun
from shared.platforms.ports import Instance

PROBE_S_MAX: Final = 1.0
PROBES_MAX: Final = 64
STATUS_LINE_BYTES_MAX: Final = 1024


async def poll_site(tools: Tools, effect: EffectRun) -> SitePolled:
    """The watched instances that are ready now, and those that were to be before it began."""
    payload: PollSite = effect.payload
    began = tools.clock.now()
    listed = await tools.open_site(payload.site).compute.list_instances()
    instances = {instance.instance_id: instance for instance in listed}
    room = asyncio.Semaphore(PROBES_MAX)

    async def look(watched: Watched) -> ReadyGuest | None:
        instance = instances.get(watched.instance_id)
        if instance is None or instance.power != "on":
            return None
        async with room:
            if not await is_ready(watched, instance):
                return None
        return ReadyGuest(
            stream=watched.stream, at=tools.clock.now(), addresses=instance.addresses
        )

    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(look(watched)) for watched in payload.watched]
    found = [task.result() for task in looks]
    return SitePolled(
        ready=tuple(guest for guest in found if guest is not None),
        late=tuple(
            watched.stream
            for watched, guest in zip(payload.watched, found, strict=True)
            if guest is None and watched.until <= began
        ),
    )


async def is_ready(watched: Watched, instance: Instance) -> bool:
    """Whether the guest answers as it is asked to, within PROBE_S_MAX."""
    if watched.kind == "heartbeat":
        return instance.heartbeat
    if not instance.addresses:
        return False
    host, _, port = instance.addresses[0].partition(":")
    number = watched.port or (int(port) if port.isdecimal() else 80)
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            return await _answers(host, number, watched.path if watched.kind == "http" else None)
    except (OSError, TimeoutError, ValueError):
        return False


async def _answers(host: str, port: int, path: str | None) -> bool:
    """Whether the port accepts and, where a path is asked for, says 2xx or 3xx to it."""
    reader, writer = await asyncio.open_connection(host, port, limit=STATUS_LINE_BYTES_MAX)
    try:
        if path is None:
            return True
        request = f"GET {path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        status = (await reader.readline()).split(b" ")
        return len(status) > 1 and status[1][:1] in (b"2", b"3")
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
