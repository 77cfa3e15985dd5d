"""The order of a chain's stages, and which of them fit the cluster in parallel."""

from __future__ import annotations

import pytest

from cluster import events
from cluster.graph import Stage, stage_order
from tests.cluster.scripted_cluster import DIAMOND, ScriptedCluster, run, stage, statuses


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [stage("a", "b"), stage("b", "c"), stage("c", "a")],
            r"form a cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)",
        ),
        ([stage("a", "a")], "form a cycle: a -> a"),
        ([stage("a", "b")], "stage 'a' needs 'b', which is not a stage"),
        ([stage("a"), stage("a")], "two stages are called 'a'"),
        ([stage("a/b")], "stage name 'a/b'"),
    ],
)
def test_invalid_stages_are_refused_before_anything_is_submitted(stages: list[Stage], message: str) -> None:
    cluster = ScriptedCluster()
    with pytest.raises(ValueError, match=message):
        run(cluster, stages)
    assert cluster.submitted == []


def test_an_unknown_until_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no stage 'botom'; the stages are top, "):
        run(ScriptedCluster(), DIAMOND, until="botom")


def test_order_respects_needs_however_the_stages_are_listed() -> None:
    assert stage_order(DIAMOND[::-1])[0] == "top"
    assert stage_order(DIAMOND[::-1])[-1] == "bottom"


def test_until_runs_only_its_stage_and_those_it_needs() -> None:
    cluster = ScriptedCluster()
    assert list(run(cluster, DIAMOND, until="left")) == ["top", "left"]
    assert len(cluster.submitted) == 2


def test_stages_run_in_parallel_as_far_as_they_fit() -> None:
    stages = [stage("a", cpus=1.5), stage("b", cpus=1), stage("c", cpus=0.5)]
    cluster = ScriptedCluster()
    run(cluster, stages)
    assert cluster.most_in_parallel == 2
    assert [name.split("-")[1] for name in cluster.submitted] == ["a", "c", "b"]


def test_a_stage_larger_than_the_cluster_runs_alone_with_a_warning() -> None:
    cluster, seen = ScriptedCluster(), []
    outcomes = run(cluster, [stage("big", cpus=64, gpus=1), stage("small", cpus=1)], seen=seen)
    assert set(statuses(outcomes).values()) == {"done"}
    assert cluster.most_in_parallel == 1
    [warning] = [event for event in seen if isinstance(event, events.Warned)]
    assert warning.text == "requests 64 CPUs of a cluster with 2 and 1 GPUs of a cluster with 0; submitted anyway"
