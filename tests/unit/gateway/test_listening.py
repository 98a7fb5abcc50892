"""The gateway's socket as it ends: who was taken on by the kernel is taken on by the gateway."""

from __future__ import annotations

import asyncio
import socket

from services.gateway.main import _listen, _taken_on
from tests.waiting import eventually


async def test_a_client_in_the_queue_is_accepted_before_the_socket_closes() -> None:
    listening = _listen("127.0.0.1", 0)
    taken: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)

    server = await asyncio.start_server(take, sock=listening)
    with socket.create_connection(listening.getsockname()):
        # The loop has had no turn since: it stands in the kernel's queue.
        await _taken_on(listening)
        server.close()

        async def seen() -> bool:
            return bool(taken)

        await eventually(seen, "the client is served", within_s=5)
        taken[0].close()
    await server.wait_closed()


async def test_a_queue_that_nobody_empties_holds_the_end_up_for_a_moment_only() -> None:
    listening = _listen("127.0.0.1", 0)
    listening.listen()
    with listening, socket.create_connection(listening.getsockname()):
        async with asyncio.timeout(5):
            await _taken_on(listening)
