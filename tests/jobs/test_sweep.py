"""A sweep as a job and from the command line: its samples, its job, its cost before launch, its best."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import override
from arspm.runs import stages, sweeps
from cluster.chain import check
from cluster.errors import ClusterError
from jobs import sweep as work
from jobs.cli import _settings, app, readable
from jobs.sweep_plan import Options, plan, unpack
from tests.jobs.conftest import keep
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


def arspm(*words: object) -> int:
    """`arspm` in this process: what it prints is for `capsys`, an error as a person sees it."""
    return readable(lambda: app(list(map(str, words)), standalone_mode=False))


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


# --- when it is done


def test_a_sweep_is_done_with_its_last_trial(run: str) -> None:
    place, _ = keep(run)
    assert work.done(place, 16) is None
    for state, planned, trials, is_done in (
        ("running", 16, 16, False),
        ("finished", 16, 16, True),
        ("finished", 16, 17, False),
        ("interrupted", 16, 16, False),
    ):
        storage.write_json(f"{place}/results.json", {"state": state, "counts": {"planned": planned}})
        assert (work.done(place, trials) is not None) is is_done


# --- its samples


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_search_begins_with_the_paper_s_values_and_has_them_once(run: str, search: str) -> None:
    _, sweep = plan(run, "joint", Options(search=search, num_trials=12, seed=2), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(12)]
    assert samples[0] == sweep["paper"]
    assert [work.is_paper(sweep["paper"], sample) for sample in samples] == [True] + [False] * 11
    base = configuration.from_dict(sweep["config"])
    assert [base.loss.lambda1, base.loss.lambda2, base.loss.lambda3] == list(samples[0].values())[:3]


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_space_without_the_paper_s_values_is_searched_from_its_own(run: str, tmp_path: Path, search: str) -> None:
    file = tmp_path / "high.py"
    file.write_text(
        "from tune_spaces.space import LogUniform\n"
        'SPACE = {"loss.lambda1": LogUniform(2, 20), "loss.lambda2": LogUniform(0.01, 1)}'
    )
    _, sweep = plan(run, str(file), Options(search=search), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(16)]
    assert all(2 <= sample["loss.lambda1"] <= 20 for sample in samples)
    assert not any(work.is_paper(sweep["paper"], sample) for sample in samples)
    assert not work.is_paper(sweep["paper"], {"loss.lambda1": None, "loss.lambda2": 0.04})


def test_a_random_search_draws_by_number_whatever_its_length(run: str) -> None:
    samples = []
    for num_trials in (5, 9):
        _, sweep = plan(run, "joint", Options(search="random", num_trials=num_trials), {})
        found = work.searching(sweep, unpack(sweep["dimensions"]))
        samples.append([found.suggest(number) for number in range(num_trials)])
    assert samples[1][:5] == samples[0]


def test_a_grid_has_every_combination_and_the_paper_s_with_each_seed(run: str) -> None:
    _, sweep = plan(run, "prior_by_cbam", Options(), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(50)]
    assert len({tuple(sample.values()) for sample in samples}) == 50
    paper = [sample for sample in samples if work.is_paper(sweep["paper"], sample)]
    assert [tuple(sample.values()) for sample in paper] == [("neutral+fc", "channel_first", seed) for seed in (0, 1)]


# --- the job


@pytest.mark.parametrize("name", ["loss_weights", "Mine_2.5-B", "a" * 100])
def test_any_name_of_a_sweep_makes_a_job(run: str, name: str) -> None:
    _, sweep = plan(run, "loss_weights", Options(name=name), {})
    stage_name, stem = work._job(run, sweep)
    entrypoint = work._entrypoint(run, name, ["--log", "mlflow"])
    assert check([work.chain.Stage(stage_name, (), entrypoint)]) == [stage_name]
    assert re.fullmatch(r"[a-z0-9_-]+", stem)
    assert shlex.split(entrypoint)[:3] == ["python", "-m", "jobs.sweep"]
    assert ["--name", name] == shlex.split(entrypoint)[5:7]


def test_a_job_is_known_by_its_sweep(run: str) -> None:
    _, sweep = keep(run)
    _, again = plan(run, "loss_weights", Options(), {})
    assert work._job(run, again) == work._job(run, sweep)
    stems = {work._job(run, sweep | change)[1] for change in ({}, {"num_trials": 17}, {"created": 1.0})}
    assert len(stems) == 3


class Cluster:
    """As much of a Jobs API client as lists jobs."""

    def __init__(self, *jobs: tuple[str, str, dict[str, str]]):
        self._jobs = jobs

    def list_jobs(self) -> list[Any]:
        rest = {"error_type": None, "message": "", "driver_exit_code": None, "end_time": None, "start_time": 1}
        return [
            SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status), metadata=metadata, **rest)
            for name, status, metadata in self._jobs
        ]


def test_a_sweep_has_one_driver(run: str) -> None:
    _, sweep = keep(run)
    stage_name, stem = work._job(run, sweep)
    own = {"run": run, "stage": stage_name}
    shorter = work._job(run, sweep | {"num_trials": 8})[1]
    free = Cluster(
        (f"{stem}-1", "RUNNING", own),  # joined
        (f"{shorter}-1", "SUCCEEDED", own),
        (f"{shorter}-2", "RUNNING", {"run": run, "stage": "sweep-other"}),
        (f"{shorter}-3", "RUNNING", {"run": "elsewhere", "stage": stage_name}),
    )
    work._require_free(run, stage_name, stem, free)
    with pytest.raises(ClusterError, match=f"^{shorter}-1 runs a sweep of this name .*arspm cancel {run}$"):
        work._require_free(run, stage_name, stem, Cluster((f"{shorter}-1", "RUNNING", own)))


# --- before launch


def test_the_estimate_is_from_the_run_s_own_speed(run: str) -> None:
    """24 rows and 2 epochs at the median of 20, 40 and 60 clips/s over two workers: 48 / 20 s a trial."""
    _, sweep = plan(run, "loss_weights", Options(num_trials=9, scheduler="none"), {})
    lines = work.estimate(run, sweep, 4).splitlines()
    assert lines[:3] == [
        "9 trials of 2 epochs, 3 steps each",
        "measured when the run's encoder was trained: 20.0 clips/s a worker, so 2 s a trial",
        f"{3 * 2.4 / 3600:.2f} hours with 4 at once",
    ]
    assert lines[4].split()[:2] == ["node", "type"]
    _, sweep = plan(run, "loss_weights", Options(), {"resources.trial.num_workers": "2"})
    lines = work.estimate(run, sweep, None).splitlines()
    assert lines[0] == "16 trials of 2 epochs, 3 steps each, less what ASHA stops early"
    assert "20.0 clips/s a worker, so 1 s a trial" in lines[1]


def test_without_a_measured_step_there_is_no_estimate(run: str) -> None:
    Path(run, "encoder", stages.SUCCESS).unlink()
    _, sweep = plan(run, "loss_weights", Options(), {})
    with pytest.raises(FileNotFoundError, match="stage encoder is not done"):
        work.estimate(run, sweep, None)


# --- the command line


def test_a_space_of_one_s_own_through_the_command_line(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_space.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert arspm("sweep", "./my_space.py", "--run", run, "--num-trials", 40, "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out.startswith("40 trials of 2 epochs, 3 steps each, less what ASHA stops early\n")
    assert said.err == ""
    assert not Path(run, "sweeps").exists()
    place, sweep = plan(run, "./my_space.py", Options(), {})
    assert place == f"{run}/sweeps/my_space"
    assert list(sweep["space"]) == [
        *("loss.lambda1", "loss.lambda2", "loss.lambda3"),
        *("training.encoder.learning_rate", "speech_encoder.cbam_reduction", "prior.kind+speech_encoder.fusion"),
    ]
    assert "prior.kind+speech_encoder.fusion" not in sweep["paper"]  # the paper's neutral+fc is none of its choices


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say which space to sweep, or --export-best FILE for what a sweep has found"),
        (["los_weights"], "los_weights: there is no such space; there are cbam_ordering, joint, loss_weights"),
        (["./no.py"], "no.py: there is no such file; a space of your own is a local .py file"),
        (["loss_weights", "--log", "excel"], "log: mlflow or wandb, not excel"),
        (["loss_weights", "--set", "seed"], "--set seed: write it as name=value"),
        (["loss_weights", "--scheduler", "hyperband"], "scheduler: asha or none, not hyperband: it pauses trials"),
        (["--export-best", "best.json"], " has no sweep: say which by --name"),
    ],
)
def test_a_wrong_command_is_one_line(run: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert arspm("sweep", *words, "--run", run) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not Path(run, "sweeps").exists()


def test_a_file_that_is_no_space_is_told_in_one_line(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("SPACE = {'loss.lambda1': 3}\n")
    assert arspm("sweep", tmp_path / "bad.py", "--run", run) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/bad.py: loss.lambda1: a domain is LogUniform(")


# --- the best


def leave(place: str, number: int, sample: dict[str, Any], value: float | None, state: str = "finished") -> None:
    space = unpack(sweeps.load(place)["dimensions"])
    record = sweeps.new_record(number, sample, spaces.changes(space, sample), False)
    sweeps.write_record(place, record | {"state": state, "best": value})


def test_the_best_is_written_whole_and_submit_takes_it(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = keep(run, "prior_by_cbam")
    names = ("prior.kind+speech_encoder.fusion", "speech_encoder.cbam", "seed")
    values = [("none", "none", 0), ("neutral", "parallel", 1), ("neutral+fc", "none", 1)]
    for number, (value, angle) in enumerate(zip(values, (40.0, 31.0, 35.0), strict=True)):
        leave(place, number, dict(zip(names, value, strict=True)), angle)
    leave(place, 3, dict(zip(names, values[0], strict=True)), 1.0, "failed")
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 0  # the only sweep needs no name
    said = capsys.readouterr().out
    assert said == f"trial 1, 31, is in {file}; arspm submit --config {file} --run RUN trains it\n"
    expected = override(
        stages.finished_config(run, "decoder"),
        {"prior.kind": "neutral", "speech_encoder.fusion": "sum", "speech_encoder.cbam": "parallel", "seed": 1},
    )
    assert configuration.load(file.read_bytes()) == expected
    assert _settings("paper", str(file), {}, []) == expected
    # It gets as far as the clips, which are not there.
    assert arspm("submit", "--config", file, "--run", run, "--ray-address", "http://127.0.0.1:9") == 1
    assert capsys.readouterr().err == f"error: data.csv: {run}/no.csv does not exist\n"


def test_one_of_several_sweeps_is_named(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        keep(run, name=name)
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run} has the sweeps one,two: say which by --name\n"
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run}/sweeps/two: no trial has a val_cos_degrees yet\n"
    leave(f"{run}/sweeps/two", 0, {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}, 30.0)
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 0
    assert configuration.load(file.read_bytes()).loss.lambda3 == 3.0


def test_the_largest_is_the_best_where_more_is_better(run: str) -> None:
    place, _ = keep(run, mode="max")
    weights = {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}
    for number, value in enumerate((30.0, 50.0, None)):
        leave(place, number, weights | {"loss.lambda1": 1.0 + number}, value)
    record, config = work.best(place)
    assert (record["number"], config.loss.lambda1) == (1, 2.0)
