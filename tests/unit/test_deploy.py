"""The dashboard, the alert rules and the runbooks name what exists: metrics, labels, commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml

from governor.cli.main import governor as command_line
from governor.operations.fleet_gauges import GAUGES
from tests.unit.test_docs import ROOT, commands, read, section, table

DASHBOARD = json.loads(read("deploy/grafana/governor.json"))
RULES = [
    rule
    for group in yaml.safe_load(read("deploy/prometheus/alerts.yml"))["groups"]
    for rule in group["rules"]
]
RUNBOOKS = "docs/runbooks.md"
PARTS = ["Symptom", "Likely cause", "Mitigation", "Fix", "Rollback trigger"]
SCRAPED = {"instance", "job"}
"""Labels that Prometheus itself adds."""


def metrics() -> dict[str, set[str]]:
    """The labels of each metric that is served, histograms by their series."""
    found = {gauge.name: {*gauge.labels} for gauge in GAUGES}
    told = table(section("docs/telemetry.md", "## Metrics of a worker"))
    for name, (kind, labels, _) in told.items():
        known = set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            found |= {
                f"{name}_sum": known,
                f"{name}_count": known,
                f"{name}_bucket": known | {"le"},
            }
        else:
            found[name] = known
    return found


METRICS = metrics()


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard and of the rules, with what it is of."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("of", "expression"), [*expressions()])
def test_every_metric_and_label_is_served(of: str, expression: str) -> None:
    """Each metric of an expression is served, and is selected and summed by labels that it has."""
    named = re.findall(r"\b(governor_\w+)(?:\{([^}]*)\})?", expression)
    assert named, of
    known: set[str] = set()
    for metric, selectors in named:
        assert metric in METRICS, f"{of}: {metric}"
        known |= METRICS[metric]
        selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selectors))
        assert selected <= METRICS[metric] | SCRAPED, f"{of}: {metric}{{{selectors}}}"
    for by in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        labels = {label.strip() for label in by.split(",") if label.strip()}
        assert labels <= known | SCRAPED, f"{of}: {labels}"


def test_every_legend_is_of_labels() -> None:
    """A panel's legend names labels that its expression keeps."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= kept, panel["title"]


def test_the_panels_lie_side_by_side() -> None:
    """Panels have ids of their own, and no two cover one place."""
    covered: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & covered, panel["title"]
        covered |= own


SHOWN = [
    # what a person wants to see, a metric that shows it
    ("waiting by upstream", "governor_parked_tasks"),
    ("the oldest's age", "governor_parked_oldest_age_seconds"),
    ("admitted a second", "governor_tasks_admitted_total"),
    ("against the limit", "governor_limit_rate"),
    ("wait", "governor_wait_seconds_bucket"),
    ("decision time", "governor_decision_seconds_bucket"),
    ("slot lateness", "governor_slot_lateness_seconds_bucket"),
    ("throttles", "governor_tasks_throttled_total"),
    ("retries", "governor_tasks_retried_total"),
    ("dead by reason", "governor_tasks_dead_total"),
    ("breakers", "governor_breaker_state"),
    ("pauses", "governor_paused"),
    ("store up", "governor_store_up"),
    ("database up", "governor_database_up"),
    ("spill pending", "governor_spill_pending"),
]


@pytest.mark.parametrize(("what", "metric"), SHOWN)
def test_the_dashboard_shows(what: str, metric: str) -> None:
    """Each question of an operator has a panel; a histogram's has p50, p95 and p99."""
    asked = " ".join(
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    )
    assert metric in asked, what
    if metric.endswith("_bucket"):
        shares = re.findall(rf"histogram_quantile\(([\d.]+), [^\[]*{metric}", asked)
        assert shares == ["0.5", "0.95", "0.99"], what


def test_every_rule_is_complete() -> None:
    """An alert has a name of its own, a severity, a summary and a description."""
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, rule["alert"]
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "0m")), rule["alert"]


def test_every_alert_has_a_runbook() -> None:
    """Each alert has a section, to which it links, and each section an alert; all say the same five
    things in the same order."""
    headings = re.findall(r"^## (.+)$", read(RUNBOOKS), re.M)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        name = rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{name.lower()}"
        said = re.findall(r"^\*\*([\w ]+)\.\*\* ?\S?", section(RUNBOOKS, f"## {name}"), re.M)
        assert said == PARTS, name


def runbook_commands() -> list[str]:
    """The ``governor`` command lines of the runbooks, in blocks and in sentences."""
    shown = commands(RUNBOOKS)
    inline = re.findall(r"`(governor [^`]+)`", re.sub(r"\s+", " ", read(RUNBOOKS)))
    return sorted({*shown, *inline})


@pytest.mark.parametrize("line", runbook_commands())
def test_every_command_of_a_runbook_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is pasted is understood: its name, its options and its arguments."""
    understood: list[click.Command] = []
    monkeypatch.setattr(click.Command, "invoke", lambda command, _: understood.append(command))
    program, *words = shlex.split(line)
    assert program == "governor"
    command_line.main(words, "governor", standalone_mode=False)
    assert not isinstance(understood[-1], click.Group)


def test_the_gauges_are_documented() -> None:
    """The page lists the exporter's gauges with their labels, and no other."""
    rows = table(section("docs/telemetry.md", "## Metrics of the fleet"))
    told = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, (labels, _) in rows.items()}
    assert told == {gauge.name: gauge.labels for gauge in GAUGES}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_rules_fire_when_they_should() -> None:
    """Each alert fires on made-up series that call for it, and on no others."""
    test = ROOT / "deploy/prometheus/alerts.test.yml"
    done = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_have_tests_of_their_own() -> None:
    """The made-up series name every alert."""
    fired: Any = read("deploy/prometheus/alerts.test.yml")
    for rule in RULES:
        assert f'alertname="{rule["alert"]}"' in fired, rule["alert"]
