"""A planned sweep: its sweep.json, the fields it may set, and the sweep that is already in the folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import ConfigError
from arspm.config.presets import preset
from arspm.runs import stages, sweeps
from jobs.sweep_options import Options
from jobs.sweep_plan import plan
from tests.jobs.conftest import plan_and_save
from tune_spaces import space as spaces


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


# --- its sweep.json


def test_a_plan_has_what_the_page_and_the_job_need(run: str) -> None:
    place, sweep = plan(run, "loss_weights", Options(), {"training.encoder.epochs": "7"})
    assert place == f"{run}/sweeps/loss_weights"
    told = {name: sweep[name] for name in ("name", "run", "preset", "search", "scheduler", "num_trials", "epochs")}
    assert told == {
        "name": "loss_weights",
        "run": Path(run).name,
        "preset": "smoke",
        "search": "optuna",
        "scheduler": "asha",
        "num_trials": 16,
        "epochs": 7,
    }
    assert sweep["steps_per_epoch"] == 3  # 24 rows, 8 a step
    assert sweep["paper"] == {"loss.lambda1": 1.0, "loss.lambda2": 0.04, "loss.lambda3": 1.2}
    assert (sweep["metric"], sweep["mode"], sweep["seed"], sweep["warm_start"]) == ("val_cos_degrees", "min", 0, None)
    assert configuration.from_dict(sweep["config"]).training.encoder.epochs == 7
    assert json.loads(json.dumps(sweep, allow_nan=False)) == sweep
    assert not Path(place).exists()


@pytest.mark.parametrize(
    ("space", "options", "search", "scheduler", "num_trials"),
    [
        ("cbam_ordering", {}, "grid", "none", 5),
        ("prior_by_cbam", {}, "grid", "none", 50),
        ("cbam_ordering", {"scheduler": "asha", "num_trials": 3}, "grid", "asha", 3),
        ("cbam_ordering", {"search": "random"}, "random", "asha", 16),
        ("joint", {"search": "random", "scheduler": "none", "num_trials": 2}, "random", "none", 2),
    ],
)
def test_defaults_depend_on_the_space(
    run: str, space: str, options: dict[str, Any], search: str, scheduler: str, num_trials: int
) -> None:
    _, sweep = plan(run, space, Options(**options), {})
    assert (sweep["search"], sweep["scheduler"], sweep["num_trials"]) == (search, scheduler, num_trials)


def test_a_space_that_varies_epochs_plans_for_the_largest_number(run: str, tmp_path: Path) -> None:
    """Otherwise ASHA would stop a longer trial at the run's own number of epochs."""
    file = tmp_path / "longer.py"
    head = "from tune_spaces.space import Choice\nSPACE = "
    file.write_text(head + '{"training.encoder.epochs": Choice([1, 9, "12"]), "loss.lambda1": Choice([1])}')
    assert plan(run, str(file), Options(), {})[1]["epochs"] == 12
    file.write_text(head + '{("loss.lambda1", "training.encoder.epochs"): Choice({"a": (1, 4), "b": (2, 3)})}')
    assert plan(run, str(file), Options(), {})[1]["epochs"] == 4


def test_paper_values_outside_a_space_are_left_out(run: str, tmp_path: Path) -> None:
    file = tmp_path / "high.py"
    file.write_text(
        "from tune_spaces.space import LogUniform\n"
        'SPACE = {"loss.lambda1": LogUniform(2, 20), "loss.lambda2": LogUniform(0.01, 1)}'
    )
    assert plan(run, str(file), Options(), {})[1]["paper"] == {"loss.lambda2": 0.04}


# --- what is refused


def test_every_problem_of_a_space_file_names_the_file(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('from tune_spaces.space import Choice\nSPACE = {"loss.l": Choice([1]), "seed": Choice([-1])}')
    with pytest.raises(ConfigError) as caught:
        plan(run, str(file), Options(), {})
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        [str(file), "loss.l"],
        [str(file), "seed"],
    ]


def test_a_range_of_whole_numbers_is_a_list_of_values(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tune_spaces.space import Choice\n"
        'SPACE = {"seed": Choice(range(3)), "training.encoder.epochs": Choice(["4.0", 2])}'
    )
    _, sweep = plan(run, str(file), Options(), {})
    assert (sweep["dimensions"][0]["values"], sweep["epochs"], sweep["num_trials"]) == ([0, 1, 2], 4, 6)


@pytest.mark.parametrize("stage", ["decoder", "prior", "gender"])
def test_a_missing_upstream_stage_is_named_with_what_to_do(run: str, stage: str) -> None:
    Path(run, stage, stages.SUCCESS).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{run}: stage {stage} is not done; `arspm submit --run"):
        plan(run, "loss_weights", Options(), {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss.lamda1": "1"}, "loss.lamda1: there is no such field; did you mean loss.lambda1"),
        ({"face_decoder.width": "0.5"}, "face_decoder.width: belongs to another stage, which a sweep reuses from"),
        ({"training.decoder.epochs": "5"}, "training.decoder.epochs: belongs to another stage"),
        ({"prior.num_faces": "5"}, "prior.num_faces: belongs to another stage"),
    ],
)
def test_a_change_of_another_stage_is_refused(run: str, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(), changes)


def test_changes_of_the_encoder_and_of_resources_are_accepted(run: str) -> None:
    changes = {"seed": "3", "ingest.subset": "8", "resources.trial.cpus": "2", "speech_encoder.width": "0.125"}
    _, sweep = plan(run, "prior_type", Options(), changes)
    config = configuration.from_dict(sweep["config"])
    assert (config.seed, config.resources.trial.cpus, sweep["steps_per_epoch"]) == (3, 2.0, 1)


# --- the sweep already in the folder


def test_the_same_command_resumes(run: str) -> None:
    place, before = plan_and_save(run, seed=4, num_trials=6)
    again = plan(run, "loss_weights", Options(seed=4, num_trials=6), {})
    assert again == (place, before)


def test_more_trials_extend_the_same_sweep(run: str) -> None:
    _, before = plan_and_save(run, search="random", num_trials=20)
    _, after = plan(run, "loss_weights", Options(search="random", num_trials=30), {})
    assert after == before | {"num_trials": 30}
    space = spaces.unpack(after["dimensions"])
    assert spaces.random_samples(space, 30, 0)[:20] == spaces.random_samples(space, 20, 0)
    _, unsaid = plan(run, "loss_weights", Options(search="random"), {})
    assert unsaid["num_trials"] == 20  # the default of 16 is fewer than are planned, but was not asked for


def test_resources_may_change_between_two_commands(run: str) -> None:
    _, before = plan_and_save(run)
    _, after = plan(run, "loss_weights", Options(), {"resources.trial.cpus": "0.5"})
    assert after["created"] == before["created"]
    assert configuration.from_dict(after["config"]).resources.trial.cpus == 0.5


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        ({"seed": 1}, {}, "seed 0, not 1"),
        ({"scheduler": "none"}, {}, "scheduler asha, not none"),
        ({"search": "random"}, {}, "search optuna, not random"),
        ({"metric": "val_l2"}, {}, "metric val_cos_degrees, not val_l2"),
        ({"mode": "max"}, {}, "mode min, not max"),
        ({"num_trials": 5}, {}, "16 trials, not 5"),
        ({}, {"loss.identity": "distillation"}, "loss.identity cosine, not distillation"),
        ({}, {"training.encoder.epochs": "9"}, "training.encoder.epochs 2, not 9"),
        ({"seed": 1, "mode": "max"}, {}, "mode min, not max; seed 0, not 1"),
    ],
)
def test_another_sweep_under_the_same_name_is_refused(
    run: str, options: dict[str, Any], changes: dict[str, str], says: str
) -> None:
    place, before = plan_and_save(run)
    with pytest.raises(ConfigError) as caught:
        plan(run, "loss_weights", Options(**options), changes)
    assert str(caught.value) == f"{place} holds a sweep with {says}: repeat its options, or pass --name"
    assert sweeps.load(place) == before
    other, _ = plan(run, "loss_weights", Options(**{"name": "other", **options}), changes)
    assert other == f"{run}/sweeps/other"


def test_another_space_or_another_decoder_is_another_sweep(run: str) -> None:
    place, _ = plan_and_save(run, name="one")
    with pytest.raises(ConfigError, match=f"^{place} holds a sweep with .*another space"):
        plan(run, "joint", Options(name="one"), {})
    Path(run, "decoder", stages.SUCCESS).unlink()
    stages.commit(
        run, "decoder", fingerprint="e" * 64, config=preset("smoke"), files={}, seconds=2.0, figures={"new": 1}
    )
    with pytest.raises(ConfigError, match="another decoder, prior or gender network of the run"):
        plan(run, "loss_weights", Options(name="one"), {})


def test_a_folder_with_another_sweep_json_is_refused(run: str) -> None:
    storage.write_json(f"{run}/sweeps/loss_weights/sweep.json", {"name": "loss_weights"})
    with pytest.raises(ValueError, match=r"sweep.json: not a sweep$"):
        plan(run, "loss_weights", Options(), {})
