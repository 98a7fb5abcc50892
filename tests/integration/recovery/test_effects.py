"""The effect handlers on a real lab site: real disks, guests, scripts, repeats and left-overs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.plans import ReadyProbe
from services.recovery.polling import is_ready
from shared.effects.policy import OutcomeUnknown
from shared.effects.running import Stop
from shared.errors import Permanent, Transient
from shared.platforms.ports import Call, Instance
from shared.testing.spec import T0
from tests.failures import failure_mode
from tests.integration.recovery.lab import DISK, Lab
from tests.unit.recovery.test_cleanup import CLEANUP, clean
from tests.unit.recovery.world import JOB, enrol, header, script, start, vm
from tests.waiting import wait_until

MUTATIONS = ("hold", "rebuild_disk", "create_instance", "power_on", "release")


@pytest.fixture
def anyone_writes() -> Iterator[Path]:
    """A folder that a script's user reaches: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="seawall-test-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    os.chmod(tmp_path, 0o755)
    built = Lab(tmp_path)
    yield built
    for instance in await built.platform.compute.list_instances():
        call = _call("end")
        await built.platform.compute.power_off(call, instance_id=instance.instance_id)
    await built.platform.close()


def _call(key: str) -> Call:
    return Call(key=key, plan="shop", vm="db", job=JOB)


def begin(lab: Lab, *vms: Any, **options: Any) -> None:
    policy = options.pop("header", header())
    policy = msgspec.structs.replace(policy, recovery_site=lab.site)
    for each in vms:
        named = {k: v for k, v in options.items() if k != "dry_run"}
        lab.world.deliver(enrol(each, header=policy, **named))
    lab.world.deliver(start(*vms, header=policy, **options))


async def go_to(lab: Lab, part: str) -> str:
    async with asyncio.timeout(30):
        while True:
            lab.world.deliver_all()
            found = [effect for effect in lab.world.effects if effect.endswith(part)]
            if found:
                return found[0]
            assert await lab.step(), f"{part} never comes"


# ── the whole way ────────────────────────────────────────────────────────────────────────────


async def test_vms_come_up_from_their_copies_in_boot_order_and_cleanup_leaves_nothing(
    lab: Lab,
) -> None:
    await lab.add_copy("db", disks=("sda", "sdb"), boots_s=0.3)
    await lab.add_copy("app")
    begin(lab, vm("db", 1, boot_delay_s=0.5), vm("app", 2))
    await lab.run(until=said.RecoveryFinished)
    end = lab.world.event(said.RecoveryFinished)
    assert (end.state, end.ready) == ("completed", 2), end
    instances = {i.vm: i for i in await lab.platform.compute.list_instances()}
    first, then = instances["db"].powered_on_at, instances["app"].powered_on_at
    assert first and then and (then - first).total_seconds() >= 0.5
    folder = lab.home / "west" / "instances" / instances["db"].instance_id
    assert (folder / "sda.raw").read_bytes() == DISK
    assert (folder / "sdb.raw").read_bytes() == DISK
    await lab.run()
    assert not [o for o in await lab.platform.compute.list_owned() if o.kind == "hold"]
    clean(lab.world)
    await lab.run()
    cleaned = lab.world.event(said.CleanupFinished)
    assert (cleaned.state, cleaned.removed) == ("completed", 2)
    assert not [o for o in await lab.platform.compute.list_owned() if o.job == JOB]


async def test_every_mutation_done_twice_is_done_once(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    for part in ("hold-copy", "rebuild/sda", "create-instance", "power-on", "release-copy"):
        effect_id = await go_to(lab, part)
        first, second = await lab.do(effect_id), await lab.do(effect_id)
        assert first == second
    await lab.run()
    done = Counter((line["call"], line["key"], line["outcome"]) for line in lab.journal())
    for (call, _, outcome), count in done.items():
        assert call not in MUTATIONS or outcome != "ok" or count == 1


async def test_cleanup_of_a_recovery_cancelled_half_way_removes_unattached_disks_and_holds(
    lab: Lab,
) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    await go_to(lab, "create-instance")
    lab.world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
    await lab.run()
    assert lab.world.event(said.RecoveryFinished).state == "cancelled"
    # As if the release had been lost: cleanup finds a held copy by its tag as well.
    await lab.platform.target.hold(_call("left-over"))
    clean(lab.world)
    await lab.run()
    listed = {kind for kind, _, _ in lab.world.events(said.CleanupListed)[0].objects}
    assert listed == {"disk", "hold"}
    assert lab.world.event(said.CleanupFinished).state == "completed"
    for part in ("delete/disk", "delete/hold"):
        assert any(part in event.part for event in lab.world.events(said.CleanupObjectEnded))
    assert CLEANUP in lab.world.states


@failure_mode(
    "Recovery site",
    "cut off",
    sees=(
        "The answer to a call is lost: it is asked for again under the same key, and what"
        " it made is found."
    ),
    does="Nothing.",
)
async def test_a_hold_whose_answer_was_lost_is_found_and_let_go(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    hold = await go_to(lab, "hold-copy")
    await lab.do(hold)
    lab.world.settle(hold, code="timed-out")
    await lab.run()
    assert not await lab.platform.compute.list_owned()


async def test_a_checkpoint_is_recovered_from_without_touching_the_current_copy(lab: Lab) -> None:
    await lab.add_copy("db")
    call = _call("checkpoint:shop:c1")
    await lab.platform.target.create_checkpoint(
        call, checkpoint_id="checkpoint:shop:c1", manifest={}
    )
    begin(lab, vm("db"), checkpoint="checkpoint:shop:c1")
    await lab.run(until=said.RecoveryFinished)
    assert lab.world.event(said.RecoveryFinished).state == "completed"
    assert "hold" not in {line["call"] for line in lab.journal()}


# ── preflight ────────────────────────────────────────────────────────────────────────────────


async def problems(lab: Lab, *vms: Any, **options: Any) -> dict[str, str]:
    begin(lab, *vms, **options)
    await lab.run(until=said.RecoveryFinished)
    found = lab.world.event(said.PreflightFinished).problems
    assert all(problem.remedy for problem in found), found
    assert not {line["call"] for line in lab.journal()} & set(MUTATIONS)
    return {problem.code: problem.message for problem in found}


async def test_preflight_names_a_vm_without_a_copy(lab: Lab) -> None:
    await lab.add_copy("db")
    found = await problems(lab, vm("db"), vm("app"))
    assert found == {"no-copy": "app has no complete copy at the recovery site"}


async def test_preflight_names_a_missing_checkpoint(lab: Lab) -> None:
    await lab.add_copy("db")
    assert "no-copy" in await problems(lab, vm("db"), checkpoint="checkpoint:shop:gone")


async def test_preflight_measures_space(lab: Lab) -> None:
    await lab.add_copy("db")
    (lab.home / "west" / "site.yaml").write_text("capacity: 1KiB\n")
    assert "not-enough-space" in await problems(lab, vm("db"))


async def test_preflight_names_every_script_runtime_and_secret_that_is_missing(lab: Lab) -> None:
    await lab.add_copy("db")
    stored = lab.add_script("exit 0\n")
    definition = vm(
        "db", pre_script=script(), post_script=stored, credentials={"admin": "file:secrets/gone"}
    )
    found = await problems(lab, definition)
    assert set(found) == {"script-not-stored", "secret-unavailable"}


@pytest.mark.parametrize("why_not", ["", "not kept from the network: no power to"])
@pytest.mark.parametrize("network", [False, True])
async def test_preflight_tells_how_scripts_are_fenced_in_and_warns_where_they_are_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, why_not: str, network: bool
) -> None:
    async def found() -> str:
        return why_not

    monkeypatch.setattr(lab.tools.runner, "why_not_apart", found)
    await lab.add_copy("db")
    one = lab.add_script("exit 0\n", network=network)
    begin(lab, vm("db", pre_script=one), dry_run=True)
    await lab.run(until=said.RecoveryFinished)
    facts = lab.world.event(said.PreflightFinished).facts
    user = lab.tools.runner.user
    assert facts["scripts"] == {"user": user, "network_apart": not why_not, "why_not": why_not}
    warned = [each["code"] for each in facts.get("warnings", ())]
    assert warned == (["network-not-apart"] if why_not and not network else [])


@failure_mode(
    "Recovery site",
    "dead",
    sees="A recovery fails in preflight, before anything is touched, and names the site.",
    does="Mend the site, or recover at another one that has a copy.",
)
async def test_a_site_that_is_gone_fails_preflight_with_a_remedy(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    (lab.home / "west").rename(lab.home / "away")
    try:
        await lab.run(until=said.RecoveryFinished)
    finally:
        (lab.home / "away").rename(lab.home / "west")
    end = lab.world.event(said.RecoveryFinished)
    assert end.state == "failed" and end.problem.remedy


async def test_a_dry_run_lists_the_calls_and_what_they_spend_and_touches_nothing(lab: Lab) -> None:
    await lab.add_copy("db", disks=("sda", "sdb"))
    await lab.add_copy("app")
    (lab.home / "west" / "site.yaml").write_text(
        "quotas:\n  RunInstances: {burst: 1, per_second: 0.5}\n"
    )
    begin(lab, vm("db", 1, boot_delay_s=20), vm("app", 2), dry_run=True)
    await lab.run()
    facts = lab.world.event(said.PreflightFinished).facts
    assert [(call["call"], call["vm"], call["at_s"]) for call in facts["calls"]] == [
        ("hold", "db", 0),
        ("hold", "app", 0),
        ("rebuild_disk", "db", 0),
        ("rebuild_disk", "db", 0),
        ("rebuild_disk", "app", 0),
        ("create_instance", "db", 0),
        ("power_on", "db", 0),
        ("release", "db", 0),
        ("create_instance", "app", 2),
        ("power_on", "app", 20),
        ("release", "app", 20),
    ]
    assert facts["budgets"]["CreateVolume"] == {"calls": 3}
    assert facts["budgets"]["RunInstances"]["seconds_min"] == 2
    assert facts["seconds_min"] == 20
    assert (facts["build_ahead"], facts["early"], facts["latencies"]) == (True, True, {})
    assert not {line["call"] for line in lab.journal()} & set(MUTATIONS)


# ── scripts ──────────────────────────────────────────────────────────────────────────────────


async def test_a_post_script_reads_credentials_that_appear_nowhere_else(lab: Lab) -> None:
    await lab.add_copy("db")
    (lab.home / "secrets" / "admin").write_text("s3cr3t-value\n")
    text = """
python3 -c 'import json,os; d=json.load(open(os.environ["SEAWALL_CONTEXT"]));
print(d["credentials"]["admin"], d["instance"]["id"], d["operation"])
print(json.dumps({"outputs": {"seen": d["vm"]["name"]}}))'
"""
    post = lab.add_script(text)
    begin(lab, vm("db", post_script=post, credentials={"admin": "file:secrets/admin"}))
    await lab.run(until=said.RecoveryFinished)
    ended = lab.world.event(said.VmScriptEnded)
    assert ended.report.outcome == "done", ended.report
    assert ended.report.outputs == {"seen": "db"}
    assert "***" in ended.report.output and "test" in ended.report.output
    assert not any("s3cr3t" in repr(event) for _, event, _ in lab.world.log)


async def test_a_script_that_was_started_before_is_not_started_again(
    lab: Lab, anyone_writes: Path
) -> None:
    await lab.add_copy("db")
    lines = anyone_writes / "lines"
    pre = lab.add_script(f"echo start >> {lines}\n", on_failure="fail_vm")
    begin(lab, vm("db", pre_script=pre))
    effect_id = await go_to(lab, "db/pre-script")
    await lab.do(effect_id)
    again = await lab.do(effect_id)
    assert lines.read_text() == "start\n"
    assert again.report.outcome == "done", "what came of the first start is told"
    shutil.rmtree(lab.home / "scripts" / ".runs")
    with pytest.raises(OutcomeUnknown):
        await lab.do(effect_id)
    assert lines.read_text() == "start\n"
    await lab.run()
    assert lab.world.event(said.VmScriptEnded).timing.state == "unknown"


async def test_a_script_whose_start_was_recorded_and_never_given_is_started(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db", pre_script=lab.add_script("exit 0\n", on_failure="fail_vm")))
    effect_id = await go_to(lab, "db/pre-script")
    run = lab.effect_run(effect_id)
    report = run.report

    async def dies(fact: Any) -> None:
        await report(fact)
        raise Transient("the service dies here", remedy="start it again")

    run.report = dies  # type: ignore[method-assign]
    with pytest.raises(Transient):
        await lab.handlers["run-script"].run(run)
    await lab.run()
    assert lab.world.event(said.VmScriptEnded).timing.state == "completed"


@pytest.mark.parametrize(("text", "known"), [("exit 0\n", True), ("sleep 60\n", False)])
async def test_a_script_stopped_with_its_worker_is_judged_by_what_its_guard_left(
    lab: Lab, anyone_writes: Path, text: str, known: bool
) -> None:
    await lab.add_copy("db")
    lines = anyone_writes / "lines"
    begin(lab, vm("db", pre_script=lab.add_script(f"echo start >> {lines}\n{text}")))
    effect_id = await go_to(lab, "db/pre-script")
    run = lab.effect_run(effect_id)
    task = asyncio.create_task(lab.handlers["run-script"].run(run))
    await asyncio.to_thread(wait_until, lines.exists, "the script runs", within_s=20)
    run.stopped = Stop.LEASE
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if known:
        assert (await lab.do(effect_id)).report.outcome == "done"
    else:
        with pytest.raises(OutcomeUnknown):
            await lab.do(effect_id)
    assert lines.read_text() == "start\n"


async def test_a_script_whose_secret_is_gone_fails_without_being_started(lab: Lab) -> None:
    await lab.add_copy("db")
    (lab.home / "secrets" / "admin").write_text("value")
    post = lab.add_script("exit 0\n")
    begin(lab, vm("db", post_script=post, credentials={"admin": "file:secrets/admin"}))
    await go_to(lab, "db/post-script")
    (lab.home / "secrets" / "admin").unlink()
    await lab.run(until=said.RecoveryFinished)
    ended = lab.world.event(said.VmScriptEnded)
    assert ended.report.outcome == "failed" and ended.report.remedy
    assert not lab.world.events(said.VmScriptStarted)


async def test_long_output_is_kept_as_a_blob_and_its_end_in_the_event(lab: Lab) -> None:
    await lab.add_copy("db")
    pre = lab.add_script("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done\n")
    begin(lab, vm("db", pre_script=pre))
    await lab.run(until=said.VmScriptEnded)
    report = lab.world.event(said.VmScriptEnded).report
    assert len(report.output.encode()) <= 2048 and report.output.endswith("line 1999\n")
    assert lab.blobs[report.output_sha256].startswith(b"line 0\n")


async def test_what_cannot_be_removed_is_said_with_a_remedy(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    await lab.run(until=said.RecoveryFinished)
    clean(lab.world)
    effect_id = await go_to(lab, "list/1")
    listed = work.OwnedListed(objects=(("network", "n1", "db"),), total=1)
    lab.world.settle(effect_id, listed)
    with pytest.raises(Permanent) as permanent:
        await lab.do(await go_to(lab, "delete/network/n1"))
    assert permanent.value.remedy


# ── probes ───────────────────────────────────────────────────────────────────────────────────


def instance(*addresses: str, heartbeat: bool = False) -> Instance:
    return Instance(
        instance_id="i1",
        name="db",
        plan="shop",
        vm="db",
        job=JOB,
        key="k",
        power="on",
        powered_on_at=None,
        network="isolated",
        addresses=addresses,
        disks=(),
        heartbeat=heartbeat,
    )


async def probe(kind: Any, *, port: int | None = None, status: bytes = b"") -> bool:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readline()
            writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        number = port or server.sockets[0].getsockname()[1]
        watched = work.Watched(
            stream="s", instance_id="i1", kind=kind, until=T0, port=number, path="/health"
        )
        ready = await is_ready(watched, instance("127.0.0.1"))
        if port is None:
            async with asyncio.timeout(5):
                await served.wait()
        return ready


@pytest.mark.parametrize(
    ("kind", "status", "ready"),
    [
        ("tcp", b"", True),
        ("http", b"200 OK", True),
        ("http", b"302 Found", True),
        ("http", b"503 Busy", False),
        ("http", b"", False),
    ],
)
async def test_a_guest_is_ready_when_its_port_accepts_or_its_path_says_so(
    kind: str, status: bytes, ready: bool
) -> None:
    assert await probe(kind, status=status) is ready


@failure_mode(
    "Guest",
    "cut off",
    sees="It runs but cannot be reached on its port: not ready.",
    does="Check the isolated network and the guest's firewall.",
)
async def test_a_guest_that_does_not_listen_is_not_ready() -> None:
    assert await probe("tcp", port=1) is False


@failure_mode(
    "Guest",
    "lying",
    sees=("The agent says it is up and the service does not answer: the VM waits for its probe."),
    does="Give VMs a TCP or HTTP probe where a heartbeat says too little.",
)
async def test_a_vm_waits_for_its_probe_not_for_its_heartbeat(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db", ready=ReadyProbe(kind="tcp", port=1, within_s=1)))
    await lab.run(until=said.RecoveryFinished)
    end = lab.world.event(said.RecoveryFinished)
    assert (end.state, end.problem.code) == ("failed", "not-ready")
