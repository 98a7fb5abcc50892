"""Powering off originals as a job, a roll back's figures, and a site that is back."""

from __future__ import annotations

from schemas import lost_sites as said
from schemas import scheduler as sched
from schemas import scheduler_operations as sched_ops
from schemas.cloudevents import about
from schemas.views import Job, Site
from tests.unit.projector.history import History
from tests.unit.projector.test_recovery_jobs import jobs
from tests.unit.recovery.lost_world import LostWorld
from tests.unit.recovery.site_world import SiteWorld

POWER_OFF = "site-power-off:east:p1"


def shown(job: Job) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in job.steps]


def test_each_original_is_a_step_between_the_look_and_the_proof() -> None:
    world = LostWorld().lost().returns()
    world.deliver(
        said.PowerOffOriginals(command_id="c", job=POWER_OFF, site="east", confirm="east")
    )
    job = jobs(world)[POWER_OFF]
    assert (job.kind, job.state, job.plan) == ("site-power-off", "running", "")
    assert shown(job) == [("look", "running"), ("verify", "pending")]
    world.act(next(iter(world.effects)))
    assert shown(jobs(world)[POWER_OFF]) == [
        ("look", "completed"),
        ("power-off db", "running"),
        ("power-off app", "running"),
        ("power-off web", "running"),
        ("verify", "pending"),
    ]
    world.live()
    job = jobs(world)[POWER_OFF]
    assert (job.state, job.percent, job.error) == ("completed", 100.0, None)
    assert [state for _, state in shown(job)] == ["completed"] * 5
    assert (job.facts["site"], job.facts["off"], job.facts["running"]) == ("east", 3, 0)


def test_one_that_failed_shows_at_which_original_and_why() -> None:
    world = LostWorld().lost().returns()
    world.restarts = {"db"}
    job = jobs(world.power_off())[POWER_OFF]
    assert (job.state, job.facts["running"]) == ("partially-completed", 1)
    assert job.error is not None and "db" in job.error.message


def test_its_events_are_about_a_job_and_no_plan() -> None:
    assert about(POWER_OFF) == ("", POWER_OFF)
    assert about("lost-site:east") == ("", "")


def test_a_roll_back_shows_in_bytes_what_it_discards() -> None:
    job = jobs(SiteWorld("failover").begin().live().roll_back())["rollback:shop:b1"]
    assert shown(job)[1] == ("measure-discards", "completed")
    assert (job.facts["discarded_bytes"], job.facts["discarded_unknown"]) == (3 * 4096, 0)
    assert {each["vm"]: each["bytes"] for each in job.facts["discards"]} == {
        "app": 4096, "db": 4096, "web": 4096,
    }  # fmt: skip
    assert "automatic" not in job.facts


def test_a_site_says_what_was_seen_to_run_there_until_it_is_released() -> None:
    added = sched.SiteAdded(site="east", platform="lab", settings={})
    quarantined = sched_ops.SiteQuarantined(site="east", plan="shop", job="recovery:shop:r1")
    found = sched_ops.SiteOriginalsFound(site="east", running=2, doubled=1, vms=("db", "web"))
    history = History().say("scheduler", "site:east", added, quarantined, found)
    site: Site = history.document("sites", "east")
    assert (site.originals, site.doubled, site.originals_named) == (2, 1, ("db", "web"))
    history.say("scheduler", "site:east", sched_ops.SiteQuarantineEnded(site="east"))
    site = history.document("sites", "east")
    assert (site.quarantined, site.originals, site.originals_named) == (False, None, ())
