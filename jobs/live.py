"""Keep a run's live page up to date while its chain runs: `live.json`, and `report/index.html` until the report.

Best effort: a thread reads and writes, so the chain never waits for it, and a failure is logged once and ends nothing.
A run whose report is done keeps that page until the new report replaces it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from arspm.config import TRAINED_STAGES, Config
from arspm.runs import drivers, live, stages
from arspm.runs.provenance import versions
from arspm.storage.retries import first_line
from cluster import events
from jobs.console import progress_text

UPDATE_SECONDS = 5.0  # between two writes of live.json
FIRST_SECONDS = 0.5  # after an event, so that several events are one write
PAGE_SECONDS, PAGE_FRACTION = 60.0, 0.1  # between two writes of the page: at least, and of the time since the start
CLOSE_SECONDS = 20.0  # that the end of the chain waits for the last write

log = logging.getLogger(__name__)


class LivePage:
    """The state of a chain, which a thread writes. `how`: set it to how the chain ended, as in `drivers.Ending`."""

    def __init__(self, config: Config, run: str, planned: Collection[str], is_lost: Callable[[], bool]) -> None:
        """Arguments as of `live_page`."""
        self.how = ""
        self._config, self._run, self._is_lost = config, run, is_lost
        blank = {"reason": "", "seconds": None, "started": None, "fraction": None, "text": ""}
        self._rows: dict[str, dict[str, Any]] = {
            name: {"name": name, "state": "waiting" if name in planned else "left", **blank} for name in stages.STAGES
        }
        self._started = time.time()
        self._lock = threading.Lock()  # of the rows
        self._page_lock = threading.Lock()  # held while the page is written
        self._is_ours = True  # whether this program may write the page: not while or after the report does
        self._page_is_due, self._page_written = True, 0.0
        self._version = ""
        self._done: dict[str, stages.Success] = {}
        self._trainings: dict[str, dict[str, Any]] = {}  # of stages that are done
        self._wake, self._closing, self._is_broken = threading.Event(), False, False
        self._thread = threading.Thread(target=self._write_until_closed, name="live-page", daemon=True)

    def start(self) -> None:
        self._is_ours = not self._has_report()
        self._thread.start()

    def close(self) -> None:
        """Write the final state, and the page if there is no report."""
        with self._page_lock:
            self._is_ours = not self._has_report()
        self._closing = self._page_is_due = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def on_event(self, event: events.Event) -> None:
        """Note an event of the chain."""
        if event.stage not in self._rows:
            return
        if event.stage == "report" and isinstance(event, events.Queued):
            with self._page_lock:  # its job is submitted next
                self._is_ours = False
        with self._lock:
            row = self._rows[event.stage]
            row |= _changes(event)
        if not isinstance(event, events.StageProgress | events.LogLine):
            self._page_is_due = self._page_is_due or row["state"] not in ("queued", "running")
            self._wake.set()

    def _has_report(self) -> bool:
        try:
            return stages.success(self._run, "report") is not None
        except Exception as error:  # an invalid manifest, or storage that does not answer: leave the page alone
            self._warn(error)
            return True

    # In the thread:

    def _write_until_closed(self) -> None:
        self._version = versions().get("arspm", "")
        while not self._closing:
            try:
                self._write()
            except Exception as error:
                self._warn(error)
            if self._wake.wait(UPDATE_SECONDS) and not self._closing:
                time.sleep(FIRST_SECONDS)
            self._wake.clear()
        with contextlib.suppress(Exception):
            self._write()

    def _write(self) -> None:
        from arspm.report import live_page  # slow to import, and only the thread needs it

        if self._is_lost():
            return
        is_due, self._page_is_due = self._page_is_due, False
        with self._lock:
            rows = copy.deepcopy([*self._rows.values()])
        state = self._described(rows)
        live_page.write_state(self._run, state)
        now = time.time()
        if is_due or now - self._page_written > max(PAGE_SECONDS, PAGE_FRACTION * (now - self._started)):
            with self._page_lock:
                if self._is_ours:
                    live_page.write_page(self._run, state)
                    self._page_written = now

    def _described(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the content of live.json."""
        from arspm.report import live_page

        for row in rows:
            if row["state"] in ("done", "reused") and (done := self._manifest(row["name"])) is not None:
                row["seconds"] = done.seconds
        prepared = self._done.get("preprocess")
        state, _, reason = self.how.partition(": ") if self._closing else ("running", "", "")
        if state == "stopped":
            reason = "The chain was stopped. Run the same command again to resume."
        return {
            "run": self._run.rsplit("/", 1)[-1],
            "preset": self._config.preset,
            "seed": self._config.seed,
            "version": self._version,
            "state": state,
            "reason": reason,
            "started": self._started,
            "updated": time.time(),
            "stages": rows,
            "corpus": None if prepared is None else live_page.corpus(prepared.figures),
            "trainings": [
                found for row in rows if row["name"] in TRAINED_STAGES and (found := self._training(row)) is not None
            ],
        }

    def _manifest(self, name: str) -> stages.Success | None:
        if name not in self._done and (done := stages.success(self._run, name)) is not None:
            self._done[name] = done
        return self._done.get(name)

    def _training(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the page shows of a training, read again until it is done. None if there is nothing to show."""
        from arspm.report import live_page

        name = row["name"]
        if row["state"] in ("waiting", "left", "queued", "skipped"):
            return None
        if name not in self._trainings:
            done = self._done.get(name)
            epochs = getattr(self._config.training, name).epochs
            try:
                found = live_page.training(self._run, name, live.read_training(self._run, name), done, epochs)
            except (ValueError, FileNotFoundError) as error:  # an invalid file, or one that was just removed
                self._warn(error)
                return None
            if done is None or found is None:
                return found
            self._trainings[name] = found
        return self._trainings[name]

    def _warn(self, error: Exception) -> None:
        if not self._is_broken:
            log.warning("%s: the run's live page is not up to date: %s", self._run, first_line(error))
        self._is_broken = True


@contextlib.contextmanager
def live_page(
    config: Config, run: str, planned: Collection[str], pending: Collection[str], is_lost: Callable[[], bool]
) -> Iterator[LivePage]:
    """Keep the live page up to date during the block. Set its `how` before the block ends.

    planned: the stages that the chain was asked for. pending: those that are not done; without any, nothing is written.
    is_lost: whether another driver has taken over the run.
    """
    page = LivePage(config, run, planned, is_lost)
    if pending:
        page.start()
    try:
        yield page
    except BaseException as error:
        page.how = drivers.how_of(error)
        raise
    finally:
        page.how = page.how or drivers.FINISHED
        if pending:
            page.close()


def _changes(event: events.Event) -> dict[str, Any]:
    """Return what an event changes in its stage's row."""
    over: dict[str, Any] = {"fraction": None, "text": "", "reason": ""}
    match event:
        case events.Queued():
            return over | {"state": "queued", "started": None}
        case events.Started():
            return over | {"state": "running", "started": event.time}
        case events.StageProgress(current=current, total=total):
            fraction = min(1.0, max(0.0, current / total)) if total else None
            return {"fraction": fraction, "text": progress_text(event)}
        case events.Reused():
            return over | {"state": "reused"}
        case events.Finished(seconds=seconds):
            return over | {"state": "done", "seconds": seconds}
        case events.Failed(error=error, seconds=seconds):
            return over | {"state": "failed", "reason": _text(event, error), "seconds": seconds}
        case events.Skipped(reason=reason):
            return over | {"state": "skipped", "reason": reason.partition(":")[0]}
        case events.Retry(error=error, retry=retry, max_retries=most):
            return over | {
                "state": "queued",
                "started": None,
                "text": f"{_text(event, error)}; retry {retry} of {most}",
            }
        case events.Cancelled(reason=reason):
            return over | {"state": "stopped", "reason": reason}
        case events.Warned(text=text):
            return {"text": text}
    return {}


def _text(event: events.Event, error: str) -> str:
    return error.removeprefix("error: ").removeprefix(f"{event.stage}: ")
