"""A sweep's job: its samples, its name and command line, and its cost before it starts."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jobs.sweep
from arspm import config as configuration
from arspm import storage
from arspm.runs import stages, sweeps
from cluster.errors import ClusterError
from cluster.graph import Stage, stage_order
from jobs.sweep import is_paper, make_search
from jobs.sweep_cost import estimate
from jobs.sweep_jobs import entrypoint, finished_results, job_names, require_one_driver
from jobs.sweep_options import Options
from jobs.sweep_plan import plan
from tests.jobs.conftest import plan_and_save
from tune_spaces import space as spaces


@pytest.fixture
def run(encoded_run: str) -> str:
    return encoded_run


# --- whether it is done


def test_a_sweep_is_done_with_its_last_trial_or_with_its_target(run: str) -> None:
    folder, sweep = plan_and_save(run)
    assert finished_results(folder, sweep) is None
    for state, planned, best, target, is_done in (
        ("running", 16, 20.0, None, False),
        ("finished", 16, 20.0, None, True),
        ("finished", 15, 20.0, None, False),
        ("interrupted", 16, 20.0, None, False),
        ("stopped", 16, 20.0, None, False),  # goes on
        ("stopped", 16, 20.0, 20.0, True),
        ("interrupted", 16, 20.0, 21.0, True),
        ("stopped", 16, 20.0, 19.0, False),
        ("finished", 16, 20.0, 19.0, True),
    ):
        counts = dict.fromkeys(sweeps.STATES, 0) | {"planned": planned}
        found = {"state": state, "counts": counts, "best": 3, "trials": [{"number": 3, "best": best}]}
        storage.write_json(f"{folder}/results.json", found)
        assert (finished_results(folder, sweep | {"target": target}) is not None) is is_done


@pytest.mark.parametrize(
    ("state", "reason", "status", "line"),
    [
        ("finished", "", 0, ""),
        ("finished", "reached the target 21.0 with trial 7", 0, "reached the target 21.0 with trial 7\n"),
        ("stopped", "reached the target 21.0 with trial 7", 0, "reached the target 21.0 with trial 7\n"),
        ("stopped", "1 trial failed: trial 7: NaN", 1, "error: stopped: 1 trial failed: trial 7: NaN\n"),
        ("interrupted", "", 1, ""),
    ],
)
def test_the_job_ends_with_the_reason_for_which_it_stopped(
    run: str,
    state: str,
    reason: str,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan_and_save(run, target=21.0)
    best = 20.0 if reason.startswith("reached") else 40.0
    found = {"state": state, "reason": reason, "best": 7, "trials": [{"number": 7, "best": best}]}
    found["counts"] = dict.fromkeys(sweeps.STATES, 0) | {"planned": 16}
    monkeypatch.setattr(jobs.sweep, "tune", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["jobs.sweep", "--run", run, "--name", "loss_weights"])
    with pytest.raises(SystemExit) as ended:
        jobs.sweep.main()
    assert ended.value.code == status
    assert capsys.readouterr().out.endswith(line)


def test_limits_may_differ_between_sessions_of_a_sweep(run: str) -> None:
    _, first = plan_and_save(run, target=21.0)
    _, second = plan(run, "loss_weights", Options(max_consecutive_failures=3), {})
    assert second["created"] == first["created"]
    assert (second["target"], second["max_consecutive_failures"]) == (None, 3)


# --- its samples


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_search_starts_with_the_paper_s_values_and_has_them_once(run: str, search: str) -> None:
    _, sweep = plan(run, "joint", Options(search=search, num_trials=12, seed=2), {})
    found = make_search(sweep, spaces.unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(12)]
    assert samples[0] == sweep["paper"]
    assert [is_paper(sweep["paper"], sample) for sample in samples] == [True] + [False] * 11
    base = configuration.from_dict(sweep["config"])
    assert [base.loss.lambda1, base.loss.lambda2, base.loss.lambda3] == list(samples[0].values())[:3]


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_space_without_the_paper_s_values_is_sampled_from_the_start(run: str, tmp_path: Path, search: str) -> None:
    file = tmp_path / "high.py"
    file.write_text(
        "from tune_spaces.space import LogUniform\n"
        'SPACE = {"loss.lambda1": LogUniform(2, 20), "loss.lambda2": LogUniform(0.01, 1)}'
    )
    _, sweep = plan(run, str(file), Options(search=search), {})
    found = make_search(sweep, spaces.unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(16)]
    assert all(2 <= sample["loss.lambda1"] <= 20 for sample in samples)
    assert not any(is_paper(sweep["paper"], sample) for sample in samples)
    assert not is_paper(sweep["paper"], {"loss.lambda1": None, "loss.lambda2": 0.04})


def test_a_random_sample_depends_on_its_number_only(run: str) -> None:
    samples = []
    for num_trials in (5, 9):
        _, sweep = plan(run, "joint", Options(search="random", num_trials=num_trials), {})
        found = make_search(sweep, spaces.unpack(sweep["dimensions"]))
        samples.append([found.suggest(number) for number in range(num_trials)])
    assert samples[1][:5] == samples[0]


def test_a_grid_has_every_combination_and_the_paper_s_with_each_seed(run: str) -> None:
    _, sweep = plan(run, "prior_by_cbam", Options(), {})
    found = make_search(sweep, spaces.unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(50)]
    assert len({tuple(sample.values()) for sample in samples}) == 50
    paper = [sample for sample in samples if is_paper(sweep["paper"], sample)]
    assert [tuple(sample.values()) for sample in paper] == [("neutral+fc", "channel_first", seed) for seed in (0, 1)]


# --- the job


@pytest.mark.parametrize("name", ["loss_weights", "Mine_2.5-B", "a" * 100])
def test_any_sweep_name_gives_a_valid_job_id(run: str, name: str) -> None:
    _, sweep = plan(run, "loss_weights", Options(name=name), {})
    stage_name, stem = job_names(run, sweep)
    command = entrypoint(run, name, ["--log", "mlflow"])
    assert stage_order([Stage(stage_name, (), command)]) == [stage_name]
    assert re.fullmatch(r"[a-z0-9_-]+", stem)
    assert shlex.split(command)[:3] == ["python", "-m", "jobs.sweep"]
    assert ["--name", name] == shlex.split(command)[5:7]


def test_a_job_id_depends_on_the_sweep(run: str) -> None:
    _, sweep = plan_and_save(run)
    _, again = plan(run, "loss_weights", Options(), {})
    assert job_names(run, again) == job_names(run, sweep)
    limits = ({"target": 5.0}, {"max_consecutive_failures": 5}, {"target": 5.0, "max_consecutive_failures": 5})
    stems = {job_names(run, sweep | change)[1] for change in ({}, {"num_trials": 17}, {"created": 1.0}, *limits)}
    assert len(stems) == 6
    earlier = {name: value for name, value in sweep.items() if name not in limits[2]}
    assert job_names(run, earlier) == job_names(run, sweep)  # jobs of an earlier version are found


class Cluster:
    """Stub Jobs API client: only lists jobs."""

    def __init__(self, *jobs: tuple[str, str, dict[str, str]]):
        self._jobs = jobs

    def list_jobs(self) -> list[Any]:
        rest = {"error_type": None, "message": "", "driver_exit_code": None, "end_time": None, "start_time": 1}
        rest["driver_node_id"] = None
        return [
            SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status), metadata=metadata, **rest)
            for name, status, metadata in self._jobs
        ]


def test_a_sweep_has_one_driver(run: str) -> None:
    _, sweep = plan_and_save(run)
    stage_name, stem = job_names(run, sweep)
    own = {"run": run, "stage": stage_name}
    shorter = job_names(run, sweep | {"num_trials": 8})[1]
    free = Cluster(
        (f"{stem}-1", "RUNNING", own),  # attached to
        (f"{shorter}-1", "SUCCEEDED", own),
        (f"{shorter}-2", "RUNNING", {"run": run, "stage": "sweep-other"}),
        (f"{shorter}-3", "RUNNING", {"run": "elsewhere", "stage": stage_name}),
    )
    require_one_driver(run, stage_name, stem, free)
    with pytest.raises(
        ClusterError, match=f"^{shorter}-1 runs a sweep of this name .*arspm cancel {run} --stage {stage_name}`$"
    ):
        require_one_driver(run, stage_name, stem, Cluster((f"{shorter}-1", "RUNNING", own)))


# --- the estimate


def test_the_estimate_uses_the_throughput_of_the_run_s_encoder(run: str) -> None:
    """24 rows and 2 epochs at the median of 20, 40 and 60 clips/s of two workers: 48 / 20 s per trial."""
    _, sweep = plan(run, "loss_weights", Options(num_trials=9, scheduler="none"), {})
    lines = estimate(run, sweep, 4).splitlines()
    assert lines[:3] == [
        "9 trials of 2 epochs, 3 steps each",
        "throughput of the run's encoder: 20.0 clips/s per worker, so 2 s per trial",
        f"{3 * 2.4 / 3600:.2f} hours with 4 concurrent trials",
    ]
    assert lines[4].split()[:2] == ["node", "type"]
    _, sweep = plan(run, "loss_weights", Options(), {"resources.trial.num_workers": "2"})
    lines = estimate(run, sweep, None).splitlines()
    assert lines[0] == "16 trials of 2 epochs, 3 steps each, fewer where ASHA stops a trial"
    assert "20.0 clips/s per worker, so 1 s per trial" in lines[1]


def test_without_a_trained_encoder_there_is_no_estimate(run: str) -> None:
    Path(run, "encoder", stages.SUCCESS).unlink()
    _, sweep = plan(run, "loss_weights", Options(), {})
    with pytest.raises(FileNotFoundError, match="stage encoder is not done"):
        estimate(run, sweep, None)
