"""Keep a sweep's folder up to date while Ray Tune runs it: the trials' records, the results and the page."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from arspm import storage
from arspm.config import Config, override
from arspm.distributed.memory import killed_for_memory
from arspm.distributed.tune.tensorboard import write_events
from arspm.distributed.tune.trial import FAILURE, STOPPED
from arspm.evaluation.importance import importance
from arspm.report.sweep_page import write_sweep
from arspm.runs import stop_requests, sweep_curves, sweeps
from arspm.runs.progress import print_progress

log = logging.getLogger(__name__)

UPDATE_SECONDS = 15.0  # at least, between two updates of the page
MAX_UPDATE_FRACTION = 0.05  # of the time that updating the page may take
PAGE_SECONDS = 60.0  # at least, between two writes of index.html, which is much larger than the other files
PAGE_FRACTION = 0.1  # of the session's time: between two writes of index.html it grows by this
STOP_SECONDS = 10.0  # between two looks for requests to stop a trial
RECORD_SECONDS = 15.0  # at least, between two writes of a running trial's record
RECORDS_PER_SECOND = 1.0  # of all running trials together
IMPORTANCE_GROWTH = 1.1  # in the number of ended trials, before the importance is computed again: 0.6 s for 1,000
OTHER_FIGURES = ("epoch", "step", "learning_rate", "clips_per_second", "data_wait", "epoch_seconds")


class Ledger(tune.Callback):
    """Writes each trial's record when Tune reports on it, and updates the sweep's results and page."""

    def __init__(self, folder: str, sweep: Mapping[str, Any], config: Config):
        self.folder, self.sweep, self._config = folder, sweep, config
        self.records = sweeps.read_records(folder)
        self._stops = stop_requests.requested(folder)  # numbers of the trials that the user has stopped
        self._stops_read = time.time()
        for record in self.records.values():
            if record["state"] not in sweeps.ENDED:
                record["state"] = "interrupted"
        earlier = storage.join(folder, sweeps.RESULTS)
        self._spent_before = storage.read_json(earlier)["spent_seconds"] if storage.exists(earlier) else 0.0
        self._session_start = time.time()
        self._attempts: dict[int, tuple[float, float]] = {}  # number -> start of this attempt, seconds spent before it
        self._written: dict[int, float] = {}  # number -> time of the record's last write
        self._updated, self._update_seconds, self._changed = 0.0, 0.0, True
        self._page_written = 0.0
        self._importance: tuple[int, dict[str, Any] | None] = (0, None)
        self._pictured: set[int] = set()  # numbers of the trials whose portraits have been found
        self._failures = 0  # one after another, in this session
        self._failed = False  # whether they stopped the sweep
        # Why the sweep stops before its last trial, or an empty text. Its stopper (`stopping`) reads this.
        self.reason = sweeps.target_reached(sweeps.best(self.records.values(), sweep["mode"]), sweep)
        for record in self.records.values():
            if record["state"] == "interrupted" and self.is_to_stop(record["number"]):
                record |= {"reason": stop_requests.REASON}
                self._end(record, "stopped")

    def is_to_stop(self, number: int) -> bool:
        """Return whether the user has asked to stop a trial."""
        return number in self._stops

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record, now = self._record(trial), time.time()
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
        self._attempts[record["number"]] = now, record["seconds"]
        self._write(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        self._count_seconds(record)
        if FAILURE in result:
            record["reason"] = result[FAILURE]
        elif STOPPED in result:
            self._stops.add(record["number"])  # the trial may see the request first
        elif self.sweep["metric"] in result:
            figures = {name: value for name, value in result.items() if _is_figure(name)}
            sweeps.add_epoch(record, figures | {"seconds": record["seconds"]}, self.sweep["metric"], self.sweep["mode"])
            self.reason = self.reason or sweeps.target_reached(record, self.sweep)
        elif "epoch" in result:
            measured = ", ".join(name for name in result if _is_figure(name))
            record["reason"] = f"{self.sweep['metric']} was not measured; measured were {measured}"
        self._changed = True
        num_running = sum(each["state"] == "running" for each in self.records.values())
        wait = max(RECORD_SECONDS, num_running / RECORDS_PER_SECOND)
        if time.time() - self._written.get(record["number"], 0.0) > wait:
            self._write(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        planned = record["changes"].get("training.encoder.epochs", self.sweep["epochs"])
        complete = bool(record["epochs"]) and record["epochs"][-1]["epoch"] >= planned
        if self.is_to_stop(record["number"]) and not complete and not record["reason"]:
            record["reason"] = stop_requests.REASON
            self._end(record, "stopped")
            return
        self._end(record, "failed" if record["reason"] else "finished" if complete else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        error: Exception | None = trial.get_error()
        if error is not None:
            error = killed_for_memory(error, "trial") or error
        lines = [line for line in str(error).splitlines() if line.strip()]
        record["reason"] = lines[-1].strip() if lines else "its process ended without an error message"
        self._end(record, "failed")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        self._count_seconds(record)
        self._attempts.pop(record["number"], None)  # until the next attempt starts, no time is counted
        log.warning("trial %d lost its process: retrying it", trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.time() - self._stops_read > STOP_SECONDS:
            self._stops, self._stops_read = stop_requests.requested(self.folder), time.time()
        since = time.time() - self._updated
        if self._changed and since > UPDATE_SECONDS and self._update_seconds < MAX_UPDATE_FRACTION * since:
            self._update("running")

    def close(self) -> dict[str, Any]:
        """Write and return the final results. Call it once no trial runs. A trial that never started stays waiting."""
        for record in self.records.values():
            if record["state"] not in (*sweeps.ENDED, "waiting"):
                if record["state"] == "running":
                    self._count_seconds(record)
                record["state"] = "interrupted"
                self._write(record)
        if self._num_ended() >= self.sweep["num_trials"] and not self._failed:
            return self._update("finished")
        return self._update("stopped" if self.reason else "interrupted")

    def _num_ended(self) -> int:
        return sum(record["state"] in sweeps.ENDED for record in self.records.values())

    def _record(self, trial: Trial) -> sweeps.Record:
        return self.records[trial.config["number"]]

    def _count_seconds(self, record: sweeps.Record) -> None:
        start, before = self._attempts.get(record["number"], (time.time(), record["seconds"]))
        record["seconds"] = before + time.time() - start

    def _end(self, record: sweeps.Record, state: str) -> None:
        self._count_seconds(record)
        record |= {"state": state, "ended": time.time()}
        self._write(record)
        if self.is_to_stop(record["number"]):
            stop_requests.remove(self.folder, record["number"])
        write_events(self.folder, record, self.sweep["metric"])
        storage.remove(storage.join(self.folder, sweeps.stem(record["number"])))  # its checkpoints
        self._count_failures(record)
        best = sweeps.best(self.records.values(), self.sweep["mode"])
        text = "" if best is None else f"best {self.sweep['metric']} {best['best']:.4g} in trial {best['number']}"
        print_progress(self._num_ended(), self.sweep["num_trials"], "trials", text)
        self._changed = True

    def _count_failures(self, record: sweeps.Record) -> None:
        self._failures = self._failures + 1 if record["state"] == "failed" else 0
        if self._failures == self.sweep.get("max_consecutive_failures") and not self.reason:
            several = f"{self._failures} trials failed one after another; the last"
            what = several if self._failures > 1 else "1 trial failed"
            self.reason = f"{what}: trial {record['number']}: {record['reason']}"
            self._failed = True

    def _write(self, record: sweeps.Record) -> None:
        sweeps.write_record(self.folder, record)
        self._written[record["number"]] = time.time()

    def _update(self, state: str) -> dict[str, Any]:
        """Write the results and the curves, rarely also the page, and return the results."""
        now = time.time()
        is_last = state != "running"
        since_page, session = now - self._page_written, now - self._session_start
        page = is_last or not self._page_written or since_page >= max(PAGE_SECONDS, PAGE_FRACTION * session)
        for record in self.records.values():
            if record["state"] == "running":
                self._count_seconds(record)
        records = [self.records[number] for number in sorted(self.records)]
        num_ended = self._num_ended()
        if num_ended > self._importance[0] * (1.0 if is_last else IMPORTANCE_GROWTH):
            self._importance = num_ended, importance(records, self.sweep["space"], mode=self.sweep["mode"])
        best = sweeps.best(records, self.sweep["mode"])
        results = sweeps.results(
            self.sweep,
            records,
            state=state,
            reason=self.reason,
            updated=now,
            spent_seconds=self._spent_before + now - self._session_start,
            importance=self._importance[1],
            pictures=sweeps.pictures(self.folder, records, self.sweep["mode"], self._pictured),
            config_of_best=None if best is None else override(self._config, best["changes"]).model_dump(mode="json"),
        )
        started = [record for record in records if record["state"] != "waiting"]
        curves = sweep_curves.curves(started, self.sweep["metric"], now)
        write_sweep(self.folder, results, curves, page=page)
        if page:
            self._page_written = time.time()
        self._updated, self._update_seconds, self._changed = time.time(), time.time() - now, False
        return results


def _is_figure(name: str) -> bool:
    """Whether the training loop measured this figure: Tune adds a dozen of its own."""
    return name.startswith(("val_", "train_")) or name in OTHER_FIGURES
