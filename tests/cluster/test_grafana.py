"""The Grafana board, by the rules of those who read it: Grafana's own types, a parser of PromQL, the metrics there
are."""

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
GLOBAL = {"SessionName", "instance"}  # labels that Ray and Prometheus put to whatever a process reports
VALUES = {"$__rate_interval": "1m", "$session": "a", "$run": "b", "$stage": "c"}  # as Grafana fills them in


class Query(NamedTuple):
    """A panel's or a variable's query: what it selects as (name, labels looked at), and the labels it groups by."""

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
    assert "$" not in text, "a variable that the board does not have"
    return Query(title, promql_parser.parse(text))


def queries() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield parse(panel["title"], target["expr"])


def variables() -> dict[str, Query]:
    """The selector in each variable's `label_values(SELECTOR, LABEL)`, by the label that it lists."""
    found = {}
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            found[label] = parse(variable["name"], selector)
    return found


def rays_own() -> set[str]:
    """The metrics that Ray's own boards draw, and one of the GCS that none does."""
    [folder] = ray_dashboards.__path__
    text = "".join(path.read_text() for path in Path(folder).glob("*_panels.py"))
    names = set(re.findall(r"\b(?:ray|autoscaler)_\w+(?=\{)", text))
    if b"running_jobs" in (Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server").read_bytes():
        names.add("ray_running_jobs")
    return names


def test_grafanas_types_take_the_whole_board() -> None:
    """What Grafana's own types do not know is lost on the way there and back."""
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
    assert lost(changed, read(changed)) == ["/panels/1/targets/0/legendFormt"], "and a slip is found"


def test_every_metric_on_the_board_exists() -> None:
    known = rays_own()
    assert "ray_node_gpus_utilization" in known
    for query in [*queries(), *variables().values()]:
        for name, _ in query.selected:
            assert name in COUNTERS | GAUGES | known, query.title
    drawn = {name for query in queries() for name, _ in query.selected}
    assert drawn >= COUNTERS | GAUGES, "what is told is drawn"


def test_ours_are_asked_as_they_are_told() -> None:
    """Counters as rates and gauges as they stand, by labels that they have, and for the runs that were chosen."""
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


def test_a_legend_names_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= parse(panel["title"], target["expr"]).grouped, panel["title"]


def test_panels_stand_beside_each_other() -> None:
    for panel in BOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations(BOARD["panels"], 2):
        assert one["id"] != other["id"]
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])


def test_the_source_is_whichever_prometheus_is_chosen() -> None:
    """A board with an id of somebody's own Prometheus in it is empty everywhere else."""
    assert [each["name"] for each in BOARD["templating"]["list"] if each["type"] == "datasource"] == ["datasource"]
    asked = [each["datasource"] for panel in PANELS for each in (panel, *panel["targets"])]
    asked += [each["datasource"] for each in BOARD["templating"]["list"] if each["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in asked)
