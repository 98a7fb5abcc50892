"""The recovery service as it runs: Postgres, its engine, a lab site; messages as from outside."""

from __future__ import annotations

from schemas import recovery as said
from services.recovery.domain.vm_state import vm_stream
from tests.integration.recovery.service import Running
from tests.unit.recovery.world import JOB, header, vm

CLEANUP = "cleanup:shop:k1"


async def test_a_test_recovery_and_its_cleanup_run_through_the_engine(running: Running) -> None:
    lab = running.lab
    for name in ("db", "app", "web"):
        await lab.add_copy(name)
    content = lab.add_script('echo \'{"outputs": {"ok": true}}\'\n')
    stored = lab.world.event(said.RecoveryScriptStored)
    await running.send(
        "scheduler",
        said.StoreRecoveryScript(
            **{name: getattr(stored, name) for name in stored.__struct_fields__}
        ),
    )
    vms = (vm("db", 1, post_script=content), vm("app", 2, boot_delay_s=0.2), vm("web", 3))
    await running.recover(*vms, header=header(pre_script=content, post_script=content))
    ended = await running.until(JOB, lambda state: state.finished)
    assert ended.finished.state == "completed", ended.finished
    db = await running.state(vm_stream(JOB, "db"))
    assert db.outputs == {"post-script": {"ok": True}}
    calls = [line for line in lab.journal() if line["call"] == "power_on"]
    assert [line["vm"] for line in calls] == ["db", "app", "web"]
    await running.send("gateway", said.StartCleanup(command_id="c1", job=CLEANUP, recovery=JOB))
    await running.until(JOB, lambda state: state.cleaned)
    assert not [o for o in await lab.platform.compute.list_owned() if o.job == JOB]


async def test_a_cancelled_recovery_ends_cancelled(running: Running) -> None:
    await running.lab.add_copy("db", boots_s=60)
    await running.recover(vm("db"))
    child = vm_stream(JOB, "db")
    await running.until(child, lambda state: state.powered_on_at)
    await running.send("gateway", said.CancelRecoveryJob(command_id="c1", job=JOB))
    ended = await running.until(JOB, lambda state: state.finished)
    assert (ended.finished.state, ended.finished.awaits_cleanup) == ("cancelled", True)
    await running.send("gateway", said.StartCleanup(command_id="c2", job=CLEANUP, recovery=JOB))
    await running.until(JOB, lambda state: state.cleaned)
