"""`/v1/jobs/ID/steps/STEP/output` and `/v1/jobs/ID/calls`: what a job keeps beside its document.

A script's output and the calls of a dry run may be longer than a fact; then the fact names a blob
of the service that wrote it, by SHA-256. Blobs never change, so they are read where they lie; only
those that a job's own document names are answered.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from schemas.ids import family_of
from schemas.job_ids import RECOVERY_JOBS
from services.gateway.context import answer, gateway_of, stand_at
from services.gateway.problems import NotFound
from services.gateway.routes.lists import limit_of, offset_of


async def _job(request: web.Request) -> dict[str, Any]:
    await stand_at(request)
    job = request.match_info["job"]
    found = await gateway_of(request).queries.job(job)
    if found is None:
        raise NotFound(f"no job has the id {job!r}", remedy="see GET /v1/jobs")
    return found


async def _blob(request: web.Request, sha256: str) -> bytes | None:
    recovers = family_of(request.match_info["job"]) in RECOVERY_JOBS
    owner = "recovery" if recovers else "replicator"
    return await gateway_of(request).owners.blob(owner, sha256) if sha256 else None


async def output(request: web.Request) -> web.Response:
    """GET /v1/jobs/ID/steps/STEP/output: the last 64 KiB a script printed, secrets masked."""
    job = await _job(request)
    name = request.match_info["step"]
    step = next((each for each in job["steps"] if each["name"] == name), None)
    if step is None:
        names = ", ".join(each["name"] for each in job["steps"])
        raise NotFound(f"job {job['id']} has no step {name!r}", remedy=f"its steps: {names}")
    kept = await _blob(request, step["output_sha256"])
    told = step["output"] if kept is None else kept.decode("utf-8", "replace")
    # A longer output that could not be stored leaves its end only.
    whole = kept is not None or not step["output_sha256"]
    return answer({"job": job["id"], "step": name, "output": told, "whole": whole})


async def calls(request: web.Request) -> web.Response:
    """GET /v1/jobs/ID/calls: every call of a dry run, in order."""
    job = await _job(request)
    facts = job["facts"]
    if not job["dry_run"]:
        raise NotFound(
            f"job {job['id']} is no dry run", remedy="start one: POST …/recover {dry_run: true}"
        )
    kept = await _blob(request, facts.get("calls_sha256", ""))
    every = orjson.loads(kept) if kept is not None else facts.get("calls", [])
    begin, limit = offset_of(request), limit_of(request)
    end = begin + limit
    following = str(end) if end < len(every) else None
    as_of = await gateway_of(request).queries.as_of()
    return answer({"items": every[begin:end], "next": following, "as_of": as_of})


ROUTES = [
    web.get("/v1/jobs/{job}/steps/{step}/output", output),
    web.get("/v1/jobs/{job}/calls", calls),
]
