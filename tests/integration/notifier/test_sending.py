"""Mail by real SMTP: what goes out, and which answers are asked again."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import registry
from schemas.common import Problem
from schemas.envelope import Meta, events_topic
from schemas.ids import key_of, partition_of
from schemas.notifier import DeliveryDelivered, MailText, SendMail
from schemas.recovery import RecoveryFinished, VmFinished
from schemas.replicator import IterationFinished
from services.notifier.effects import MailSender
from services.notifier.main import build
from shared.clock import SystemClock
from shared.databases import Databases
from shared.effects.running import EffectRun
from shared.errors import Permanent, Transient
from shared.eventlog.port import NewRow, Step
from shared.process import Process
from shared.settings import Settings
from tests.failures import failure_mode
from tests.integration.notifier.mailbox import Mailbox, free_port, mailbox
from tests.waiting import eventually

MAIL = MailText(
    message_id="<delivery.shop.r1@seawall>",
    to=("a@example.org", "b@example.org"),
    subject="the recovery\nof shop ü",
    text="Zeile ü\n" + "x" * 2000,
    html="<p>Zeile ü</p>",
)


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as listening:
        yield listening


def sender(smtp: str, **fields: Any) -> MailSender:
    settings = Settings(home=Path("/nowhere"), smtp=smtp, mail_from="sw@example.org", **fields)
    return MailSender(settings, clock=SystemClock())


async def send(by: MailSender, mail: MailText = MAIL) -> None:
    effect: Any = EffectRun(None, SendMail(mail=mail), None)  # type: ignore[arg-type]
    await by.run(effect)


async def test_a_mail_arrives_whole_with_its_stable_id(box: Mailbox) -> None:
    await send(sender(box.address))
    (mail,) = box.mails
    assert mail["Message-ID"] == "<delivery.shop.r1@seawall>"
    assert mail["Subject"] == "the recovery of shop ü"
    assert (mail["From"], mail["Auto-Submitted"]) == ("sw@example.org", "auto-generated")
    sent_at = mail["Date"].datetime
    assert abs(sent_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    plain, rich = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and rich is not None
    assert plain.get_content().replace("\r\n", "\n").startswith("Zeile ü\nxxx")
    assert "<p>Zeile ü</p>" in rich.get_content()
    assert box.recipients == [["a@example.org", "b@example.org"]]


@failure_mode(
    "Mail server",
    "dead",
    sees="Mails wait and are tried again for 72 hours; jobs and alerts are not affected.",
    does="Mend SEAWALL_SMTP or the server.",
)
async def test_nobody_at_the_address_is_asked_again() -> None:
    with pytest.raises(Transient, match="does not answer"):
        await send(sender(f"127.0.0.1:{free_port()}"))


@pytest.mark.parametrize(
    ("answer", "error"), [("451 try later", Transient), ("554 no", Permanent)]
)
async def test_an_answer_of_4xx_is_asked_again_and_5xx_is_not(
    box: Mailbox, answer: str, error: type[Exception]
) -> None:
    box.answers = [answer]
    with pytest.raises(error, match=answer[:3]):
        await send(sender(box.address))
    assert box.mails == []


async def test_recipients_that_do_not_exist_are_a_permanent_refusal(box: Mailbox) -> None:
    box.refused_recipients = dict.fromkeys(MAIL.to, "550 no such user")
    with pytest.raises(Permanent, match=r"a@example\.org.*no such user") as refused:
        await send(sender(box.address))
    assert (refused.value.code, bool(refused.value.remedy)) == ("mail-refused", True)


async def test_a_recipient_that_may_be_there_later_is_asked_again(box: Mailbox) -> None:
    box.refused_recipients = {MAIL.to[0]: "550 no such user", MAIL.to[1]: "450 mailbox busy"}
    with pytest.raises(Transient, match="mailbox busy"):
        await send(sender(box.address))


@failure_mode(
    "Mail server",
    "cut off",
    sees=(
        "The server lets Seawall in no more: the mail's record says so; it is not tried "
        "again and again."
    ),
    does="Set SEAWALL_SMTP_USER and SEAWALL_SMTP_PASSWORD.",
)
async def test_a_login_is_used_and_a_wrong_one_is_permanent() -> None:
    with mailbox(login=True) as box:
        await send(sender(box.address, smtp_user="sw", smtp_password="right"))
        assert box.logins == [(b"sw", b"right")]
        with pytest.raises(Permanent, match="535") as refused:
            await send(sender(box.address, smtp_user="sw", smtp_password="wr0ng-one"))
    assert "wr0ng-one" not in f"{refused.value} {refused.value.remedy}"
    assert len(box.mails) == 1


@failure_mode(
    "Mail server",
    "lying",
    sees=("A server that offers no encryption where it is demanded gets neither login nor mail."),
    does="Mend the server's TLS, or set SEAWALL_SMTP_TLS knowingly.",
)
async def test_a_server_without_starttls_is_never_written_to_in_the_clear(box: Mailbox) -> None:
    with pytest.raises(Permanent, match="STARTTLS") as refused:
        await send(sender(box.address, smtp_tls="starttls"))
    assert "SEAWALL_SMTP_TLS" in refused.value.remedy
    assert box.mails == []


@pytest.mark.parametrize(
    ("fields", "variable"),
    [
        ({"smtp": "mail.example.org"}, "SEAWALL_SMTP "),
        ({"smtp": ":25"}, "SEAWALL_SMTP "),
        ({"smtp": "h:0"}, "SEAWALL_SMTP "),
        ({"smtp": "h:x"}, "SEAWALL_SMTP "),
        ({"smtp": "h:25", "smtp_tls": "ssl"}, "SEAWALL_SMTP_TLS"),
    ],
)
def test_settings_that_are_wrong_are_named_at_the_start(
    fields: dict[str, str], variable: str
) -> None:
    with pytest.raises(Permanent, match=variable) as wrong:
        sender(**fields)
    assert wrong.value.remedy


# ── The service as it runs ───────────────────────────────────────────────────────────────────


class Running:
    """A running notifier, and those it listens to."""

    def __init__(self, process: Process, box: Mailbox) -> None:
        self.process = process
        self.box = box

    async def happen(self, source: str, *events: tuple[str, Any]) -> None:
        """Another service says something, of new streams."""
        topic = events_topic(source)
        meta = Meta(occurred_at=SystemClock().now())
        rows = []
        for stream, body in events:
            name, version, data = registry.encode(body)
            partition = partition_of(key_of(stream))
            rows.append(NewRow(topic, partition, stream, 1, name, version, data, meta))
        await (await self.process.store(source)).commit(Step(rows=rows))
        self.process.news("notifier").poke((topic,))

    async def delivered(self, stream: str) -> bool:
        """Whether the delivery is on record as done."""
        loaded = await (await self.process.store("notifier")).load({stream: 0})
        done = registry.name_of(DeliveryDelivered)
        return any(row.type == done for row in loaded[stream].events)


@pytest.fixture
async def running(postgres_dsn: str, tmp_path: Path, box: Mailbox) -> AsyncIterator[Running]:
    settings = Settings(
        home=tmp_path, smtp=box.address, mail_to=("oncall@example.org", " second@example.org"),
        lease_s=2.0, heartbeat_s=0.5,
    )  # fmt: skip
    async with Process(settings, Databases(postgres_dsn)) as process:
        service = await build(process)
        async with asyncio.TaskGroup() as group:
            news = group.create_task(process.hear())
            task = group.create_task(service.run())
            yield Running(process, box)
            service.stop()
            await asyncio.wait([task], timeout=15)
            news.cancel()


@failure_mode(
    "Mail server",
    "slow",
    sees="A busy server is asked again later; the mail arrives once, under its stable id.",
    does="Nothing.",
)
async def test_an_ended_recovery_is_one_mail_even_after_a_server_that_was_busy(
    running: Running,
) -> None:
    running.box.answers = ["451 busy"]
    finished = RecoveryFinished(plan="shop", mode="test", state="completed", ready=1, rto_s=9.5)
    vm = VmFinished(
        plan="shop", vm="db", job="recovery:shop:r1", outcome="ready", state="completed"
    )
    await running.happen(
        "recovery", ("vm-recovery:shop:r1:db", vm), ("recovery:shop:r1", finished)
    )
    await eventually(
        lambda: running.delivered("delivery:shop:r1"), "the mail is delivered", within_s=20
    )
    (mail,) = running.box.mails
    assert "RTO 9.5s" in mail["Subject"]
    assert running.box.recipients == [["oncall@example.org", "second@example.org"]]


async def test_alerts_of_a_plan_that_open_together_are_one_mail(running: Running) -> None:
    problem = Problem(code="full", message="the site is full", remedy="free space")
    events = [
        (
            f"iteration:shop:{vm}:i1",
            IterationFinished(plan="shop", vm=vm, state="failed", problem=problem),
        )
        for vm in ("db", "app", "web")
    ]
    await running.happen("replicator", *events)
    await eventually(
        lambda: running.delivered("delivery:shop:digest-1"), "the digest is sent", within_s=20
    )
    (mail,) = running.box.mails
    assert "3 alerts in plan shop" in mail["Subject"]
