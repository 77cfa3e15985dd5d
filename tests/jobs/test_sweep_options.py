"""Options of a sweep that are refused: one line each, before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from arspm.config import ConfigError
from jobs.sweep_options import Options
from jobs.sweep_plan import plan
from tests.jobs.conftest import arspm_in_process as arspm
from tests.jobs.conftest import plan_and_save


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"search": "bayes"}, "search: grid or random or optuna, not bayes"),
        (
            {"scheduler": "pbt"},
            "scheduler: asha or none, not pbt: it copies weights between trials through Tune checkpoints",
        ),
        (
            {"scheduler": "bohb"},
            "scheduler: asha or none, not bohb: it pauses and resumes trials through Tune checkpoints",
        ),
        ({"scheduler": "sgd"}, "scheduler: asha or none, not sgd"),
        ({"mode": "least"}, "mode: min or max, not least"),
        ({"num_trials": 0}, "num-trials: must be at least 1, got 0"),
        ({"metric": "angle"}, "metric: a per-epoch metric, e.g. val_cos_degrees, val_l2 or train_identity; not angle"),
        ({"metric": "val_smile"}, "metric: val_smile is not measured; the metrics are val_cos_degrees, val_l2"),
        (
            {"metric": "train_loss"},
            "metric: train_loss depends on loss.lambda1, loss.lambda2, loss.lambda3, so it cannot compare these trials",
        ),
        ({"search": "random", "warm_start": "x"}, "warm-start: a random search cannot learn from other trials; use"),
        (
            {"search": "grid"},
            "loss_weights: loss.lambda1: a grid needs a Choice, not LogUniform; or use another search",
        ),
        ({"warm_start": "loss_weights"}, "warm-start: a sweep always resumes from its own trials; name another sweep"),
    ],
)
def test_an_invalid_option_is_refused(run: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(**options), {})
    assert not Path(run, "sweeps").exists()


def test_all_problems_of_the_options_are_reported_together(run: str) -> None:
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


def test_the_metric_of_a_loss_is_refused_if_trials_have_different_losses(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tune_spaces.space import Choice\n"
        'SPACE = {"loss.identity": Choice(["cosine", "distillation"]), "seed": Choice([0])}'
    )
    with pytest.raises(ConfigError, match=r"^metric: train_identity is a different quantity for each loss.identity"):
        plan(run, str(file), Options(metric="train_identity"), {})


def test_more_trials_than_the_grid_has_are_refused(run: str) -> None:
    with pytest.raises(ConfigError, match=r"^num-trials: the grid of cbam_ordering has only 5 trials, not 6$"):
        plan(run, "cbam_ordering", Options(num_trials=6), {})


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("name", name) for name in ("../x", "..", "a/b", "/a", ".hidden")),
        *(("warm_start", name) for name in ("..", ".hidden")),  # with a slash it is a URI, which may be anywhere
    ],
)
def test_names_that_point_outside_the_run_are_refused(run: str, option: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"^sweep name "):
        plan(run, "loss_weights", Options(**{option: name}), {})


def test_a_name_that_points_outside_the_run_is_refused_by_the_export_too(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arspm("sweep", "--run", run, "--name", "../sweeps/x", "--export-best", tmp_path / "b.json") == 1
    assert capsys.readouterr().err.startswith("error: sweep name '../sweeps/x': use up to 100 letters, digits")


def test_a_warm_start_is_given_by_name_or_by_uri(run: str) -> None:
    place, _ = plan_and_save(run)
    for asked in ("loss_weights", place, f"{place}/"):
        assert plan(run, "joint", Options(warm_start=asked), {})[1]["warm_start"] == place


def test_a_warm_start_from_no_sweep_or_another_metric_is_refused(run: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/sweep.json: no such file"):
        plan(run, "joint", Options(warm_start="nowhere"), {})
    place, _ = plan_and_save(run, metric="val_l2", mode="max")
    with pytest.raises(ConfigError) as caught:
        plan(run, "joint", Options(warm_start="loss_weights"), {})
    said = f"warm-start: {place} optimised val_l2 (max), not val_cos_degrees (min)"
    assert str(caught.value) == said
