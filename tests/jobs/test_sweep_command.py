"""`arspm sweep` on the command line: spaces, one-line errors, the export of the best trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from arspm import config as configuration
from arspm import storage
from arspm.config import override
from arspm.runs import stages, sweeps
from cluster import client
from jobs.commands.settings import resolve_config
from jobs.sweep_options import Options
from jobs.sweep_plan import best, plan
from tests.jobs.conftest import arspm_in_process as arspm
from tests.jobs.conftest import plan_and_save
from tune_spaces import space as spaces

MINE = """
from tune_spaces.loss_weights import SPACE as WEIGHTS
from tune_spaces.space import Choice, LogUniform, Space

SPACE: Space = {
    **WEIGHTS,
    "training.encoder.learning_rate": LogUniform(1e-4, 1e-2),
    "speech_encoder.cbam_reduction": Choice([8, 16, 32]),
    ("prior.kind", "speech_encoder.fusion"): Choice({"alone": ("none", "fc"), "mean": ("neutral", "sum")}),
}
"""


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


# --- the command line


def test_a_user_s_own_space_file_is_planned(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_space.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert arspm("sweep", "./my_space.py", "--run", run, "--num-trials", 40, "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out.startswith("40 trials of 2 epochs, 3 steps each, fewer where ASHA stops a trial\n")
    assert said.err == ""
    assert not Path(run, "sweeps").exists()
    folder, sweep = plan(run, "./my_space.py", Options(), {})
    assert folder == f"{run}/sweeps/my_space"
    assert list(sweep["space"]) == [
        *("loss.lambda1", "loss.lambda2", "loss.lambda3"),
        *("training.encoder.learning_rate", "speech_encoder.cbam_reduction", "prior.kind+speech_encoder.fusion"),
    ]
    assert "prior.kind+speech_encoder.fusion" not in sweep["paper"]  # the paper's neutral+fc is not one of its choices


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no space given; name one, or export a sweep with --export-best or --export-optuna FILE"),
        (["los_weights"], "los_weights: no such space; the spaces are cbam_ordering, joint, loss_weights"),
        (["./no.py"], "no.py: no such file; a space of your own is a local .py file"),
        (["loss_weights", "--log", "excel"], "log: mlflow or wandb, not excel"),
        (["loss_weights", "--set", "seed"], "--set seed: write it as name=value"),
        (
            ["loss_weights", "--scheduler", "hyperband"],
            "scheduler: asha or none, not hyperband: it pauses and resumes trials",
        ),
        (["loss_weights", "--target", "nan"], "target: must be a finite number, not nan"),
        (["--export-best", "best.json"], " has no sweep"),
    ],
)
def test_an_invalid_command_gives_one_line(
    run: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arspm("sweep", *words, "--run", run) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not Path(run, "sweeps").exists()


def test_an_invalid_space_file_gives_one_line(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("SPACE = {'loss.lambda1': 3}\n")
    assert arspm("sweep", tmp_path / "bad.py", "--run", run) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/bad.py: loss.lambda1: a domain must be LogUniform(")


@pytest.mark.parametrize("more", [(), ("--detach",)])
def test_a_reached_target_ends_the_command_at_once(
    run: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster is asked for its jobs and nodes, and gets no new job."""
    folder, _ = plan_and_save(run)
    counts = dict.fromkeys(sweeps.STATES, 0) | {"planned": 16}
    found = {"state": "interrupted", "counts": counts, "best": 7, "trials": [{"number": 7, "best": 20.5}]}
    storage.write_json(f"{folder}/results.json", found)
    monkeypatch.setattr("jobs.commands.sweep.find_address", lambda _: "http://127.0.0.1:9")
    monkeypatch.setattr(client, "connect", lambda _: SimpleNamespace(list_jobs=list))
    monkeypatch.setattr(client, "session", lambda _: "session")
    monkeypatch.setattr(client, "nodes", lambda _: [])
    assert arspm("sweep", "loss_weights", "--run", run, "--target", 21, *more) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [
        "sweep-loss_weights: already done, reused",
        "sweep: reached the target 21.0 with trial 7",
        f"sweep: {folder}/index.html",
    ]
    assert sweeps.load(folder)["target"] == 21.0


# --- the best


def write_trial(folder: str, number: int, sample: dict[str, Any], value: float | None, state: str = "finished") -> None:
    space = spaces.unpack(sweeps.load(folder)["dimensions"])
    record = sweeps.new_record(number, sample, spaces.changes(space, sample), False)
    sweeps.write_record(folder, record | {"state": state, "best": value})


def test_the_best_configuration_is_exported_and_accepted_by_submit(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = plan_and_save(run, "prior_by_cbam")
    names = ("prior.kind+speech_encoder.fusion", "speech_encoder.cbam", "seed")
    values = [("none", "none", 0), ("neutral", "parallel", 1), ("neutral+fc", "none", 1)]
    for number, (value, angle) in enumerate(zip(values, (40.0, 31.0, 35.0), strict=True)):
        write_trial(folder, number, dict(zip(names, value, strict=True)), angle)
    write_trial(folder, 3, dict(zip(names, values[0], strict=True)), 1.0, "failed")
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 0  # the only sweep needs no name
    said = capsys.readouterr().out
    assert said == (
        f"wrote the configuration of trial 1 (31) to {file}\ntrain it: arspm submit --config {file} --run RUN\n"
    )
    expected = override(
        stages.finished_config(run, "decoder"),
        {"prior.kind": "neutral", "speech_encoder.fusion": "sum", "speech_encoder.cbam": "parallel", "seed": 1},
    )
    assert configuration.load(file.read_bytes()) == expected
    assert resolve_config("paper", str(file), {}, {}) == expected
    # It stops at the clips, which do not exist.
    assert arspm("submit", "--config", file, "--run", run, "--ray-address", "http://127.0.0.1:9") == 1
    assert capsys.readouterr().err == f"error: data.csv: {run}/no.csv does not exist\n"


def test_the_trials_are_exported_as_an_optuna_journal(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, sweep = plan_and_save(run)
    weights = {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}
    write_trial(folder, 0, weights, 31.0)
    write_trial(folder, 1, weights | {"loss.lambda1": 0.5}, 30.0)
    file = tmp_path / "trials.log"
    for _ in range(2):  # the file is replaced
        assert arspm("sweep", "--run", run, "--export-optuna", file) == 0
    assert f"wrote 2 trials to {file}\n" in capsys.readouterr().out
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(file))))
    assert study.study_name.endswith(f"/{sweep['name']}")
    assert (study.best_value, study.best_params) == (30.0, weights | {"loss.lambda1": 0.5})


def test_one_of_several_sweeps_is_chosen_by_name(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        plan_and_save(run, name=name)
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run} has several sweeps: one, two; choose one with --name\n"
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run}/sweeps/two: no trial has a val_cos_degrees yet\n"
    write_trial(f"{run}/sweeps/two", 0, {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}, 30.0)
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 0
    assert configuration.load(file.read_bytes()).loss.lambda3 == 3.0


def test_with_mode_max_the_largest_value_is_the_best(run: str) -> None:
    folder, _ = plan_and_save(run, mode="max")
    weights = {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}
    for number, value in enumerate((30.0, 50.0, None)):
        write_trial(folder, number, weights | {"loss.lambda1": 1.0 + number}, value)
    record, config = best(folder)
    assert (record["number"], config.loss.lambda1) == (1, 2.0)
