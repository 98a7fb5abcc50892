"""Builds the replicator: sites and their budgets, the data path, scripts, and the worker."""

from __future__ import annotations

from services.replicator.budgets import SiteBudgets
from services.replicator.effects import handlers
from services.replicator.handlers import DEFINITION
from services.replicator.progress import TransferProgress
from services.replicator.settings import ReplicatorSettings
from services.replicator.throttled import ThrottleWatch
from services.replicator.tools import Paces, Patience, Tools
from shared.platforms.sites import Sites
from shared.process import Process
from shared.progress import ProgressPublisher
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver
from shared.service import Service


async def build(process: Process) -> Service:
    """The replicator of this process."""
    settings = process.settings
    service = await process.service(DEFINITION)
    queue = await process.queue(DEFINITION.name)
    own = ReplicatorSettings(call_timeout_s=settings.call_timeout_s)
    budgets = SiteBudgets(Sites(), queue, node_disks=own.node_disks)
    publisher = ProgressPublisher(await process.progress(DEFINITION.name), clock=process.clock)
    runner = ScriptRunner(home=settings.home / "scripts")
    process.health.tell(f"scripts of {service.name}", runner.fences)
    tools = Tools(
        open_site=budgets.open,
        define_budgets=budgets.define,
        read_states=service.read_states,
        paces=Paces(),
        patience=Patience(),
        progress=TransferProgress(publisher),
        runner=runner,
        secrets=SecretResolver(home=settings.home),
        put_blob=service.store.put_blob,
        clock=process.clock,
        settings=own,
    )
    service.work(queue, handlers(tools), heartbeat_s=settings.heartbeat_s)
    watch = ThrottleWatch(queue.budgets, gauges=process.metrics, tell=service.tell)
    service.beside(budgets.keep)
    service.beside(watch.run)
    service.beside(publisher.run)
    return service
