"""The files of `deploy/` as their tools would see them: merged, interpolated, by kind."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from services.cli.up import ALL_SERVICES
from shared.databases import VARIABLE, variable_of
from tests.formats import formats
from tests.tidy import tree

SERVICES = ALL_SERVICES
Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(tree.text(name)))


def unknown_settings(environment: Mapping[str, Any]) -> list[str]:
    """The variables that no service reads."""
    known = tree.text("shared/settings.py")
    databases = {VARIABLE, *map(variable_of, SERVICES)}
    return [name for name in environment if f'"{name}"' not in known and name not in databases]


def compose(*overlays: str) -> Document:
    """docker-compose.yml with overlays upon it: maps are merged, lists are joined."""
    (found,) = documents("docker-compose.yml")
    for overlay in overlays:
        (above,) = documents(f"deploy/compose/{overlay}.yml")
        found = _merged(found, above)
    return found


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: _merged(below[key], above[key])
            if key in below and key in above
            else above.get(key, below.get(key))
            for key in {**below, **above}
        }
    return [*below, *above] if isinstance(below, list) and isinstance(above, list) else above


def interpolated(text: str, environ: Mapping[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?…}` replaced; KeyError where one must be set."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        return environ[name] if default is None else environ.get(name) or default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)


def environment(service: Document, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a container of a compose service finds in its environment, the image's own included."""
    given = {k: interpolated(v, environ or {}) for k, v in service["environment"].items()}
    return {**image_environment(), **given}


def image_environment() -> dict[str, str]:
    """The SEAWALL_ variables that the image sets."""
    return dict(re.findall(r"(SEAWALL_\w+)=(\S+)", tree.text("deploy/Dockerfile")))


def manifests() -> Iterator[tuple[str, Document]]:
    """Every Kubernetes object, with its file."""
    for name in tree.files():
        if name.startswith("deploy/kubernetes/") and name.endswith(".yaml"):
            for document in documents(name):
                if "kind" in document and document["kind"] != "Kustomization":
                    yield name, document


@functools.cache
def _kubernetes() -> Registry[Any]:
    """The schemas of Kubernetes, looked through once."""
    resource: Resource[Any] = Resource.from_contents(formats("kubernetes-1.37"))
    empty: Registry[Any] = Registry()
    found: Registry[Any] = empty.with_resource("urn:kubernetes", resource).crawl()
    return found


def kubernetes_problems(document: Document) -> list[str]:
    """Why an object is none of its kind, by the schemas of Kubernetes; unknown fields too."""
    group = document["apiVersion"].replace(".k8s.io", "").replace("/", ".")
    ends = f".api.{group if '.' in group else 'core.' + group}.{document['kind']}"
    (name,) = (name for name in formats("kubernetes-1.37")["$defs"] if name.endswith(ends))
    schema = {"$ref": f"urn:kubernetes#/$defs/{name}"}
    errors = Draft202012Validator(schema, registry=_kubernetes()).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]
