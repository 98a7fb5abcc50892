"""Builds the scheduler: no adapters, it calls no platform."""

from __future__ import annotations

from services.scheduler.handlers import DEFINITION
from shared.process import Process
from shared.service import Service


async def build(process: Process) -> Service:
    """The scheduler of this process."""
    return await process.service(DEFINITION)
