"""One recovery is one trace, and one command is followed through the lines of all services.

Six processes on a real Postgres, a mail server, a collector. A caller who traces asks for a test
recovery and, before it, for a run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.embedded import BinariesMissing
from tests import parts
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.collector import Collector, Seen, collector
from tests.acceptance.crew import SERVICES
from tests.acceptance.plane import Plane
from tests.acceptance.world import VMS, World
from tests.integration.notifier.mailbox import mailbox
from tests.waiting import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
RUN_TRACE = "1" * 32


class Told(msgspec.Struct, kw_only=True):
    """What a collector and the log were told of a run and a recovery."""

    run: str
    recovery: str
    spans: Sequence[Seen]
    lines: Sequence[Mapping[str, Any]]

    def trace(self, trace: str = TRACE) -> Sequence[Seen]:
        return [span for span in self.spans if span.trace == trace]


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    # Scripts run as nobody and write their lines here; pytest's own folders are closed to them.
    root = Path(tempfile.mkdtemp(prefix="seawall-following-"))
    root.chmod(0o755)
    try:
        with mailbox() as box, collector(root / "spans") as (received, url):
            environment = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "SEAWALL_SMTP": box.address,
                "SEAWALL_MAIL_TO": "oncall@example.org",
                "SEAWALL_LOG_LEVEL": "debug",
            }
            with Plane(root, environment=environment) as plane:
                plane.start_all()
                plane.wait_ready()
                run, recovery = _work(plane, World(root, seed=1))
                wait_until(lambda: _sent(received), "it is told that the mail was sent")
            # Ending, each process has sent what waited.
            lines = [
                json.loads(line)
                for line in plane.log.read_text().splitlines()
                if line.startswith("{")
            ]
            yield Told(run=run, recovery=recovery, spans=received.spans(), lines=lines)
    except BinariesMissing as missing:
        parts.require("postgres", f"{missing}; {missing.remedy}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _work(plane: Plane, world: World) -> tuple[str, str]:
    """A run and a test recovery, each in a caller's trace; gives their jobs."""
    world.build()
    client = Client(plane)
    for site, path in (("east", world.east), ("west", world.west)):
        settings = {"path": str(path)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    body = world.plan()
    client.command("/v1/plans", {**body, "scripts": encoded_scripts(body["scripts"])})
    client.traceparent = f"00-{RUN_TRACE}-{CALLER}-01"
    run = client.command("/v1/plans/shop/run")["id"]
    ended = client.wait_job(run)
    assert ended["state"] == "completed", ended
    client.traceparent = f"00-{TRACE}-{CALLER}-01"
    recovery = client.command("/v1/plans/shop/recover", {"mode": "test"})["id"]
    client.traceparent = ""
    ended = client.wait_job(recovery)
    assert ended["state"] == "completed", ended
    return run, recovery


def _sent(received: Collector) -> bool:
    return any(span.name == "decide outcome of send-mail" for span in received.spans())


def path_of(span: Seen, spans: Sequence[Seen]) -> list[str]:
    """The names from a span up to the root."""
    by_id = {each.span: each for each in spans}
    names = [span.name]
    while span.parent in by_id:
        span = by_id[span.parent]
        names.append(span.name)
    return names


def test_all_that_a_recovery_did_is_in_the_trace_of_its_caller(told: Told) -> None:
    family = told.recovery.split(":", 1)[1]
    concerned = [
        span for span in told.spans
        if span.about.get("seawall.stream", "").partition(":")[2].startswith(family)
        or told.recovery in str(span.about)
    ]  # fmt: skip
    assert len(concerned) > 20
    assert {span.trace for span in concerned} == {TRACE}


def test_the_trace_is_one_tree_whose_root_is_the_request(told: Told) -> None:
    spans = told.trace()
    known = {span.span for span in spans}
    assert len(known) == len(spans)
    roots = [span for span in spans if span.parent not in known]
    assert {span.parent for span in roots} == {CALLER}
    assert {span.name for span in roots} == {"POST /v1/plans/{name}/recover"}
    assert roots[0].about["seawall.stream"] == told.recovery
    assert {span.service for span in spans} >= {"gateway", "scheduler", "recovery", "notifier"}


def test_every_effect_and_the_mail_have_their_place_in_it(told: Told) -> None:
    spans = told.trace()
    effects = [span for span in spans if span.name.startswith("effect ")]
    kinds = Counter(span.about["seawall.effect.kind"] for span in effects)
    for kind in ("create-instance", "power-on"):
        assert kinds[kind] == len(VMS), kinds
    assert kinds["run-script"] == len(VMS) + 2, kinds
    assert kinds["send-mail"] == 1, kinds
    for span in effects:
        assert span.about["seawall.effect.outcome"] == "ok", span
        assert span.about["seawall.effect.attempt"] == 0, span
        assert span.about["seawall.effect.id"].startswith(span.about["seawall.stream"] + "/")
        assert path_of(span, spans)[-1] == "POST /v1/plans/{name}/recover"


def test_an_outcome_is_under_its_effect_and_an_effect_under_the_step_that_asked(
    told: Told,
) -> None:
    spans = told.trace()
    by_id = {span.span: span for span in spans}
    outcomes = [span for span in spans if span.name.startswith("decide outcome of ")]
    assert len(outcomes) >= 3 * len(VMS)
    for span in outcomes:
        effect = by_id[span.parent]
        assert effect.name == span.name.replace("decide outcome of", "effect")
        assert effect.about["seawall.effect.id"] == span.about["seawall.effect.id"]
        assert by_id[effect.parent].name.startswith("decide ")


def test_looks_at_guests_are_in_no_trace_but_the_first(told: Told) -> None:
    polls = [span for span in told.spans if span.name == "effect poll-site"]
    assert {span.trace for span in polls} <= {TRACE}
    assert len(polls) <= len(VMS)


@pytest.mark.parametrize("trace", [TRACE, RUN_TRACE])
def test_lines_of_one_trace_are_of_one_command(told: Told, trace: str) -> None:
    lines = [line for line in told.lines if line.get("trace_id") == trace]
    assert len({line["correlation_id"] for line in lines if "correlation_id" in line}) == 1
    assert all(line["service"] in SERVICES and line["copy"] for line in lines)


def test_one_command_is_followed_through_the_lines_of_all_services(told: Told) -> None:
    """By its correlation id alone: the run passes the replicator, the recovery the others."""
    (asked,) = [
        line for line in told.lines
        if line["event"] == "request.answered" and line.get("stream") == told.recovery
        and line["method"] == "POST"
    ][:1]  # fmt: skip
    command = asked["correlation_id"]
    lines = [line for line in told.lines if line.get("correlation_id") == command]
    assert {line["service"] for line in lines} == set(SERVICES) - {"replicator"}
    ended = [line for line in lines if line["event"] == "effect.ended"]
    assert {"create-instance", "run-script", "send-mail"} <= {line["kind"] for line in ended}
    assert all(line["effect_id"] and line["trace_id"] == TRACE for line in ended)
    (run,) = {
        line["correlation_id"] for line in told.lines
        if line["event"] == "request.answered" and line.get("stream") == told.run
    }  # fmt: skip
    services = {line["service"] for line in told.lines if line.get("correlation_id") == run}
    assert services >= {"gateway", "scheduler", "replicator", "projector"}


def test_ticks_and_reads_are_in_no_callers_trace(told: Told) -> None:
    for span in (*told.trace(), *told.trace(RUN_TRACE)):
        assert "tick-due" not in span.name and not span.name.startswith("GET"), span
