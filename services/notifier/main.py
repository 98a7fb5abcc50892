"""Builds the notifier: its recipients and its way to the mail server."""

from __future__ import annotations

from services.notifier.effects import MailSender
from services.notifier.handlers import NAME, definition
from shared.process import Process
from shared.service import Service


async def build(process: Process) -> Service:
    """The notifier of this process. Without SEAWALL_SMTP and SEAWALL_MAIL_TO no mail is made."""
    settings = process.settings
    sender = MailSender(settings, clock=process.clock)
    to = tuple(filter(None, (address.strip() for address in settings.mail_to)))
    service = await process.service(definition(to if settings.smtp else ()))
    service.work(
        await process.queue(NAME), {"send-mail": sender}, heartbeat_s=settings.heartbeat_s
    )
    return service
