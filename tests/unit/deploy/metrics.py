"""The metrics that processes export, and those that expressions ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import promql_parser
from prometheus_client import CollectorRegistry

from shared.telemetry.metrics import EngineMetrics
from tests.tidy import tree
from tests.unit.deploy.files import documents

PROMETHEUS_OWN: Final = {"up": {"instance", "job"}, "ALERTS": {"alertname", "severity"}}
"""What Prometheus makes itself."""

ALERTS: Final = "deploy/prometheus/alerts.yml"
DASHBOARD: Final = "deploy/grafana/dashboards/seawall.json"


class Asked(NamedTuple):
    """A metric in an expression, with the labels that are matched."""

    name: str
    labels: dict[str, str]


def exported() -> dict[str, set[str]]:
    """Names as Prometheus stores them → their labels."""
    metrics = EngineMetrics(CollectorRegistry())
    found = {}
    for metric in vars(metrics).values():
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {*metric._labelnames, "instance", "job"}
    return found


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    (file,) = documents(ALERTS)
    return [rule for group in file["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(tree.text(DASHBOARD))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression, Grafana's variables replaced."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def asked(expression: str) -> tuple[list[Asked], set[str]]:
    """The metrics of an expression, and the labels it groups by. Raises ValueError."""
    metrics: list[Asked] = []
    grouped: set[str] = set()

    def look(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = {m.name: m.value for m in node.matchers.matchers}
            metrics.append(Asked(str(node.name), matchers))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        return True

    promql_parser.walk(promql_parser.parse(expression), look)
    return metrics, grouped
