"""The rules of a sweep's trials, without a cluster: how many at once, which are stopped, what one goes on from."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler

from arspm import storage
from arspm.config import Config, ConfigError, override
from arspm.config.presets import preset
from arspm.corpus import tables
from arspm.distributed.train.rows import Guides
from arspm.distributed.tune import trial as trials
from arspm.distributed.tune import tuning
from arspm.distributed.tune.trial import FAILURE
from arspm.model import speech_portrait
from arspm.runs import sweeps
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import Report
from tests.cluster.placement import placed
from tests.distributed.tune.sweep_records import METRIC, ended

CONFIG = override(preset("smoke"), {"training.encoder.epochs": 3})


# --- how many at once


def nodes(*resources: dict[str, float], alive: bool = True) -> list[dict[str, Any]]:
    return [{"Alive": alive, "Resources": each} for each in resources]


def asking(cpus: float, gpus: float = 0.0, num_workers: int = 1, read: tuple[int, float] = (1, 0.1)) -> Config:
    trial = {"cpus": cpus, "gpus": gpus, "num_workers": num_workers}
    changes: dict[str, Any] = {f"resources.trial.{name}": value for name, value in trial.items()}
    return override(CONFIG, changes | {"resources.read.num_tasks": read[0], "resources.read.cpus": read[1]})


@pytest.mark.parametrize("gpus", [0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("cpus", [0.3, 0.9, 1.0, 4.0])
def test_trials_at_once_are_those_that_ray_could_place(cpus: float, gpus: float) -> None:
    machines = [(2.0, 1), (8.0, 4), (16.0, 0), (3.5, 2)]
    there = nodes(*({"CPU": c, "GPU": g} if g else {"CPU": c} for c, g in machines))
    there += nodes({"CPU": 999.0, "GPU": 99.0}, alive=False)
    expected = sum(placed(c, g, cpus, gpus) for c, g in machines)
    assert tuning.concurrency(asking(cpus, gpus), True, there, None) == expected


def test_a_streamed_corpus_leaves_room_for_its_readers() -> None:
    two = nodes({"CPU": 2.0})
    assert tuning.concurrency(asking(1.0), True, two, None) == 2
    assert tuning.concurrency(asking(1.0), False, two, None) == 1
    assert tuning.concurrency(asking(0.9, read=(1, 0.1)), False, two, None) == 2
    assert tuning.concurrency(asking(0.9, read=(2, 0.1)), False, two, None) == 1


def test_trials_keep_to_their_pool_and_to_its_memory() -> None:
    config = override(asking(1.0), {"resources.trial.pool": "spot", "resources.trial.memory_gib": 3})
    spot = {"CPU": 8.0, "memory": 10 * 2.0**30, "spot": 1.0}
    assert tuning.concurrency(config, True, nodes(spot, {"CPU": 8.0, "memory": 2.0**40}), None) == 3
    needs = "1 CPUs and 0 GPUs and 3 GiB on nodes with spot, which"
    for there in (nodes({"CPU": 8.0, "memory": 2.0**40}), nodes(spot | {"memory": 2.0**30})):
        with pytest.raises(ConfigError, match=needs):
            tuning.concurrency(config, True, there, None)


def test_workers_of_one_trial_may_lie_on_several_nodes() -> None:
    config = asking(1.0, num_workers=4, read=(1, 0.0))
    assert tuning.concurrency(config, False, nodes(*[{"CPU": 2.1}] * 4), None) == 2
    assert tuning.concurrency(config, False, nodes(*[{"CPU": 2.1}] * 3), None) == 1


def test_a_limit_only_lowers_what_has_room_unless_nothing_has() -> None:
    four = nodes({"CPU": 4.0})
    assert [tuning.concurrency(asking(1.0), True, four, limit) for limit in (1, 3, 4, 9)] == [1, 3, 4, 4]
    assert tuning.concurrency(asking(1.0, 1.0), True, four, 6) == 6  # GPUs that a cluster will have


@pytest.mark.parametrize(
    ("config", "needs"), [(asking(8.0), "8 CPUs and 0 GPUs"), (asking(1.0, 0.5), "1 CPUs and 0.5")]
)
def test_a_trial_that_no_node_can_hold_is_refused(config: Config, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"^resources.trial: a trial needs 1 workers of {needs}.*--max-concurrent"):
        tuning.concurrency(config, True, nodes({"CPU": 4.0}), None)


# --- which are stopped


class HalvedByHand:
    """ASHA as its paper has it (Li et al., 2020, algorithm 2): at a rung a trial goes on if it is among the best third
    of those that came there, itself among them by the interpolated quantile of those before."""

    def __init__(self, grace: int, epochs: int):
        self.rungs: dict[int, list[float]] = {}
        rung = grace
        while rung <= epochs:
            self.rungs[rung] = []
            rung *= 3

    def goes_on(self, epoch: int, value: float) -> bool:
        if epoch not in self.rungs:
            return True
        before = sorted(self.rungs[epoch])
        self.rungs[epoch].append(value)
        if not before:
            return True
        place = (len(before) - 1) / 3  # the best third, of the least values
        low = int(place)
        high = min(low + 1, len(before) - 1)
        return value <= before[low] + (place - low) * (before[high] - before[low])


def learn(scheduler: Any, number: int, values: list[float], sign: float = 1.0) -> int:
    """Let a scheduler see a trial; the epoch after which it stops it, or the last."""
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
    scheduler, by_hand = tuning.make_scheduler("asha", METRIC, mode, epochs), HalvedByHand(grace, epochs - 1)
    for number in range(40):
        values = (rng.normal(0, 1) + rng.normal(0, 0.3, epochs)).tolist()
        expected = next((n for n, v in enumerate(values, 1) if not by_hand.goes_on(n, v)), epochs)
        assert learn(scheduler, number, values, sign) == expected


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
    unbroken = tuning.make_scheduler("asha", METRIC, "min", 20)
    lengths = [learn(unbroken, number, values) for number, values in enumerate(curves)]
    assert min(lengths) < 20
    resumed = tuning.make_scheduler("asha", METRIC, "min", 20)
    records = [ended(number, list(values[: lengths[number]])) for number, values in enumerate(curves[:12])]
    tuning._replay(resumed, json.loads(json.dumps(records)))
    assert [learn(resumed, number, curves[number]) for number in range(12, 30)] == lengths[12:]


def test_epochs_without_the_metric_and_other_schedulers_are_passed_over() -> None:
    record = ended(0, [None, math.nan, 1.0])
    record["epochs"].append({"epoch": 4})
    tuning._replay(tuning.make_scheduler("none", METRIC, "min", 3), [record])
    scheduler = tuning.make_scheduler("asha", METRIC, "min", 9)
    tuning._replay(scheduler, [record, ended(1, [])])
    assert learn(scheduler, 2, [5.0, 5.0, 5.0]) == 3  # stopped at the rung of epoch 3, where the 1.0 is


def test_a_failure_told_by_a_trial_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's own check wants the scheduler's metric in every result, and ends the experiment where it is not."""
    asha = tuning.make_scheduler("asha", METRIC, "min", 3)
    controller: Any = SimpleNamespace(_metric=None, _scheduler_alg=asha, _search_alg=SimpleNamespace(metric=None))
    result = {FAILURE: "NonFiniteLoss: the loss of step 3", "training_iteration": 1, "time_total_s": 2.0}
    monkeypatch.delenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", raising=False)
    with pytest.raises(ValueError, match="did not include the specified metric"):
        TuneController._validate_result_metrics(controller, result)
    for name, value in tuning._TUNE_SETTINGS.items():
        monkeypatch.setenv(name, value)
    TuneController._validate_result_metrics(controller, result)


# --- a trial that goes on from its checkpoint


def test_a_trial_tells_again_what_a_driver_that_was_lost_had_missed(
    write_corpus: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint knows two epochs, the record one. The training loop is real; what Tune is told is listened to."""
    torch.manual_seed(0)
    write_corpus({"train": (9,), "val": (6,)}, feature_dim=64)
    config = override(CONFIG, {"data.storage": "waveform", "training.encoder.augment": False})
    network, decoder = speech_portrait.vggface(config, 5), speech_portrait.face_decoder(config)
    guides = Guides({"neutral": torch.randn(64)}, None, decoder.fc1, network.fc8)
    clips, _ = trials.portrait_clips(config, str(tmp_path), 2)
    rows = trials.gather_rows("encoder", config, str(tmp_path))
    held: Any = []
    for reading in rows.readings:
        found = tables.read_rows(reading.split, reading.wanted, np.arange(reading.split.num_rows))
        held.append({name: np.asarray(value) for name, value in found.items()})
    monkeypatch.setattr(trials.in_memory.ray, "get", list)  # the object store
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(trials.tune, "report", lambda figures: heard.append(dict(figures)))

    def go(place: str) -> list[dict[str, Any]]:
        heard.clear()
        trials._alone(config, trials.Setup(str(tmp_path), place, config, guides, decoder, clips, held), 0)
        return [{name: each[name] for name in each if name == "epoch" or name.startswith("val_")} for each in heard]

    monkeypatch.setattr(trials, "CHECKPOINT_SECONDS", 0.0)
    place = str(tmp_path / "sweep")
    whole = go(place)
    assert [each["epoch"] for each in whole] == [1, 2, 3]
    assert trials.fetch_checkpoint(place, 0, tmp_path / "left") is not None
    assert json.loads((tmp_path / "left" / "progress.json").read_text())["progress"]["epoch"] == 2
    record = sweeps.new_record(0, {}, {}, False)
    sweeps.add_epoch(record, whole[0], METRIC, "min")
    sweeps.write_record(place, record)
    assert go(place) == whole[1:]
    for figures in whole[1:]:
        sweeps.add_epoch(record, figures, METRIC, "min")
    sweeps.write_record(place, record)
    assert go(place) == whole[2:]  # a record that is ahead: what is done again is told again
    storage.remove(f"{place}/trials/00000.json")
    assert go(place) == whole


def test_the_last_checkpoint_is_the_last_whole_one(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert trials.fetch_checkpoint(place, 0, tmp_path / "none") is None

    def report(step: int) -> Report:
        def save(folder: Path) -> None:
            for name in ("model.safetensors", "progress.json"):
                (folder / name).write_text(str(step))

        return Report({}, save, TrainingState(step=step), False)

    for step in (5, 12):
        trials.save_checkpoint(place, 0, report(step), tmp_path)
    assert set(storage.files_below(f"{place}/trials/00000")) == {
        "step-00000012/model.safetensors",
        "step-00000012/progress.json",
    }
    storage.write_bytes(f"{place}/trials/00000/step-00000020/model.safetensors", b"20")  # cut off before it was whole
    found = trials.fetch_checkpoint(place, 0, tmp_path / "found")
    assert found is not None
    assert {path.name: path.read_text() for path in found.iterdir()} == {
        "model.safetensors": "12",
        "progress.json": "12",
    }


# --- other places to log to


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not, where it is
    with pytest.raises(
        ConfigError, match=rf"^log: {name} is not installed on the cluster .*; install arspm\[{name}\]$"
    ):
        tuning.trackers([name], "one")
    assert tuning.trackers([], "one") == []
