"""The rules of a sweep, without a cluster: how many trials run concurrently and which are stopped."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler

from arspm.config import Config, ConfigError, override
from arspm.config.presets import preset
from arspm.distributed.tune import tuning
from arspm.distributed.tune.trial import FAILURE
from tests.cluster.placement import placed
from tests.distributed.tune.sweep_records import METRIC, ended

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})


# --- concurrency


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, Any]]:
    return [{"Alive": alive, "Resources": each} for each in resources]


def requesting(cpus: float, gpus: float = 0.0, num_workers: int = 1, read: tuple[int, float] = (1, 0.1)) -> Config:
    trial = {"cpus": cpus, "gpus": gpus, "num_workers": num_workers}
    changes: dict[str, Any] = {f"resources.trial.{name}": value for name, value in trial.items()}
    return override(CONFIG, changes | {"resources.read.num_tasks": read[0], "resources.read.cpus": read[1]})


@pytest.mark.parametrize("gpus", [0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("cpus", [0.3, 0.9, 1.0, 4.0])
def test_as_many_trials_run_concurrently_as_ray_could_place(cpus: float, gpus: float) -> None:
    machines = [(2.0, 1), (8.0, 4), (16.0, 0), (3.5, 2)]
    cluster = nodes(*({"CPU": c, "GPU": g} if g else {"CPU": c} for c, g in machines))
    cluster += nodes({"CPU": 999.0, "GPU": 99.0}, alive=False)
    expected = sum(placed(c, g, cpus, gpus) for c, g in machines)
    assert tuning.concurrency(requesting(cpus, gpus), False, cluster, None) == expected


def test_a_streamed_corpus_leaves_room_for_its_readers() -> None:
    two = nodes({"CPU": 2.0})
    assert tuning.concurrency(requesting(1.0), False, two, None) == 2
    assert tuning.concurrency(requesting(1.0), True, two, None) == 1
    assert tuning.concurrency(requesting(0.9, read=(1, 0.1)), True, two, None) == 2
    assert tuning.concurrency(requesting(0.9, read=(2, 0.1)), True, two, None) == 1


def test_trials_keep_to_their_pool_and_to_its_memory() -> None:
    config = override(requesting(1.0), {"resources.trial.pool": "spot", "resources.trial.memory_gib": 3})
    spot = {"CPU": 8.0, "memory": 10 * 2.0**30, "spot": 1.0}
    assert tuning.concurrency(config, False, nodes(spot, {"CPU": 8.0, "memory": 2.0**40}), None) == 3
    needs = "1 CPUs and 0 GPUs and 3 GiB on nodes with spot, which"
    for cluster in (nodes({"CPU": 8.0, "memory": 2.0**40}), nodes(spot | {"memory": 2.0**30})):
        with pytest.raises(ConfigError, match=needs):
            tuning.concurrency(config, False, cluster, None)


def test_workers_of_one_trial_may_be_on_several_nodes() -> None:
    config = requesting(1.0, num_workers=4, read=(1, 0.0))
    assert tuning.concurrency(config, True, nodes(*[{"CPU": 2.1}] * 4), None) == 2
    assert tuning.concurrency(config, True, nodes(*[{"CPU": 2.1}] * 3), None) == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 4, 9])
def test_a_limit_holds_whether_nodes_are_warm_or_not(limit: int, streamed: bool) -> None:
    warm = nodes({"CPU": 4.0})
    warm[0]["Labels"] = {"ray.io/node-group": "spot"}
    assert tuning.concurrency(requesting(1.0), streamed, warm, limit) == limit
    assert tuning.concurrency(requesting(1.0, 1.0), streamed, nodes({"CPU": 4.0}), limit) == limit  # no room yet


def test_a_limit_never_leaves_streaming_trials_without_readers() -> None:
    """Where no node can be added. Trials that do not stream wait in Ray."""
    fixed = nodes({"CPU": 4.0})
    for limit in (1, 3, 4, 9):
        assert tuning.concurrency(requesting(1.0, read=(1, 0.1)), True, fixed, limit) == min(limit, 3)
        assert tuning.concurrency(requesting(1.0), False, fixed, limit) == limit


@pytest.mark.parametrize(
    ("config", "needs"), [(requesting(8.0), "8 CPUs and 0 GPUs"), (requesting(1.0, 0.5), "1 CPUs and 0.5")]
)
def test_a_trial_that_fits_no_node_is_refused(config: Config, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"^resources.trial: a trial needs 1 workers of {needs}.*--max-concurrent"):
        tuning.concurrency(config, False, nodes({"CPU": 4.0}), None)


# --- schedulers


class NaiveAsha:
    """ASHA as in its paper (Li et al., 2020, algorithm 2).

    At a rung, a trial continues if it is among the best third of the trials that reached the rung, by the interpolated
    quantile of the earlier ones.
    """

    def __init__(self, grace: int, epochs: int):
        self.rungs: dict[int, list[float]] = {}
        rung = grace
        while rung <= epochs:
            self.rungs[rung] = []
            rung *= 3

    def continues(self, epoch: int, value: float) -> bool:
        if epoch not in self.rungs:
            return True
        before = sorted(self.rungs[epoch])
        self.rungs[epoch].append(value)
        if not before:
            return True
        position = (len(before) - 1) / 3  # of the quantile, among ascending values
        low = int(position)
        high = min(low + 1, len(before) - 1)
        return value <= before[low] + (position - low) * (before[high] - before[low])


def run_trial(scheduler: Any, number: int, values: list[float], sign: float = 1.0) -> int:
    """Show a trial to a scheduler. Returns the epoch after which it is stopped, or the last epoch."""
    trial = SimpleNamespace(trial_id=f"now-{number}")
    scheduler.on_trial_add(None, trial)
    for epoch, value in enumerate(values, 1):
        result = {"epoch": epoch, METRIC: sign * value}
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, result)
            return epoch
    return len(values)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
@pytest.mark.parametrize(("epochs", "grace"), [(9, 1), (27, 3), (20, 2), (1, 1)])
def test_asha_stops_as_its_paper_says(mode: str, sign: float, epochs: int, grace: int) -> None:
    rng = np.random.default_rng(epochs)
    scheduler, naive = tuning.make_scheduler("asha", METRIC, mode, epochs), NaiveAsha(grace, epochs - 1)
    for number in range(40):
        values = (rng.normal(0, 1) + rng.normal(0, 0.3, epochs)).tolist()
        expected = next((n for n, v in enumerate(values, 1) if not naive.continues(n, v)), epochs)
        assert run_trial(scheduler, number, values, sign) == expected


def test_without_a_scheduler_nothing_is_stopped() -> None:
    scheduler = tuning.make_scheduler("none", METRIC, "min", 3)
    for number in range(5):
        trial: Any = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        decided = scheduler.on_trial_result(None, trial, {"epoch": 3, METRIC: 9.0 * number})  # type: ignore[arg-type]
        assert decided == TrialScheduler.CONTINUE


def test_asha_decides_after_an_interruption_as_it_would_have_without_one() -> None:
    rng = np.random.default_rng(0)
    curves = [(rng.normal(0, 1) + rng.normal(0, 0.3, 20)).tolist() for _ in range(30)]
    uninterrupted = tuning.make_scheduler("asha", METRIC, "min", 20)
    lengths = [run_trial(uninterrupted, number, values) for number, values in enumerate(curves)]
    assert min(lengths) < 20
    resumed = tuning.make_scheduler("asha", METRIC, "min", 20)
    records = [ended(number, list(values[: lengths[number]])) for number, values in enumerate(curves[:12])]
    tuning._replay(resumed, json.loads(json.dumps(records)))
    assert [run_trial(resumed, number, curves[number]) for number in range(12, 30)] == lengths[12:]


def test_epochs_without_the_metric_are_not_replayed() -> None:
    record = ended(0, [None, math.nan, 1.0])
    record["epochs"].append({"epoch": 4})
    tuning._replay(tuning.make_scheduler("none", METRIC, "min", 3), [record])
    scheduler = tuning.make_scheduler("asha", METRIC, "min", 9)
    tuning._replay(scheduler, [record, ended(1, [])])
    assert run_trial(scheduler, 2, [5.0, 5.0, 5.0]) == 3  # stopped at the rung of epoch 3, which has the value 1.0


def test_a_failure_reported_by_a_trial_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default Tune requires the scheduler's metric in every result, and ends the experiment without it."""
    asha = tuning.make_scheduler("asha", METRIC, "min", 3)
    controller: Any = SimpleNamespace(_metric=None, _scheduler_alg=asha, _search_alg=SimpleNamespace(metric=None))
    result = {FAILURE: "NonFiniteLoss: the loss of step 3", "training_iteration": 1, "time_total_s": 2.0}
    monkeypatch.delenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", raising=False)
    with pytest.raises(ValueError, match="did not include the specified metric"):
        TuneController._validate_result_metrics(controller, result)
    for name, value in tuning.TUNE_SETTINGS.items():
        monkeypatch.setenv(name, value)
    TuneController._validate_result_metrics(controller, result)


# --- trackers


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_tracker_is_reported_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(
        ConfigError, match=rf"^log: {name} is not installed on the cluster .*; install arspm\[{name}\]$"
    ):
        tuning.require_trackers([name])
    tuning.require_trackers([])
