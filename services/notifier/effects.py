"""Sends mail by SMTP. A mail goes at least once: its Message-ID is the same each time."""

from __future__ import annotations

from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib
import msgspec

from schemas.notifier import SendMail
from shared.clock import Clock
from shared.effects.policy import MAIL
from shared.effects.running import EffectRun
from shared.errors import Permanent, Transient
from shared.settings import Settings

SEND_TIMEOUT_S = 30.0
PERMANENT_FROM = 500


class MailSender:
    """Hands one mail to the configured server."""

    policy = MAIL
    resumable = True

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        host, _, port = settings.smtp.rpartition(":")
        self._host, self._port = host, int(port) if port.isdigit() else 0

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Send; gives the payload back. Raises Transient, or Permanent where mail is refused."""
        payload: SendMail = effect.payload
        settings = self._settings
        if not self._port:
            raise Permanent(
                f"SEAWALL_SMTP is {settings.smtp!r}", remedy="set it to host:port of a mail server"
            )
        try:
            await aiosmtplib.send(
                self._message(payload),
                hostname=self._host,
                port=self._port,
                username=settings.smtp_user or None,
                password=settings.smtp_password or None,
                use_tls=settings.smtp_tls == "tls",
                start_tls=settings.smtp_tls == "starttls",
                timeout=SEND_TIMEOUT_S,
            )
        except aiosmtplib.SMTPResponseException as refused:
            if refused.code >= PERMANENT_FROM:
                raise Permanent(
                    f"the mail server refused the mail: {refused.code} {refused.message}",
                    remedy="check sender, recipients and credentials",
                    code="mail-refused",
                ) from refused
            raise Transient(f"the mail server answered {refused.code}") from refused
        except (aiosmtplib.SMTPException, OSError) as away:
            raise Transient(f"the mail server does not answer: {away}") from away
        return payload

    def _message(self, payload: SendMail) -> EmailMessage:
        mail = payload.mail
        message = EmailMessage()
        message["From"] = self._settings.mail_from
        message["To"] = ", ".join(mail.to)
        message["Subject"] = mail.subject
        message["Message-ID"] = mail.message_id
        message["Date"] = format_datetime(self._clock.now())
        message["List-Id"] = "Seawall <alerts.seawall>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
        return message
