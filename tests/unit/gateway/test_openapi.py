"""`schemas/openapi.yaml` says what the routes are, and every reference in it leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import schemas
from services.gateway import openapi
from services.gateway.routes import jobs, lists, plans, sites, stream

FILE = Path(schemas.__file__).parent / "openapi.yaml"


def test_the_file_is_what_the_routes_give() -> None:
    assert FILE.read_text() == openapi.as_yaml(), "python -m services.gateway.openapi writes it"


def test_every_route_is_described_with_its_parameters() -> None:
    paths = openapi.document()["paths"]
    for module in (jobs, lists, plans, sites, stream):
        for route in module.ROUTES:
            operation = paths[route.path][route.method.lower()]
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", route.path))
            assert operation["summary"] and "401" in operation["responses"]


def test_every_reference_leads_somewhere() -> None:
    text = FILE.read_text()
    components = yaml.safe_load(text)["components"]
    references = set(re.findall(r"#/components/(\w+)/([\w.-]+)", text))
    assert len(references) > 10
    for kind, name in references:
        assert name in components[kind], name
