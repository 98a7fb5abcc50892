"""Every metric in an alert or dashboard is exported, every one that is exported is looked at."""

from __future__ import annotations

import re

import pytest

from services.cli.up import ALL_SERVICES
from tests.tidy import tree
from tests.unit.deploy.files import documents
from tests.unit.deploy.metrics import (
    PROMETHEUS_OWN,
    asked,
    dashboard,
    exported,
    expressions,
    rules,
)

EXPORTED = exported()
KNOWN = {**EXPORTED, **PROMETHEUS_OWN}
RESULTS = {"ok", "failed", "unknown", "cancelled", "retried", "given-back"}
PAGE = tree.text("docs/running.md")


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_an_expression_asks_for_what_there_is(place: str, expression: str) -> None:
    metrics, grouped = asked(expression)
    assert metrics, place
    for metric in metrics:
        assert metric.name in KNOWN
        assert set(metric.labels) - {"alertstate"} <= KNOWN[metric.name]
        assert metric.labels.get("service", "gateway") in ALL_SERVICES
        assert set(metric.labels.get("result", "ok").split("|")) <= RESULTS
    assert grouped <= set.union(*(KNOWN[metric.name] for metric in metrics))


def test_every_exported_metric_is_in_an_alert_or_dashboard() -> None:
    looked_at = {metric.name for _, text in expressions() for metric in asked(text)[0]}
    assert set(EXPORTED) <= looked_at


def test_a_metric_that_there_is_not_and_a_wrong_expression_are_found() -> None:
    metrics, grouped = asked('sum by (service) (rate(seawall_nothing_total{kind="x"}[1m])) > 1')
    assert [metric.name for metric in metrics] == ["seawall_nothing_total"]
    assert "seawall_nothing_total" not in EXPORTED and grouped == {"service"}
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        asked("sum by (service (rate(x[1m]))")


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "remedy"}
        labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert labels <= set.union(*(KNOWN[metric.name] for metric in asked(rule["expr"])[0]))


def test_panels_do_not_overlap_and_use_the_provisioned_source() -> None:
    (sources,) = documents("deploy/grafana/provisioning/datasources/prometheus.yml")
    known = {source["uid"] for source in sources["datasources"]}
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= known
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells


def test_the_page_tells_of_every_metric_and_alert() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert told == set(EXPORTED) | {rule["alert"] for rule in rules()}


def test_dashboards_are_read_from_where_compose_puts_them() -> None:
    (compose,) = documents("docker-compose.yml")
    (providers,) = documents("deploy/grafana/provisioning/dashboards/seawall.yml")
    mounted = [v.split(":")[1] for v in compose["services"]["grafana"]["volumes"]]
    assert {provider["options"]["path"] for provider in providers["providers"]} <= set(mounted)
