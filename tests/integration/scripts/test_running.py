"""What a script gets, what it leaves, and what becomes of its exit and output."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import random
import statistics
import time
from pathlib import Path

import pytest
import uvloop

from shared.scripts.errors import ScriptNotStarted, ScriptSetup
from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import ScriptSpec
from shared.secrets import Secret
from tests import parts
from tests.integration.scripts.watching import Lab, guards

SHOW = """
import json, os, stat, sys
path = os.environ["SEAWALL_CONTEXT"]
print(json.dumps({"outputs": {
    "environment": open("/proc/self/environ").read().split(chr(0))[:-1],
    "folder": os.getcwd(), "entries": os.listdir("."), "uid": os.getuid(), "gid": os.getgid(),
    "groups": os.getgroups(), "mode": stat.S_IMODE(os.stat(path).st_mode),
    "context_owner": os.stat(path).st_uid, "folder_owner": os.stat(".").st_uid,
    "file": json.load(open(path)), "input": json.load(sys.stdin), "context_path": path,
    "home_writable": os.access(os.environ["HOME"], os.W_OK),
}}))
"""


async def test_a_script_gets_the_context_twice_an_empty_folder_and_four_variables(
    lab: Lab,
) -> None:
    result = await lab.run(SHOW, "python", context={"vm": "db", "ip": ["10.0.0.5"]})
    assert result.outcome == "done", result
    seen = result.outputs
    assert seen["file"] == seen["input"] == {"vm": "db", "ip": ["10.0.0.5"]}
    assert seen["entries"] == []
    names = sorted(entry.partition("=")[0] for entry in seen["environment"])
    assert names == ["HOME", "LANG", "PATH", "SEAWALL_CONTEXT"]
    assert seen["mode"] == 0o600
    assert seen["home_writable"]
    assert seen["context_owner"] == seen["folder_owner"] == seen["uid"]
    assert not Path(seen["context_path"]).exists()
    assert lab.folders() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
async def test_a_root_service_runs_scripts_as_an_unprivileged_user(lab: Lab) -> None:
    seen = (await lab.run(SHOW, "python")).outputs
    nobody = pwd.getpwnam("nobody")
    assert (seen["uid"], seen["gid"]) == (nobody.pw_uid, nobody.pw_gid)
    assert 0 not in seen["groups"]
    assert lab.runner.user == "nobody"


@pytest.mark.parametrize(
    ("content", "code", "outcome"),
    [("true", 0, "done"), ("exit 3", 3, "failed"), ("exit 255", 255, "failed")],
)
async def test_the_exit_code_decides(lab: Lab, content: str, code: int, outcome: str) -> None:
    result = await lab.run(content)
    assert (result.exit_code, result.outcome) == (code, outcome)
    assert (result.error is None) == (outcome == "done")
    assert result.started_at.tzinfo is not None
    assert result.started_at <= result.ended_at


async def test_a_script_ended_by_a_signal_was_killed(lab: Lab) -> None:
    result = await lab.run("kill -SEGV $$")
    assert (result.exit_code, result.outcome) == (None, "killed")
    assert "SIGSEGV" in (result.error or "")


async def test_both_outputs_are_kept_in_order_and_the_last_line_is_read(lab: Lab) -> None:
    content = """echo one; echo two >&2; echo three; echo '{"outputs": {"ip": "10.0.0.9"}}'"""
    result = await lab.run(content)
    assert result.output.startswith("one\ntwo\nthree\n")
    assert result.outputs == {"ip": "10.0.0.9"}
    assert not result.truncated


async def test_bash_runs_bash(lab: Lab) -> None:
    assert (await lab.run("a=(x y); echo ${a[1]}", "bash")).output == "y\n"


async def test_go_runs_with_its_own_exit_code_and_leaves_only_its_cache(lab: Lab) -> None:
    if lab.runner.check_runtime("go"):
        parts.require("go", lab.runner.check_runtime("go") or "")
    before = set(Path("/tmp").glob("go-build*"))
    content = """package main
import ("fmt"; "io"; "os")
func main() { b, _ := io.ReadAll(os.Stdin); fmt.Println(len(os.Environ()), string(b)); os.Exit(7) }
"""
    result = await lab.run(content, "go", context={"a": 1}, timeout_s=240)
    assert (result.outcome, result.exit_code) == ("failed", 7), result
    assert result.output == '4 {"a":1}\n'
    assert lab.folders() == []
    assert set(Path("/tmp").glob("go-build*")) <= before


async def test_go_that_does_not_compile_fails_with_the_compilers_words(lab: Lab) -> None:
    if lab.runner.check_runtime("go"):
        parts.require("go", lab.runner.check_runtime("go") or "")
    result = await lab.run("package main\nfunc main() { x }\n", "go", timeout_s=240)
    assert result.outcome == "failed"
    assert "undefined: x" in result.output


async def test_a_missing_runtime_is_told_without_a_start(lab: Lab) -> None:
    started: list[int] = []

    async def on_started() -> None:
        started.append(1)

    lab.runner = ScriptRunner(home=lab.base / "homes", work_root=lab.work, path="/nonexistent")
    assert "install Go" in (lab.runner.check_runtime("go") or "")
    result = await lab.run("package main", "go", on_started=on_started)
    assert result.outcome == "missing-runtime"
    assert "PATH /nonexistent" in (result.error or "")
    assert started == []


async def test_a_program_the_script_user_cannot_reach_is_missing(lab: Lab) -> None:
    closed = lab.base / "closed"
    closed.mkdir()
    (closed / "go").write_text("#!/bin/sh\n")
    (closed / "go").chmod(0o755)
    closed.chmod(0)
    runner = ScriptRunner(home=lab.base / "homes", work_root=lab.work, path=str(closed))
    assert runner.check_runtime("go") is not None
    closed.chmod(0o755)
    assert runner.check_runtime("go") is None


async def test_the_start_is_recorded_before_the_process_exists(lab: Lab) -> None:
    marker = lab.scratch / "ran"
    seen: list[object] = []

    async def on_started() -> None:
        (folder,) = lab.folders()
        (guard,) = guards()
        seen.append((marker.exists(), guard.children(), (folder / "context.json").stat().st_mode))

    await lab.run(f"touch {marker}", on_started=on_started)
    assert seen == [(False, [], 0o100600)]
    assert marker.exists()


async def test_nothing_starts_when_the_start_cannot_be_recorded(lab: Lab) -> None:
    async def on_started() -> None:
        raise LookupError("no claim")

    with pytest.raises(LookupError, match="no claim"):
        await lab.run(f"touch {lab.scratch}/ran", on_started=on_started)
    assert not (lab.scratch / "ran").exists()
    assert lab.folders() == []
    assert guards() == []


async def test_a_run_that_cannot_be_prepared_is_not_recorded_as_started(lab: Lab) -> None:
    async def on_started() -> None:
        pytest.fail("recorded a start that never was")

    lab.work.rmdir()
    with pytest.raises(ScriptNotStarted, match="No such file") as caught:
        await lab.run("true", on_started=on_started)
    assert caught.value.remedy
    lab.work.mkdir()


async def test_secrets_are_masked_in_every_text_also_across_writes(lab: Lab) -> None:
    secret = "Tr0ub4dor&3-" + os.urandom(8).hex() + "\nsecond 'line' of it"
    cuts = [random.Random(7).randrange(1, len(secret)) for _ in range(40)]
    content = f"""
import json, os
secret = json.load(open(os.environ["SEAWALL_CONTEXT"]))["password"]
for cut in {cuts}:
    os.write(1, secret[:cut].encode()); os.write(2, secret[cut:].encode() + b"|")
print()
print(json.dumps({{"outputs": {{"found": "it is " + secret}}}}))
"""
    context = {"password": Secret(secret)}
    result = await lab.run(content, "python", context=context)
    assert result.output.startswith("***|" * 40)
    assert result.outputs == {"found": "it is ***"}
    first, second = secret.split("\n")
    assert first not in repr(result)
    assert second not in repr(result)


async def test_the_context_is_bounded(lab: Lab) -> None:
    with pytest.raises(ScriptNotStarted, match="context has"):
        await lab.run("true", context={"big": "x" * 2_000_000})
    result = await lab.run("wc -c", context={"big": "x" * 1_000_000})
    assert int(result.output) > 1_000_000


async def test_runs_side_by_side_do_not_meet(lab: Lab) -> None:
    results = await asyncio.gather(
        *(lab.run("cat; echo; sleep 0.2; ls", context={"n": n}) for n in range(6))
    )
    assert [json.loads(result.output) for result in results] == [{"n": n} for n in range(6)]


def test_it_runs_under_uvloop_too(lab: Lab) -> None:
    async def main() -> str:
        return (await lab.run("cat; exit 4", context={"a": 1})).output

    assert uvloop.run(main()) == '{"a":1}'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
async def test_a_home_closed_to_the_script_user_is_replaced(lab: Lab) -> None:
    closed = lab.base / "closed"
    closed.mkdir(mode=0o700)
    lab.runner = ScriptRunner(
        home=closed / "homes", work_root=lab.work, root_cache=lab.base / "cache"
    )
    result = await lab.run("touch $HOME/x; echo $HOME")
    assert result.output == f"{lab.base}/cache/nobody\n"
    assert (lab.base / "cache" / "nobody").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("user", ["no-such-user", "root"])
def test_a_script_user_that_cannot_be_is_refused(lab: Lab, user: str) -> None:
    if user == "root" and os.geteuid() != 0:
        pytest.skip("as root only: another user may not switch at all")
    with pytest.raises(ScriptSetup) as caught:
        ScriptRunner(home=lab.base, as_user=user, work_root=lab.work)
    assert caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can close a folder to another user")
def test_a_work_folder_closed_to_the_script_user_is_refused(lab: Lab) -> None:
    lab.work.chmod(0o700)
    with pytest.raises(ScriptSetup, match="cannot enter"):
        ScriptRunner(home=lab.base, work_root=lab.work)


async def test_a_trivial_script_costs_little(lab: Lab) -> None:
    times_ms = []
    for _ in range(20):
        start = time.perf_counter()
        await lab.run("true")
        times_ms.append(1000 * (time.perf_counter() - start))
    median_ms = statistics.median(times_ms)
    print(f"script_overhead_ms median={median_ms:.1f} max={max(times_ms):.1f}")
    # Target 60 ms on an idle machine; the bound leaves room for a busy one.
    assert min(times_ms) < 120


def test_a_spec_is_plain_data() -> None:
    spec = ScriptSpec(content=b"true", runtime="sh")
    assert (spec.timeout_s, spec.output_bytes_max) == (300.0, 65536)
