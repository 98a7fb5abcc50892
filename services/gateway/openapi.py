"""The API's description: made from the routes and the documents they answer with.

`python -m services.gateway.openapi` prints `schemas/openapi.yaml`; a test holds the two together.
Bodies are told here once more and compared by a test with what the handlers take.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import yaml
from aiohttp import web

from schemas import views
from schemas.clean_points import CANDIDATES_MAX, SEARCH_ORDERS
from schemas.leftovers import LeftOver
from schemas.plans import RUNTIMES
from services.gateway import parameters
from services.gateway.context import answer
from services.gateway.routes import (
    clean_points,
    jobs,
    kept,
    leftovers,
    lists,
    nodes,
    plans,
    sites,
    stream,
    work,
)

VERSION: Final = "1"

TEXT: Final = {"type": "string"}
NAMES: Final = {"type": "array", "items": TEXT}
FLAG: Final = {"type": "boolean", "default": False}
_PLAN_FILE: Final = {
    "type": "object",
    "description": "the plan file as JSON, see docs/plan-file.md",
}
_SCRIPTS: Final = {
    "type": "object",
    "additionalProperties": {"type": "string", "contentEncoding": "base64"},
    "description": "content of each script by the path the plan names",
}
_VERDICT: Final = {
    "type": "object",
    "description": "exit code 0: the checkpoint is clean; the runtime follows from run's suffix",
    "required": ["run", "content"],
    "properties": {
        "run": TEXT,
        "content": {"type": "string", "contentEncoding": "base64"},
        "runtime": {"enum": list(RUNTIMES)},
        "timeout": {"type": "string", "default": "5m"},
    },
    "additionalProperties": False,
}
_SETTINGS: Final = {"type": "object", "additionalProperties": TEXT}

BODIES: Final[Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]]] = {
    "/v1/sites": (
        {"name": TEXT, "platform": TEXT, "settings": _SETTINGS, "credentials": TEXT},
        ("name",),
    ),
    "/v1/sites/{name}/check": ({"list_owned": FLAG}, ()),
    "/v1/plans": (
        {"plan": _PLAN_FILE, "scripts": _SCRIPTS, "dry_run": FLAG, "over_capacity": FLAG},
        ("plan",),
    ),
    "/v1/plans/{name}/start": ({"vms": NAMES}, ()),
    "/v1/plans/{name}/stop": ({"vms": NAMES, "cancel": FLAG}, ()),
    "/v1/plans/{name}/run": ({"vms": NAMES}, ()),
    "/v1/plans/{name}/prioritise": (
        {"priority": {"type": "integer", "minimum": 1, "maximum": 5}, "vms": NAMES},
        ("priority",),
    ),
    "/v1/plans/{name}/checkpoints": ({"preserved": FLAG}, ()),
    "/v1/plans/{name}/recover": (
        {
            "mode": {"enum": list(plans.MODES)},
            "vms": NAMES,
            "checkpoint": {"type": "string", "default": "latest"},
            "skip_scripts": NAMES,
            "on_error": {"enum": ["continue", "stop", None]},
            "dry_run": FLAG,
            "last_sync": {
                "type": ["boolean", "null"],
                "description": "copy the sources once more; null: where the latest copy is taken",
            },
            "source_gone": FLAG,
            "with_prerequisites": FLAG,
            "auto_rollback": {
                "type": ["boolean", "null"],
                "description": "a test or migration of which a VM does not come up is undone by "
                "itself; null: as the plan says",
            },
        },
        ("mode",),
    ),
    "/v1/plans/{name}/find-clean-point": (
        {
            "verdict": _VERDICT,
            "order": {"enum": list(SEARCH_ORDERS), "default": SEARCH_ORDERS[0]},
            "vms": NAMES,
            "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": CANDIDATES_MAX},
            "keep": FLAG,
            "skip_scripts": NAMES,
        },
        ("verdict",),
    ),
    "/v1/jobs/{job}/cleanup": ({"confirm": TEXT}, ()),
    "/v1/jobs/{job}/commit": ({"without_failed": FLAG}, ()),
    "/v1/jobs/{job}/rollback": ({"confirm": TEXT, "leave_off": FLAG}, ()),
    "/v1/sites/{name}/release": ({"confirm": TEXT, "originals_running": FLAG}, ()),
    "/v1/sites/{name}/power-off": ({"confirm": TEXT, "vms": NAMES}, ()),
    "/v1/jobs/{job}/retry": ({"step": TEXT, "source_gone": FLAG}, ()),
    "/v1/jobs/{job}/skip": ({"step": TEXT}, ("step",)),
    "/v1/jobs/{job}/answer": ({"step": TEXT, "choice": TEXT}, ("step", "choice")),
    "/v1/alerts/{alert}/{action}": ({"until": {"type": "string", "format": "date-time"}}, ()),
}
"""Path → the fields of its body and those that must be there."""

DOCUMENTS: Final[Mapping[str, type]] = {
    "sites": views.Site,
    "nodes": views.Node,
    "plans": views.Plan,
    "vms": views.Vm,
    "checkpoints": views.Checkpoint,
    "jobs": views.Job,
    "alerts": views.Alert,
    "events": views.CloudEvent,
    "leftovers": LeftOver,
}

_AS_OF: Final = {
    "type": "object",
    "required": ["position", "lag_s"],
    "properties": {"position": {"type": "integer"}, "lag_s": {"type": "number"}},
}
_OUTPUT: Final = {
    "type": "object",
    "description": "`whole` is false where only the end could be kept",
    "required": ["job", "step", "output", "whole"],
    "properties": {"job": TEXT, "step": TEXT, "output": TEXT, "whole": {"type": "boolean"}},
}
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457, with our code, message, remedy and details",
    "required": ["type", "title", "status", "code", "message", "remedy", "details"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "code": TEXT,
        "message": TEXT,
        "remedy": TEXT,
        "details": {"type": "object"},
    },
}
_ACCEPTED: Final = {
    "type": "object",
    "description": "durable, not decided yet",
    "required": ["command_id", "state", "job"],
    "properties": {
        "command_id": TEXT,
        "state": {"enum": ["accepted", "parked"]},
        "job": {"type": ["string", "null"]},
    },
}

_COMMAND: Final = {
    "type": "object",
    "description": "a command and, once its owner has decided, the answer",
    "required": ["command_id", "state"],
    "properties": {
        "command_id": TEXT,
        "state": {"enum": ["accepted", "parked", "done", "refused"]},
        "reason": {"type": "string", "description": "why it is parked"},
        "to": TEXT,
        "type": TEXT,
        "key": TEXT,
        "actor": TEXT,
        "job": TEXT,
        "accepted_at": {"type": "string", "format": "date-time"},
        "settled_at": {"type": "string", "format": "date-time"},
        "code": TEXT,
        "message": TEXT,
        "remedy": TEXT,
        "details": {"type": "object"},
    },
}

_TOLD: Final[Mapping[str, Mapping[str, Any]]] = {
    "at": {
        "description": "show it as it was at this moment, folded from what had happened by then",
        "schema": {"type": "string", "format": "date-time"},
    },
}
"""Query parameters that are more than a text."""

_STATUSES: Final = {
    "401": "no valid token",
    "404": "no such resource",
    "409": "refused, the code says why",
    "412": "If-Match names another version",
    "413": "the body is longer than 8 MiB",
    "422": "the request cannot be read, or its Idempotency-Key was used for another one",
    "503": "the database does not answer, or the read model is behind",
}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    _, components = msgspec.json.schema_components(
        tuple(dict.fromkeys(DOCUMENTS.values())), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in _routes():
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Seawall", "version": VERSION},
        "security": [{"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                status: {"description": told, "content": _problem_content()}
                for status, told in _STATUSES.items()
            },
            "schemas": {
                **dict(sorted(components.items())),
                "Accepted": _ACCEPTED,
                "AsOf": _AS_OF,
                "Command": _COMMAND,
                "Problem": _PROBLEM,
            },
        },
    }


def _routes() -> Iterable[web.RouteDef]:
    modules = (sites, plans, clean_points, jobs, kept, leftovers, lists, nodes, work, stream)
    for module in modules:
        yield from module.ROUTES


def _operation(route: web.RouteDef) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()} {route.path}",
        "summary": _summary(route),
        "parameters": [*_path_parameters(route.path), *_parameters(route)],
        "responses": _responses(route),
    }
    if route.method == "POST" and route.path in BODIES:
        fields, required = BODIES[route.path]
        schema = {
            "type": "object",
            "properties": dict(fields),
            "required": list(required),
            "additionalProperties": False,
        }
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _summary(route: web.RouteDef) -> str:
    """What the handler's docstring says after the path, else its name in words."""
    _, _, told = (route.handler.__doc__ or "").strip().splitlines()[0].partition(": ")
    if told:
        return told
    if _is_listing(route):
        return f"list {_view(route.path)}"
    name = getattr(route.handler, "__name__", "").replace("_", " ")
    thing = _view(route.path).removesuffix("s")
    return name if thing in name else f"{name} {thing}"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _parameters(route: web.RouteDef) -> list[dict[str, Any]]:
    query = _query(*parameters.allowed(route.method, route.path))
    if route.path == "/v1/events/stream":
        return [*query, _header("Last-Event-ID")]
    if route.method != "GET":
        # Of all resources only plans have versions.
        versioned = [_header("If-Match")] if _view(route.path) == "plans" else []
        return [*query, _header("Idempotency-Key"), *versioned]
    if route.path == "/v1/queue":
        return query
    return [*query, _header("Seawall-Position")]


def _query(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", **_TOLD.get(name, {"schema": TEXT})} for name in names]


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": TEXT}


def _view(path: str) -> str:
    return path.split("/")[2]


def _is_listing(route: web.RouteDef) -> bool:
    return route.method == "GET" and route.path.count("/") == 2


def _responses(route: web.RouteDef) -> dict[str, Any]:
    found: dict[str, Any] = {"200": _ok(route)}
    if route.method != "GET":
        found["202"] = {
            "description": "accepted; with ?wait and a job, the job as it stands. Location leads "
            "to the command's state, or to the job",
            "content": _content({"anyOf": [_ref("Accepted"), _ref("Job")]}),
        }
    for status in _STATUSES:
        refusing = "at" in parameters.allowed(route.method, route.path) and status == "409"
        if route.method != "GET" or refusing or status in ("401", "404", "422", "503"):
            found[status] = {"$ref": f"#/components/responses/{status}"}
    return found


def _ok(route: web.RouteDef) -> dict[str, Any]:
    if route.path == "/v1/events/stream":
        return {
            "description": "CloudEvents without end, `id` is the position to resume after",
            "content": {"text/event-stream": {"schema": TEXT}},
        }
    if route.path.endswith("/output"):
        return {"description": "what is kept of it", "content": _content(_OUTPUT)}
    view = _view(route.path)
    is_calls = route.path.endswith("/calls")
    shown = None if is_calls else DOCUMENTS.get(view)
    schema: dict[str, Any] = _ref(shown.__name__) if shown else {"type": "object"}
    if view == "commands":
        schema = _ref("Command")
    if _is_listing(route) or is_calls:
        listing = {
            "items": {"type": "array", "items": schema},
            "next": {"type": ["string", "null"]},
            "as_of": _ref("AsOf"),
        }
        schema = {"type": "object", "required": list(listing), "properties": listing}
    elif route.method != "GET":
        return {
            "description": "done; what it left behind, and the command's answer under `command`",
            "content": _content({"type": "object"}),
        }
    return {"description": "as it stands", "content": _content(schema)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _problem_content() -> dict[str, Any]:
    return {"application/problem+json": {"schema": _ref("Problem")}}


class _Plain(yaml.SafeDumper):
    """Writes what is there twice twice: anchors would be harder to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml() -> str:
    """The text of `schemas/openapi.yaml`."""
    head = (
        "# Written by `python -m services.gateway.openapi`; a test compares it with the routes.\n"
    )
    return head + yaml.dump(
        document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=99
    )


async def serve(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    return answer(document())


ROUTES = [web.get("/openapi.json", serve)]

if __name__ == "__main__":
    sys.stdout.write(as_yaml())
