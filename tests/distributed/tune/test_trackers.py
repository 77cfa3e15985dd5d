"""Runs in MLflow and Weights & Biases end as their trials do. The real ones need the extras `mlflow` and `wandb`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm.distributed.tune import tuning
from arspm.distributed.tune.trial import FAILURE
from tests.distributed.tune.ledger_session import Session
from tests.distributed.tune.sweep_records import METRIC

ENDS = {0: "finished", 1: "reported a failure", 2: "error", 3: "interrupted", 4: "never started", 5: "unmeasured"}


class Trial:
    """As much of a Tune trial as the callbacks read."""

    def __init__(self, number: int, local_path: str = ""):
        self.config, self.trial_id, self.local_path = {"number": number}, f"t{number}", local_path
        self.experiment_dir_name = "tune"

    def __str__(self) -> str:
        return f"{self.config['number']:05d}"

    def get_error(self) -> Exception:
        return RuntimeError("the node was lost")


def run_trials(callbacks: list[Any], trials: Mapping[int, Any]) -> None:
    """Call the callbacks as Tune does for trials that end as ENDS says."""

    def call(name: str, number: int, **info: Any) -> None:
        for callback in callbacks:
            getattr(callback, f"on_trial_{name}")(iteration=1, trials=[], trial=trials[number], **info)

    for callback in callbacks:
        callback.setup()
    for number, end in ENDS.items():
        if end != "never started":
            call("start", number)
            figures = {"val_other" if end == "unmeasured" else METRIC: 30.0}
            call("result", number, result={"epoch": 1, "training_iteration": 1, **figures})
        if end == "reported a failure":
            call("result", number, result={FAILURE: "NonFiniteLoss", "training_iteration": 2})
        if end in ("error", "never started"):
            call("error", number)
        elif end != "interrupted":
            call("complete", number)
    for callback in callbacks:
        callback.on_experiment_end(trials=list(trials.values()))


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session(str(tmp_path / "sweep"), monkeypatch, num_trials=len(ENDS))
    for number in ENDS:
        session.add(number)
    return session


MLFLOW_STATES = {0: "FINISHED", 1: "FAILED", 2: "FAILED", 3: "KILLED", 5: "FAILED"}


def test_the_callback_for_mlflow_ends_runs_as_their_trials_do(tune: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MLflow: what the callback asks Ray's layer over MLflow to do."""
    ended: dict[int, str] = {}

    class Layer:
        def start_run(self, run_name: str, **_: Any) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

        def end_run(self, run_id: str, status: str) -> None:
            assert ended.setdefault(int(run_id), status) == status

        setup_mlflow = log_params = log_metrics = lambda self, **_: None

    monkeypatch.setattr("ray.air.integrations.mlflow._MLflowLoggerUtil", Layer)
    run_trials([tune.ledger, *tuning.trackers(["mlflow"], tune.ledger)], {number: Trial(number) for number in ENDS})
    assert dict(sorted(ended.items())) == MLFLOW_STATES


@pytest.mark.filterwarnings("ignore")  # of MLflow and its database
def test_runs_in_mlflow_end_as_their_trials_do(tune: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs arspm[mlflow]")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run_trials([tune.ledger, *tuning.trackers(["mlflow"], tune.ledger)], {number: Trial(number) for number in ENDS})
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("arspm-one")
    runs = {int(run.data.tags["trial_name"]): run for run in client.search_runs([experiment.experiment_id])}
    assert {number: run.info.status for number, run in sorted(runs.items())} == MLFLOW_STATES
    assert runs[0].data.metrics[METRIC] == 30.0


def exit_codes(folder: Path) -> Iterator[int]:
    """Return the exit codes in the files that W&B writes offline, and would upload.

    Such a file is a log of LevelDB after a header of 7 bytes: each record has its checksum, its length in two bytes and
    its type, and none of these is split between two blocks of 32 KiB.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        data = path.read_bytes()
        assert len(data) < 32768
        at = 7
        while at < len(data):
            length = int.from_bytes(data[at + 4 : at + 6], "little")
            record = Record.FromString(data[at + 7 : at + 7 + length])
            if record.WhichOneof("record_type") == "exit":
                yield record.exit.exit_code
            at += 7 + length


@pytest.mark.ray
@pytest.mark.slow
def test_runs_in_wandb_end_as_their_trials_do(
    driver: None, tune: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs arspm[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    trials = {number: Trial(number, str(tmp_path / f"trial{number}")) for number in ENDS}
    for trial in trials.values():
        Path(trial.local_path).mkdir()
    [callback] = tuning.trackers(["wandb"], tune.ledger)
    callback.kwargs["mode"] = "offline"  # the environment of the logging actors is the head's
    run_trials([tune.ledger, callback], trials)
    assert {number: list(exit_codes(Path(trial.local_path))) for number, trial in trials.items()} == {
        0: [0],
        1: [1],
        2: [1],
        3: [1],
        4: [],
        5: [1],
    }
