"""A plan's runbook: what a person needs on paper when Seawall itself cannot be asked. Pure.

Markdown from the documents of the API. Holds no secret: credentials are named by their reference.
What it says was so at the moment it was written, and it says which moment that was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from services.cli.output import span

CHECKPOINTS_MAX: Final = 5
HOOKS: Final[Mapping[str, str]] = {
    "pre-recovery": "before it boots",
    "post-recovery": "once it is ready",
}

Document = Mapping[str, Any]


def runbook(
    plan: Document,
    sites: Mapping[str, Document],
    checkpoints: Sequence[Document],
    *,
    at: dt.datetime,
    url: str,
) -> str:
    """The whole page. `sites` are the plan's two by name, `checkpoints` come newest first."""
    parts = (
        _head(plan, at=at, url=url),
        _sites(plan, sites),
        _vms(plan),
        _by_people(plan),
        _checkpoints(checkpoints),
        _with_seawall(plan),
        _by_hand(plan, sites),
    )
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def _head(plan: Document, *, at: dt.datetime, url: str) -> Iterator[str]:
    rpo, rto = plan["rpo"], plan["rto"]
    yield f"# Runbook: {plan['name']}"
    yield ""
    yield f"Written {_utc(at)} from version {plan['version']} of the plan, by {url}. Print it anew"
    yield "when the plan changes; keep a copy where neither site can take it away."
    yield ""
    yield f"- The plan is *{plan['state']}*: {plan['protected_site']} → {plan['recovery_site']}."
    yield (
        f"- Data that may be lost: target {_span(rpo['target_s'])}, "
        f"now {_span(rpo['achieved_s'])}."
    )
    yield (
        f"- Time to recover: target {_span(rto['target_s'])}, forecast "
        f"{_span(rto['forecast_s'])}, last time {_span(rto['last_s'])}."
    )
    if after := plan["definition"].get("after"):
        yield f"- Recover first: {', '.join(after)}."


def _sites(plan: Document, sites: Mapping[str, Document]) -> Iterator[str]:
    yield "## Sites"
    yield ""
    yield "| site | role | platform | settings | credentials |"
    yield "|---|---|---|---|---|"
    for role in ("protected", "recovery"):
        site = sites[plan[f"{role}_site"]]
        settings = ", ".join(f"{k}={v}" for k, v in sorted(site["settings"].items()))
        cells = (site["name"], role, site["platform"], settings, site["credentials"] or "none")
        yield _row(*cells)


def _vms(plan: Document) -> Iterator[str]:
    yield "## VMs, in the order in which they boot"
    yield ""
    yield "All of one number boot together. The next number begins when all of this one are ready"
    yield "and their delays, counted from power-on, are over."
    yield ""
    yield "| order | VM | delay | scripts | newest copy is of |"
    yield "|---|---|---|---|---|"
    for vm in sorted(plan["vms"], key=lambda each: (each["boot_order"], each["name"])):
        yield _row(
            vm["boot_order"],
            vm["name"],
            span(vm["boot_delay_s"]) if vm["boot_delay_s"] else "none",
            ", ".join(HOOKS.get(hook, hook) for hook in vm["recovery_scripts"]) or "none",
            _utc(vm["last_checkpoint_at"]) if vm["last_checkpoint_at"] else "**no copy yet**",
        )


def _by_people(plan: Document) -> Iterator[str]:
    """Scripts of the plan itself and what is done by hand: somebody must do it in any case."""
    policy = plan["definition"]["recovery"]
    scripts = [(when, policy.get(f"{when}_script")) for when in ("pre", "post")]
    steps = policy.get("manual_steps", ())
    if not steps and not any(script for _, script in scripts):
        return
    yield "## Around the VMs"
    yield ""
    for when, script in scripts:
        if script:
            moment = "Before all of them" if when == "pre" else "After all of them"
            yield f"- {moment}: script `{script['run']}` (SHA-256 {script['sha256'][:12]}…)."
    for step in steps:
        where = step["at"] + (f" {step['boot_order']}" if step.get("boot_order") else "")
        who = step.get("owner") or "a person"
        yield f"- By hand, *{where}*, {who}: {step['text']}"


def _checkpoints(checkpoints: Sequence[Document]) -> Iterator[str]:
    found = [each for each in checkpoints if each["state"] == "available"][:CHECKPOINTS_MAX]
    if not found:
        return
    yield "## Newest checkpoints"
    yield ""
    for each in found:
        verdict = (each.get("verdict") or {}).get("verdict")
        told = f", found {verdict}" if verdict else ""
        yield f"- `{each['id']}` of {_utc(each['created_at'])}{told}"


def _with_seawall(plan: Document) -> Iterator[str]:
    name, east = plan["name"], plan["protected_site"]
    yield "## With Seawall"
    yield ""
    yield "Each command that begins a job prints its id (JOB below) and shows it with `--wait`."
    yield ""
    yield _command(f"seawall recover {name} --mode failover --dry-run", "look only")
    yield _command(f"seawall recover {name} --mode test --wait", "a rehearsal beside production")
    yield _command(f"seawall recover {name} --mode failover --wait", f"{east} has failed")
    yield _command(
        f"seawall recover {name} --mode failover --source-gone --wait",
        f"{east} cannot be reached, and you know that its VMs do not run",
    )
    yield _command(f"seawall recover {name} --mode migrate --wait", "a move on purpose")
    yield _command("seawall job watch JOB", "what goes on and what to type next")
    yield _command("seawall job retry JOB --wait", "do again what failed")
    yield _command("seawall commit JOB", "keep what came up")
    yield _command(f"seawall rollback JOB --confirm {name}", "back again; new data is lost")
    yield _command(
        f"seawall rollback JOB --confirm {name} --leave-off",
        f"the same, where VMs have nothing to come back to at {east}: they run nowhere then",
    )


def _by_hand(plan: Document, sites: Mapping[str, Document]) -> Iterator[str]:
    west = sites[plan["recovery_site"]]
    yield "## Without Seawall"
    yield ""
    yield f"1. Make sure that no VM of the table runs at {plan['protected_site']}: two of one must"
    yield "   not run."
    yield f"2. {_where(plan, west)}"
    yield "3. Build one machine per VM from it, then boot them in the order of the table: all of"
    yield "   one number, wait until they answer, wait for their delays, then the next number."
    yield "4. Do what stands under *Around the VMs*; point names and users at the new machines."
    yield "5. Write down what was started and when: Seawall knows nothing of it. Stop the plan"
    yield f"   (`seawall plan stop {plan['name']}`) before the protected site returns."


def _where(plan: Document, west: Document) -> str:
    copies = (
        f"`{west['settings']['path']}/replicas/{plan['name']}/VM`"
        if west["platform"] == "lab" and "path" in west["settings"]
        else f"the copies that site {west['name']} holds for plan {plan['name']}"
    )
    return f"Take each VM's newest copy from {copies}: its manifest says what belongs to it."


def _command(command: str, why: str) -> str:
    return f"- `{command}`: {why}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _span(value: float | None) -> str:
    return "unknown" if value is None else span(value)


def _utc(moment: str | dt.datetime) -> str:
    at = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
