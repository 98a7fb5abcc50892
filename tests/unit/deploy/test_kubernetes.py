"""The manifests are objects of Kubernetes, complete for every service, and safe by default.

Kinds: Namespace, ConfigMap, Secret, Service, Deployment, PodDisruptionBudget,
HorizontalPodAutoscaler, NetworkPolicy.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.databases import TOGETHER
from shared.settings import read_settings
from tests.tidy import tree
from tests.unit.deploy.files import (
    SERVICES,
    Document,
    documents,
    image_environment,
    kubernetes_problems,
    manifests,
    unknown_settings,
)
from tests.unit.deploy.metrics import exported

OBJECTS = list(manifests())
KINDS = {(each["kind"], each["metadata"]["name"]): each for _, each in OBJECTS}
HEALTH = "8641"


def pod(service: str) -> Document:
    found: Document = KINDS["Deployment", service]["spec"]["template"]
    return found


def container(service: str) -> Document:
    (found,) = pod(service)["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize(("file", "document"), OBJECTS, ids=lambda value: _name(value))
def test_an_object_is_one_of_its_kind(file: str, document: Document) -> None:
    assert kubernetes_problems(document) == [], file


def _name(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['kind']}-{value['metadata']['name']}"
    return str(value).rpartition("/")[2]


def test_an_object_that_is_none_is_found() -> None:
    good = KINDS["Deployment", "scheduler"]
    assert kubernetes_problems({**good, "spec": {**good["spec"], "replica": 2}}) != []
    assert kubernetes_problems({"apiVersion": "v1", "kind": "Service", "spec": {"ports": 1}}) != []


def test_no_object_is_said_twice_and_all_are_in_the_namespace() -> None:
    twice = Counter((o["kind"], o["metadata"]["name"]) for _, o in OBJECTS)
    assert max(twice.values()) == 1
    spaces = {o["metadata"].get("namespace") for _, o in OBJECTS if o["kind"] != "Namespace"}
    assert spaces == {"seawall"}


def test_the_kustomization_names_every_file_but_the_secrets() -> None:
    (kustomization,) = documents("deploy/kubernetes/kustomization.yaml")
    told = {f"deploy/kubernetes/{name}" for name in kustomization["resources"]}
    assert told == {file for file, _ in OBJECTS} - {"deploy/kubernetes/secret.template.yaml"}
    images = {image["name"] for image in kustomization["images"]}
    assert images == {container(service)["image"] for service in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_probes_limits_and_no_rights(service: str) -> None:
    its, spec = container(service), pod(service)["spec"]
    assert its["args"] == [f"services.{service}"]
    paths = {probe: its[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")}
    assert paths == {"liveness": "/livez", "readiness": "/readyz"}
    assert its["startupProbe"]["httpGet"]["path"] == "/livez"
    assert its["resources"]["requests"] and its["resources"]["limits"]["memory"]
    rights = its["securityContext"]
    assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert f"USER {spec['securityContext']['runAsUser']}:" in tree.text("deploy/Dockerfile")


@pytest.mark.parametrize("service", SERVICES)
def test_what_refers_to_a_service_finds_it(service: str) -> None:
    labels = pod(service)["metadata"]["labels"]
    budget, scaler = (
        KINDS["PodDisruptionBudget", service],
        KINDS["HorizontalPodAutoscaler", service],
    )
    selectors = [
        budget["spec"]["selector"]["matchLabels"],
        KINDS["Deployment", service]["spec"]["selector"]["matchLabels"],
        KINDS["Service", service]["spec"]["selector"],
    ]
    assert all(selector.items() <= labels.items() and selector for selector in selectors)
    assert scaler["spec"]["scaleTargetRef"]["name"] == service
    assert scaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"]
    named = {port["name"]: port["containerPort"] for port in container(service)["ports"]}
    assert (
        str(named["health"])
        == HEALTH
        == pod(service)["metadata"]["annotations"]["prometheus.io/port"]
    )
    targets = {port["targetPort"] for port in KINDS["Service", service]["spec"]["ports"]}
    assert targets == set(named)


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_pod_mounts_is_there(service: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(service)["spec"]["volumes"]}
    assert {mount["name"] for mount in container(service)["volumeMounts"]} == set(volumes)
    secrets = {v["secret"]["secretName"] for v in volumes.values() if "secret" in v}
    secrets |= {e["secretRef"]["name"] for e in container(service)["envFrom"] if "secretRef" in e}
    assert {("Secret", name) for name in secrets} <= set(KINDS)


def test_pods_differ_in_what_they_must() -> None:
    """Six much alike are read as one: a line that only one has must be meant."""
    plain = {service: _plain(service) for service in SERVICES if service != "gateway"}
    assert all(each == plain["scheduler"] for each in plain.values())


def _plain(service: str) -> str:
    spec = {**pod(service)["spec"], "containers": None, "volumes": None}
    its = {**container(service), "resources": None, "volumeMounts": None}
    return re.sub(rf"\b{service}\b", "NAME", f"{spec} {its}")


def test_services_read_their_settings(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p")
    told = {**KINDS["ConfigMap", "seawall"]["data"], **KINDS["Secret", "seawall"]["stringData"]}
    assert unknown_settings(told) == []
    told["SEAWALL_KAFKA_PASSWORD"] = f"file:{secret}"
    settings = read_settings({**image_environment(), **told})
    assert settings.kafka is not None
    assert len(settings.databases.urls()) == len(SERVICES) - len(TOGETHER) + 1
    assert (settings.kafka.replication, settings.kafka.min_isr) == (3, 2)
    assert str(settings.health_port) == HEALTH
    mounts = [mount["mountPath"] for mount in container("scheduler")["volumeMounts"]]
    password = KINDS["ConfigMap", "seawall"]["data"]["SEAWALL_KAFKA_PASSWORD"]
    for path in (settings.kafka.ca, password.removeprefix("file:")):
        assert str(Path(path).parent) in mounts
        assert Path(path).name in KINDS["Secret", "seawall-kafka"]["stringData"]
    assert str(settings.home) in mounts


def test_autoscaling_asks_for_metrics_that_are_exported() -> None:
    asked: set[str] = set()
    for service in SERVICES:
        metrics: list[Any] = KINDS["HorizontalPodAutoscaler", service]["spec"]["metrics"]
        asked |= {m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods"}
    assert asked and asked <= set(exported())
    (adapter,) = documents("deploy/kubernetes/adapter-values.yaml")
    assert asked == {rule["name"]["as"] for rule in adapter["rules"]["custom"]}


def test_templates_hold_no_secret() -> None:
    for _, document in OBJECTS:
        for value in document.get("stringData", {}).values():
            assert value == "" or "FILL-IN" in value
