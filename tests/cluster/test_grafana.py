"""The Grafana dashboard, checked with Grafana's own types, a PromQL parser and the metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import ray
import ray.dashboard.modules.metrics.dashboards as ray_dashboards

from arspm.distributed.train import metrics

BOARD = json.loads((Path(__file__).parents[2] / "cluster/grafana/arspm.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
COUNTERS = {f"ray_{name}_total" for name in metrics.COUNTERS}
GAUGES = {f"ray_{name}" for name in metrics.GAUGES}
GLOBAL = {"SessionName", "instance"}  # labels that Ray and Prometheus add to every metric
VALUES = {"$__rate_interval": "1m", "$session": "a", "$run": "b", "$stage": "c"}  # as Grafana fills them in


class Query(NamedTuple):
    """The query of a panel or a variable. selected: (metric, labels filtered by). grouped: the labels grouped by."""

    title: str
    tree: Any

    @property
    def nodes(self) -> list[Any]:
        found: list[Any] = []
        promql_parser.walk(self.tree, lambda node: found.append(node))
        return found

    @property
    def selected(self) -> list[tuple[str, set[str]]]:
        vectors = [node for node in self.nodes if isinstance(node, promql_parser.VectorSelector)]
        return [(node.name, {matcher.name for matcher in node.matchers.matchers}) for node in vectors]

    @property
    def grouped(self) -> set[str]:
        modifiers = [node.modifier for node in self.nodes if isinstance(node, promql_parser.AggregateExpr)]
        return {label for modifier in modifiers if modifier for label in modifier.labels}


def parse(title: str, text: str) -> Query:
    for name, value in VALUES.items():
        text = text.replace(name, value)
    assert "$" not in text, "an undefined variable"
    return Query(title, promql_parser.parse(text))


def queries() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield parse(panel["title"], target["expr"])


def variables() -> dict[str, Query]:
    """Return the selector in each variable's `label_values(SELECTOR, LABEL)`, by label."""
    found = {}
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            found[label] = parse(variable["name"], selector)
    return found


def rays_own() -> set[str]:
    """Return the metrics in Ray's own dashboards, and one of the GCS that they do not use."""
    [folder] = ray_dashboards.__path__
    text = "".join(path.read_text() for path in Path(folder).glob("*_panels.py"))
    names = set(re.findall(r"\b(?:ray|autoscaler)_\w+(?=\{)", text))
    if b"running_jobs" in (Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server").read_bytes():
        names.add("ray_running_jobs")
    return names


def test_grafanas_types_know_every_field_of_the_dashboard() -> None:
    """Reading and writing the dashboard with Grafana's types loses the fields that they do not know."""
    pytest.importorskip("grafana_foundation_sdk", reason="Grafana's types need Python 3.11", exc_type=ImportError)
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    def read(board: dict[str, Any]) -> Any:
        return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))

    def lost(before: Any, after: Any, path: str = "") -> list[str]:
        if isinstance(before, dict) and isinstance(after, dict):
            return [each for key in before for each in lost(before[key], after.get(key, "lost"), f"{path}/{key}")]
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            pairs = zip(before, after, strict=True)
            return [each for i, (one, two) in enumerate(pairs) for each in lost(one, two, f"{path}/{i}")]
        return [] if before == after else [path]

    register_default_plugins()
    assert lost(BOARD, read(BOARD)) == []
    changed = json.loads(json.dumps(BOARD).replace('"legendFormat"', '"legendFormt"', 1))
    assert lost(changed, read(changed)) == ["/panels/1/targets/0/legendFormt"], "and a misspelt field is found"


def test_every_metric_on_the_dashboard_exists() -> None:
    known = rays_own()
    assert "ray_node_gpus_utilization" in known
    for query in [*queries(), *variables().values()]:
        for name, _ in query.selected:
            assert name in COUNTERS | GAUGES | known, query.title
    shown = {name for query in queries() for name, _ in query.selected}
    assert shown >= COUNTERS | GAUGES, "each of our metrics is shown"


def test_queries_use_our_metrics_by_their_type_and_labels() -> None:
    """Counters as rates, gauges directly, only existing labels, and filtered by the selected runs."""
    for query in queries():
        ranges = [node for node in query.nodes if isinstance(node, promql_parser.MatrixSelector)]
        rated = {node.vector_selector.name for node in ranges}
        for name, labels in query.selected:
            assert "SessionName" in labels, query.title
            if name in COUNTERS | GAUGES:
                assert (name in rated) == (name in COUNTERS), query.title
                assert {"run", "stage"} <= labels <= {*metrics.TAGS, *GLOBAL}, query.title
                assert query.grouped <= {*metrics.TAGS, *GLOBAL}, query.title
    assert set(variables()) == {"SessionName", "run", "stage"}


def test_legends_use_only_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= parse(panel["title"], target["expr"]).grouped, panel["title"]


def test_panels_do_not_overlap() -> None:
    for panel in BOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations(BOARD["panels"], 2):
        assert one["id"] != other["id"]
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])


def test_every_query_uses_the_selected_prometheus() -> None:
    """With a fixed id, the dashboard would be empty everywhere but at its author's."""
    assert [each["name"] for each in BOARD["templating"]["list"] if each["type"] == "datasource"] == ["datasource"]
    sources = [each["datasource"] for panel in PANELS for each in (panel, *panel["targets"])]
    sources += [each["datasource"] for each in BOARD["templating"]["list"] if each["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
