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
from shared.errors import Permanent, SeawallError, Transient
from shared.settings import Settings

SEND_TIMEOUT_S = 30.0
PERMANENT_FROM = 500
TLS_MODES = ("none", "starttls", "tls")


class MailSender:
    """Hands one mail to the configured server. Raises Permanent where the settings are wrong."""

    policy = MAIL
    resumable = True

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._host, self._port = _address(settings)

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Send; gives the payload back. Raises Transient, or Permanent where mail is refused."""
        payload: SendMail = effect.payload
        settings = self._settings
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
            raise _refused([(refused.code, refused.message)]) from refused
        except aiosmtplib.SMTPRecipientsRefused as refused:
            answers = [
                (each.code, f"{each.recipient}: {each.message}") for each in refused.recipients
            ]
            raise _refused(answers) from refused
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _unable(error) from error
        return payload

    def _message(self, payload: SendMail) -> EmailMessage:
        mail = payload.mail
        message = EmailMessage()
        message["From"] = self._settings.mail_from
        message["To"] = ", ".join(mail.to)
        # A header is one line, whatever the name of a VM holds.
        message["Subject"] = " ".join(mail.subject.split())
        message["Message-ID"] = mail.message_id
        message["Date"] = format_datetime(self._clock.now())
        message["List-Id"] = "Seawall <alerts.seawall>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
        return message


def _address(settings: Settings) -> tuple[str, int]:
    """Host and port of the mail server; ('', 0) where none is configured."""
    if settings.smtp_tls not in TLS_MODES:
        raise Permanent(
            f"SEAWALL_SMTP_TLS is {settings.smtp_tls!r}",
            remedy=f"set it to one of {', '.join(TLS_MODES)}",
        )
    if not settings.smtp:
        return "", 0
    host, _, port = settings.smtp.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise Permanent(
            f"SEAWALL_SMTP is {settings.smtp!r}",
            remedy="set it to host:port of a mail server, as mail.example.org:25",
        )
    return host.strip("[]"), int(port)


def _refused(answers: list[tuple[int, str]]) -> SeawallError:
    """Permanent only where every answer is: a server that may accept later is asked again."""
    told = "; ".join(f"{code} {message}" for code, message in answers)
    if all(code >= PERMANENT_FROM for code, _ in answers):
        return Permanent(
            f"the mail server refused the mail: {told}",
            remedy="check sender, recipients and credentials",
            code="mail-refused",
        )
    return Transient(f"the mail server answered {told}")


def _unable(error: Exception) -> SeawallError:
    """No answer comes later by itself; a server that lacks what is asked for needs a person.

    aiosmtplib raises its root error, and only it, for what the server does not offer: TLS, a
    login, a way to log in.
    """
    if type(error) in (aiosmtplib.SMTPException, aiosmtplib.SMTPNotSupported):
        return Permanent(
            f"the mail server cannot do what is asked of it: {error}",
            remedy="set SEAWALL_SMTP_TLS to none, starttls or tls and the login as it offers them",
            code="mail-refused",
        )
    return Transient(f"the mail server does not answer: {error}")
