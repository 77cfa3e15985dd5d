"""What a sweep is from its command's words: what is refused and how, and what goes on with what stands there."""

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
from jobs.cli import app, readable
from jobs.sweep_plan import Options, pack, plan, unpack
from tests.jobs.conftest import keep
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Space, Uniform


def arspm(*words: object) -> int:
    """`arspm` in this process: what it prints is for `capsys`, an error as a person sees it."""
    return readable(lambda: app(list(map(str, words)), standalone_mode=False))


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


# --- what it is


def test_a_sweep_is_what_the_page_and_its_job_need(run: str) -> None:
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
def test_what_is_left_open_follows_from_the_space(
    run: str, space: str, options: dict[str, Any], search: str, scheduler: str, num_trials: int
) -> None:
    _, sweep = plan(run, space, Options(**options), {})
    assert (sweep["search"], sweep["scheduler"], sweep["num_trials"]) == (search, scheduler, num_trials)


def test_a_space_of_epochs_has_the_most_of_them(run: str, tmp_path: Path) -> None:
    """Or ASHA would stop at the run's own number a trial that is to have more."""
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


@pytest.mark.parametrize("name", spaces.shipped())
def test_a_space_goes_into_json_and_comes_back_whole(name: str) -> None:
    space = spaces.load(name)[1]
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    for sample in spaces.random_samples(space, 20, 0):
        assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.random_samples(again, 20, 3) == spaces.random_samples(space, 20, 3)


def test_values_of_every_kind_come_back_whole() -> None:
    space: Space = {
        "a": Choice([None, True, False, 1, 0.5, "word"]),
        ("b", "c"): Choice([(1, None), (2, "x")]),
        ("d", "e"): Choice({"one": (1, 2), "two": (3, 4)}),
        "f": Choice({"label": None}),
        "g": Uniform(0, 1),
        "h": LogUniform(1e-9, 1e9),
    }
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    sample = {"a": "null", "b+c": "2+x", "d+e": "two", "f": "label", "g": 0.5, "h": 2.0}
    assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.changes(again, sample)["e"] == 4


# --- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"search": "bayes"}, "search: grid or random or optuna, not bayes"),
        (
            {"scheduler": "pbt"},
            "scheduler: asha or none, not pbt: it copies one trial's weights into another by Tune's",
        ),
        ({"scheduler": "bohb"}, "scheduler: asha or none, not bohb: it pauses trials and resumes them from Tune's"),
        ({"scheduler": "sgd"}, "scheduler: asha or none, not sgd"),
        ({"mode": "least"}, "mode: min or max, not least"),
        ({"num_trials": 0}, "num-trials: 1 or more, not 0"),
        ({"metric": "angle"}, "metric: a figure of an epoch, as val_cos_degrees, val_l2 or train_identity; not angle"),
        ({"metric": "val_smile"}, "metric: val_smile is not measured; there are val_cos_degrees, val_l2"),
        (
            {"metric": "train_loss"},
            "metric: train_loss contains loss.lambda1, loss.lambda2, loss.lambda3, so it cannot say which is better",
        ),
        ({"search": "random", "warm_start": "x"}, "warm-start: a random search learns nothing from other trials; use"),
        ({"search": "grid"}, "loss_weights: loss.lambda1: a grid needs a Choice, not LogUniform; or search at random"),
        ({"warm_start": "loss_weights"}, "warm-start: a sweep goes on from its own trials anyway; name another one"),
    ],
)
def test_what_a_sweep_cannot_be_is_told(run: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(**options), {})
    assert not Path(run, "sweeps").exists()


def test_all_that_is_wrong_with_the_options_is_told_at_once(run: str) -> None:
    options = Options(search="no", scheduler="no", mode="no", num_trials=-1, metric="no")
    with pytest.raises(ConfigError) as caught:
        plan(run, "loss_weights", options, {})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "search",
        "scheduler",
        "mode",
        "num-trials",
        "metric",
    ]


def test_the_metric_of_a_loss_is_no_metric_where_losses_differ(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tune_spaces.space import Choice\n"
        'SPACE = {"loss.identity": Choice(["cosine", "distillation"]), "seed": Choice([0])}'
    )
    with pytest.raises(ConfigError, match=r"^metric: train_identity is another figure for each loss.identity"):
        plan(run, str(file), Options(metric="train_identity"), {})


def test_of_a_file_each_line_names_the_file(run: str, tmp_path: Path) -> None:
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


def test_a_grid_has_no_more_trials_than_combinations(run: str) -> None:
    with pytest.raises(ConfigError, match=r"^num-trials: the grid of cbam_ordering has 5, not 6$"):
        plan(run, "cbam_ordering", Options(num_trials=6), {})


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("name", name) for name in ("../x", "..", "a/b", "/a", ".hidden")),
        *(("warm_start", name) for name in ("..", ".hidden")),  # with a stroke it is a URI, which may lie anywhere
    ],
)
def test_names_that_lead_out_of_the_run_are_refused(run: str, option: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"^sweep name "):
        plan(run, "loss_weights", Options(**{option: name}), {})


def test_a_name_that_leads_out_of_the_run_is_refused_at_the_export_too(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arspm("sweep", "--run", run, "--name", "../sweeps/x", "--export-best", tmp_path / "b.json") == 1
    assert capsys.readouterr().err.startswith("error: sweep name '../sweeps/x': letters, digits")


@pytest.mark.parametrize("stage", ["decoder", "prior", "gender"])
def test_a_run_without_what_the_trials_rest_on_says_what_to_do(run: str, stage: str) -> None:
    Path(run, stage, stages.SUCCESS).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{run}: stage {stage} is not done; `arspm submit --run"):
        plan(run, "loss_weights", Options(), {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss.lamda1": "1"}, "loss.lamda1: there is no such field; did you mean loss.lambda1"),
        ({"face_decoder.width": "0.5"}, "face_decoder.width: belongs to another stage, whose work a sweep takes from"),
        ({"training.decoder.epochs": "5"}, "training.decoder.epochs: belongs to another stage"),
        ({"prior.num_faces": "5"}, "prior.num_faces: belongs to another stage"),
    ],
)
def test_a_setting_of_another_stage_is_refused(run: str, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(), changes)


def test_settings_of_the_encoder_and_of_resources_are_taken(run: str) -> None:
    changes = {"seed": "3", "ingest.subset": "8", "resources.trial.cpus": "2", "speech_encoder.width": "0.125"}
    _, sweep = plan(run, "prior_type", Options(), changes)
    config = configuration.from_dict(sweep["config"])
    assert (config.seed, config.resources.trial.cpus, sweep["steps_per_epoch"]) == (3, 2.0, 1)


# --- the same sweep, or another


def test_the_same_command_goes_on(run: str) -> None:
    place, before = keep(run, seed=4, num_trials=6)
    again = plan(run, "loss_weights", Options(seed=4, num_trials=6), {})
    assert again == (place, before)


def test_more_trials_are_the_same_sweep_and_begin_alike(run: str) -> None:
    _, before = keep(run, search="random", num_trials=20)
    _, after = plan(run, "loss_weights", Options(search="random", num_trials=30), {})
    assert after == before | {"num_trials": 30}
    space = unpack(after["dimensions"])
    assert spaces.random_samples(space, 30, 0)[:20] == spaces.random_samples(space, 20, 0)
    _, unsaid = plan(run, "loss_weights", Options(search="random"), {})
    assert unsaid["num_trials"] == 20  # the usual 16 are done, not asked for


def test_what_may_change_between_two_sessions(run: str) -> None:
    _, before = keep(run)
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
    place, before = keep(run)
    with pytest.raises(ConfigError) as caught:
        plan(run, "loss_weights", Options(**options), changes)
    assert str(caught.value) == f"{place} holds a sweep with {says}: go on with it as it was, or give --name"
    assert sweeps.load(place) == before
    other, _ = plan(run, "loss_weights", Options(**{"name": "other", **options}), changes)
    assert other == f"{run}/sweeps/other"


def test_another_space_or_another_decoder_is_another_sweep(run: str) -> None:
    place, _ = keep(run, name="one")
    with pytest.raises(ConfigError, match=f"^{place} holds a sweep with .*another space"):
        plan(run, "joint", Options(name="one"), {})
    Path(run, "decoder", stages.SUCCESS).unlink()
    stages.commit(
        run, "decoder", fingerprint="e" * 64, config=preset("smoke"), files={}, seconds=2.0, figures={"new": 1}
    )
    with pytest.raises(ConfigError, match="another decoder, prior or gender network of the run"):
        plan(run, "loss_weights", Options(name="one"), {})


def test_a_folder_that_holds_something_else_is_not_gone_on_with(run: str) -> None:
    storage.write_json(f"{run}/sweeps/loss_weights/sweep.json", {"name": "loss_weights"})
    with pytest.raises(ValueError, match=r"sweep.json: not a sweep$"):
        plan(run, "loss_weights", Options(), {})


# --- warm start


def test_a_warm_start_is_from_a_sweep_of_the_run_or_from_anywhere(run: str) -> None:
    place, _ = keep(run)
    for asked in ("loss_weights", place, f"{place}/"):
        assert plan(run, "joint", Options(warm_start=asked), {})[1]["warm_start"] == place


def test_a_warm_start_from_nothing_or_by_another_measure_is_refused(run: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/sweep.json: no such file"):
        plan(run, "joint", Options(warm_start="nowhere"), {})
    place, _ = keep(run, metric="val_l2", mode="max")
    with pytest.raises(ConfigError) as caught:
        plan(run, "joint", Options(warm_start="loss_weights"), {})
    said = f"warm-start: {place} was judged by val_l2 (max), not by val_cos_degrees (min)"
    assert str(caught.value) == said
