"""A sweep's folder while Ray Tune runs it: what Tune tells of the trials becomes records, results and page."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from arspm import storage
from arspm.config import Config, override
from arspm.distributed.tune.tensorboard import write_events
from arspm.distributed.tune.trial import FAILURE
from arspm.evaluation.importance import importance
from arspm.report.sweep import write_sweep
from arspm.runs import sweeps
from arspm.runs.progress import progress

log = logging.getLogger(__name__)

RENEW_SECONDS = 15.0  # between two renewals of the page, at least
RENEW_SHARE = 0.05  # of the time, at most, that renewing it may take
RECORD_SECONDS = 15.0  # between two writes of a running trial's record
OTHER_FIGURES = ("epoch", "step", "learning_rate", "clips_per_second", "data_wait", "epoch_seconds")


class Ledger(tune.Callback):
    """Writes each trial's record as Tune tells of it, and renews the sweep's results and page."""

    def __init__(self, place: str, sweep: Mapping[str, Any], config: Config):
        self.place, self.sweep, self._config = place, sweep, config
        self.records = sweeps.read_records(place)
        for record in self.records.values():
            if record["state"] not in sweeps.ENDED:
                record["state"] = "interrupted"
        earlier = storage.join(place, sweeps.RESULTS)
        self._spent_before = storage.read_json(earlier)["spent_seconds"] if storage.exists(earlier) else 0.0
        self._begun = time.time()
        self._began: dict[int, tuple[float, float]] = {}  # number -> when this attempt began, seconds before it
        self._written: dict[int, float] = {}
        self._renewed, self._took, self._changed = 0.0, 0.0, True
        self._importance: tuple[int, dict[str, Any] | None] = (0, None)
        self._pictures: tuple[int, dict[str, Any]] = (-1, {"real": None, "trials": {}})

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record, now = self._of(trial), time.time()
        workers = self._config.resources.trial
        record |= {
            "state": "running",
            "reason": "",
            "started": record["started"] or now,
            "ended": None,
            "cpus": workers.num_workers * workers.cpus,
            "gpus": workers.num_workers * workers.gpus,
            "attempts": record["attempts"] + 1,
        }
        self._began[record["number"]] = now, record["seconds"]
        self._write(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._of(trial)
        self._clock(record)
        if FAILURE in result:
            record["reason"] = result[FAILURE]
        elif self.sweep["metric"] in result:
            figures = {name: value for name, value in result.items() if _is_figure(name)}
            sweeps.add_epoch(record, figures | {"seconds": record["seconds"]}, self.sweep["metric"], self.sweep["mode"])
        elif "epoch" in result:
            known = ", ".join(name for name in result if _is_figure(name))
            record["reason"] = f"{self.sweep['metric']} was not measured; there are {known}"
        self._changed = True
        if time.time() - self._written.get(record["number"], 0.0) > RECORD_SECONDS:
            self._write(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        wanted = record["changes"].get("training.encoder.epochs", self.sweep["epochs"])
        whole = bool(record["epochs"]) and record["epochs"][-1]["epoch"] >= wanted
        self._end(record, "failed" if record["reason"] else "finished" if whole else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        error = trial.get_error()
        lines = [line for line in str(error).splitlines() if line.strip()]
        record["reason"] = lines[-1].strip() if lines else "its process ended without a word"
        self._end(record, "failed")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._of(trial)
        self._clock(record)
        self._began.pop(record["number"], None)  # until it begins again it spends nothing
        log.warning("trial %d lost its process; it is tried again", trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        since = time.time() - self._renewed
        if self._changed and since > RENEW_SECONDS and self._took < RENEW_SHARE * since:
            self._renew("running")

    def close(self) -> dict[str, Any]:
        """The last results, once no trial runs any more. One that Tune had not begun waits for the next session."""
        for record in self.records.values():
            if record["state"] not in (*sweeps.ENDED, "waiting"):
                if record["state"] == "running":
                    self._clock(record)
                record["state"] = "interrupted"
                self._write(record)
        whole = sum(record["state"] in sweeps.ENDED for record in self.records.values()) >= self.sweep["num_trials"]
        return self._renew("finished" if whole else "interrupted")

    def _of(self, trial: Trial) -> sweeps.Record:
        return self.records[trial.config["number"]]

    def _clock(self, record: sweeps.Record) -> None:
        began, before = self._began.get(record["number"], (time.time(), record["seconds"]))
        record["seconds"] = before + time.time() - began

    def _end(self, record: sweeps.Record, state: str) -> None:
        self._clock(record)
        record |= {"state": state, "ended": time.time()}
        self._write(record)
        write_events(self.place, record, self.sweep["metric"])
        storage.remove(storage.join(self.place, sweeps.stem(record["number"])))  # its checkpoints
        done = sum(each["state"] in sweeps.ENDED for each in self.records.values())
        best = sweeps.best(self.records.values(), self.sweep["mode"])
        told = "" if best is None else f"best {self.sweep['metric']} {best['best']:.4g} in trial {best['number']}"
        progress(done, self.sweep["num_trials"], "trials", told)
        self._changed = True

    def _write(self, record: sweeps.Record) -> None:
        sweeps.write_record(self.place, record)
        self._written[record["number"]] = time.time()

    def _renew(self, state: str) -> dict[str, Any]:
        begun = time.time()
        for record in self.records.values():
            if record["state"] == "running":
                self._clock(record)
        records = [self.records[number] for number in sorted(self.records)]
        ended = sum(record["state"] in sweeps.ENDED for record in records)
        if self._importance[0] != ended:
            self._importance = ended, importance(records, self.sweep["space"], mode=self.sweep["mode"])
        if self._pictures[0] != ended:
            self._pictures = ended, sweeps.read_pictures(self.place, records, self.sweep["mode"])
        best = sweeps.best(records, self.sweep["mode"])
        found = sweeps.results(
            self.sweep,
            records,
            state=state,
            updated=begun,
            spent_seconds=self._spent_before + begun - self._begun,
            importance=self._importance[1],
            pictures=self._pictures[1],
            config_of_best=None if best is None else override(self._config, best["changes"]).model_dump(mode="json"),
        )
        write_sweep(self.place, found)
        self._renewed, self._took, self._changed = time.time(), time.time() - begun, False
        return found


def _is_figure(name: str) -> bool:
    """Whether the training loop measured it: Tune adds a dozen figures of its own."""
    return name.startswith(("val_", "train_")) or name in OTHER_FIGURES
