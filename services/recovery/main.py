"""Builds the recovery service: sites, scripts, secrets, and the worker that uses them."""

from __future__ import annotations

from services.recovery.effects import handlers
from services.recovery.handlers import DEFINITION
from services.recovery.platform_work import Tools
from shared.platforms.sites import Sites
from shared.process import Process
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver
from shared.service import Service


async def build(process: Process) -> Service:
    """The recovery service of this process."""
    settings = process.settings
    service = await process.service(DEFINITION)
    queue = await process.queue(DEFINITION.name)
    runner = ScriptRunner(home=settings.home / "scripts")
    process.health.tell(f"scripts of {service.name}", runner.fences)
    tools = Tools(
        open_site=Sites().open,
        read_states=service.read_states,
        runner=runner,
        secrets=SecretResolver(home=settings.home),
        put_blob=service.store.put_blob,
        clock=process.clock,
    )
    service.work(queue, handlers(tools), heartbeat_s=settings.heartbeat_s)
    return service
