"""What came of a run whose service died is told by the record that its guard kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from shared.scripts import record, runner
from shared.scripts.errors import ScriptEndUnknown
from tests.failures import failure_mode
from tests.integration.scripts.watching import Lab, eventually, wait_for


class ServiceDied(Exception):
    """Instead of the kill: after it nothing more is said to the guard."""


async def dies() -> None:
    raise ServiceDied


def counting(lab: Lab) -> str:
    return f"echo once >> {lab.scratch}/lines\n"


def lines(lab: Lab) -> list[str]:
    path = lab.scratch / "lines"
    return path.read_text().split() if path.exists() else []


def records(lab: Lab) -> list[Path]:
    return list((lab.base / "homes" / ".runs").iterdir())


async def test_a_start_that_was_announced_and_never_given_is_made_good(lab: Lab) -> None:
    with pytest.raises(ServiceDied):
        await lab.run(counting(lab), run_id="a", on_started=dies)
    assert lines(lab) == []
    result = await lab.run(counting(lab), run_id="a", begun=True)
    assert result.outcome == "done"
    assert lines(lab) == ["once"]


async def test_an_end_that_nobody_lived_to_hear_is_told_and_nothing_runs_again(lab: Lab) -> None:
    first = await lab.run(counting(lab), run_id="a")
    later = await lab.run(counting(lab), run_id="a", begun=True)
    assert lines(lab) == ["once"]
    assert later.outcome == "done" and "was lost" in later.output
    assert abs((later.started_at - first.started_at).total_seconds()) < 1


async def test_an_end_whose_outputs_are_lost_is_unknown(lab: Lab) -> None:
    content = counting(lab) + 'echo \'{"outputs": {"seen": 1}}\'\n'
    await lab.run(content, run_id="a")
    with pytest.raises(ScriptEndUnknown):
        await lab.run(content, run_id="a", begun=True)
    assert lines(lab) == ["once"]


async def test_a_failure_that_nobody_lived_to_hear_is_told(lab: Lab) -> None:
    await lab.run("exit 3\n", run_id="a")
    later = await lab.run("exit 3\n", run_id="a", begun=True)
    assert (later.outcome, later.exit_code) == ("failed", 3)


@failure_mode(
    "Script",
    "cut off",
    sees=(
        "The service died while it ran: the step is *unknown* and the job goes on as "
        "`on_unknown` says."
    ),
    does="Find out on the machine what it did. It is not run again.",
)
async def test_a_script_that_was_cut_off_is_unknown(lab: Lab) -> None:
    content = f"{counting(lab)}sleep 600\n"
    run = asyncio.create_task(lab.run(content, run_id="a"))
    await eventually(lambda: lines(lab))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    with pytest.raises(ScriptEndUnknown):
        await lab.run(content, run_id="a", begun=True)
    assert lines(lab) == ["once"]


async def test_a_script_that_still_runs_is_not_started_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "EARLIER_LOOKS_MAX", 3)
    content = f"{counting(lab)}{wait_for(lab.scratch / 'go')}\n"
    run = asyncio.create_task(lab.run(content, run_id="a"))
    await eventually(lambda: lines(lab))
    with pytest.raises(ScriptEndUnknown):
        await lab.run(content, run_id="a", begun=True)
    (lab.scratch / "go").touch()
    assert (await run).outcome == "done"
    assert lines(lab) == ["once"]


async def test_the_end_of_a_script_that_still_runs_is_waited_for(lab: Lab) -> None:
    content = f"{counting(lab)}{wait_for(lab.scratch / 'go')}\n"
    run = asyncio.create_task(lab.run(content, run_id="a"))
    await eventually(lambda: lines(lab))
    later = asyncio.create_task(lab.run(content, run_id="a", begun=True))
    (lab.scratch / "go").touch()
    assert (await later).outcome == (await run).outcome == "done"
    assert lines(lab) == ["once"]


@pytest.mark.parametrize("found", [None, b"", b"torn", b"prepared elsewhere\n"])
async def test_a_record_that_is_missing_torn_or_foreign_says_nothing(
    lab: Lab, found: bytes | None
) -> None:
    with pytest.raises(ServiceDied):
        await lab.run(counting(lab), run_id="a", on_started=dies)
    (path,) = records(lab)
    path.unlink() if found is None else path.write_bytes(found)
    with pytest.raises(ScriptEndUnknown):
        await lab.run(counting(lab), run_id="a", begun=True)
    assert lines(lab) == []


async def test_a_report_that_was_cut_off_says_nothing(lab: Lab) -> None:
    await lab.run(counting(lab), run_id="a")
    (path,) = records(lab)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ScriptEndUnknown):
        await lab.run(counting(lab), run_id="a", begun=True)


async def test_a_record_is_private_holds_no_output_and_goes_once_its_end_was_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.run("echo out\n", run_id="a")
    (path,) = records(lab)
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0
    assert b"out" not in path.read_bytes()
    monkeypatch.setattr(runner, "KEEP_S", 0.0)
    await lab.run("echo out\n", run_id="a", begun=True)
    await eventually(lambda: records(lab) == [])


async def test_records_that_nobody_came_back_for_are_swept(lab: Lab) -> None:
    for run_id in ("old", "new"):
        with pytest.raises(ServiceDied):
            await lab.run("exit 0\n", run_id=run_id, on_started=dies)
    old = record.record_path(lab.base / "homes" / ".runs", "old")
    long_ago = old.stat().st_mtime - record.KEEP_S_MAX - 1
    os.utime(old, (long_ago, long_ago))
    await lab.runner.sweep()
    assert old not in records(lab) and len(records(lab)) == 1
