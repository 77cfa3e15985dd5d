"""A sweep as an Optuna journal: opened with Optuna itself, and compared with the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from arspm.runs import optuna_journal
from tests.report import many_trials, swept


def opened(path: Path, content: bytes) -> optuna.Study:
    path.write_bytes(content)
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))


def by_number(results: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {trial["number"]: trial for trial in results["trials"]}


def test_optuna_reads_values_parameters_states_and_epochs(tmp_path: Path) -> None:
    results = swept.loss_weights(30, running=True)
    results["trials"][7]["epochs"][1][swept.METRIC] = None  # was NaN
    records = by_number(results)
    study = opened(tmp_path / "trials.log", optuna_journal.journal(results["sweep"], records))
    assert study.study_name == "demo/loss_weights"
    assert study.direction.name == "MINIMIZE"
    assert study.user_attrs["metric"] == swept.METRIC
    assert len(study.trials) == 30
    finished = [trial for trial in results["trials"] if trial["state"] == "finished"]
    assert study.best_trial.number == min(finished, key=lambda trial: trial["best"])["number"]
    for trial in study.trials:
        record = records[trial.number]
        assert (
            trial.state
            == {
                "finished": TrialState.COMPLETE,
                "stopped": TrialState.PRUNED,
                "failed": TrialState.FAIL,
                "running": TrialState.RUNNING,
            }[record["state"]]
        )
        assert trial.value == (record["best"] if record["state"] in ("finished", "stopped") else None)
        assert trial.params == pytest.approx(record["sample"], rel=1e-12)
        assert trial.intermediate_values == {
            epoch["epoch"]: epoch[swept.METRIC] for epoch in record["epochs"] if epoch[swept.METRIC] is not None
        }
        assert trial.user_attrs["state"] == record["state"]
        assert trial.user_attrs["reason"] == record["reason"]
        assert trial.datetime_start.timestamp() == pytest.approx(record["started"])
        if record["state"] != "running":
            assert trial.datetime_complete.timestamp() == pytest.approx(record["ended"])
    assert study.trials[0].user_attrs["val_l2 at the best epoch"] == next(
        epoch["val_l2"] for epoch in records[0]["epochs"] if epoch["epoch"] == records[0]["best_epoch"]
    )


def test_choices_keep_their_labels_and_the_study_can_be_continued(tmp_path: Path) -> None:
    results = swept.variants()
    results["sweep"]["mode"] = "max"
    study = opened(tmp_path / "trials.log", optuna_journal.journal(results["sweep"], by_number(results)))
    assert [trial.params for trial in study.trials] == [trial["sample"] for trial in results["trials"]]
    assert study.best_value == max(trial["best"] for trial in results["trials"])
    assert set(study.ask(study.trials[0].distributions).params) == set(results["sweep"]["space"])


def test_unusual_records_become_trials_that_optuna_accepts(tmp_path: Path) -> None:
    results = swept.loss_weights(8)
    records = by_number(results)
    del records[3]  # not started, though a later one is
    records[4] |= {"state": "interrupted", "ended": None}
    records[6] |= {"state": "finished", "best": None, "best_epoch": None, "epochs": []}
    records[7]["sample"] |= {"loss.lambda1": 1e9}  # of an earlier space
    study = opened(tmp_path / "trials.log", optuna_journal.journal(results["sweep"], records))
    states = [trial.state for trial in study.trials]
    assert [trial.number for trial in study.trials] == list(range(8))
    assert (states[3], study.trials[3].params) == (TrialState.WAITING, {})
    assert states[4] == TrialState.WAITING
    assert (states[6], study.trials[6].value) == (TrialState.FAIL, None)
    assert "loss.lambda1" not in study.trials[7].params
    assert optuna_journal.journal(results["sweep"], {}).count(b"\n") > 0


def test_a_thousand_trials_fit_into_a_few_megabytes(tmp_path: Path) -> None:
    records = many_trials.records(1000, 50)
    content = optuna_journal.journal(many_trials.sweep(), records)
    assert len(content) < 4_000_000
    assert len(opened(tmp_path / "trials.log", content).trials[999].intermediate_values) == 50
