"""A run whose chain is shown live: its folder grows from that of a finished run, and the test makes its events."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arspm import storage
from arspm.config import Config
from arspm.config.presets import PRESETS
from arspm.report.run_page import write_report
from arspm.runs import live, stages
from cluster import events
from jobs import live as driving
from tests.report.finished_run import Run, write_run
from tests.report.measured import picture


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(0.02)


class LiveRun:
    """Its `page` is that of a chain's driver; `finished` is the run that it becomes."""

    def __init__(self, folder: Path, planned: tuple[str, ...] = tuple(stages.STAGES), **options: Any) -> None:
        self.finished: Run = write_run(folder / "finished", **options)
        self.folder = folder / "runs" / "one"
        self.folder.mkdir(parents=True)
        self.config: Config = self.finished.config
        self.page = driving.LivePage(self.config, str(self.folder), planned, lambda: False)

    @property
    def uri(self) -> str:
        return str(self.folder)

    def begin(self, *names: str) -> None:
        for name in names:
            self.page.on_event(events.Queued(stage=name))
            self.page.on_event(events.Started(stage=name, submission_id=f"{name}-1"))

    def finish(self, *names: str) -> None:
        """Write what the stages write, and tell the page that they have finished."""
        for name in names:
            for part in (name, *((stages.CORPUS,) if name == "preprocess" else ())):
                shutil.copytree(Path(self.finished.uri, part), self.folder / part, dirs_exist_ok=True)
            if name == "preprocess":
                manifest = storage.read_json(f"{self.uri}/{name}/{stages.SUCCESS}")
                manifest["figures"] = storage.read_json(f"{self.uri}/corpus/manifest.json")
                storage.write_json(f"{self.uri}/{name}/{stages.SUCCESS}", manifest)
            self.page.on_event(events.Finished(stage=name, seconds=3.0, submission_id=f"{name}-1"))

    def report(self) -> None:
        """Do what the stage report does, and tell the page that it has finished."""
        self.begin("report")
        files, figures = write_report(self.config, self.uri, PRESETS[self.config.preset])
        stages.commit(
            self.uri, "report", fingerprint="f" * 64, config=self.config, files=files, seconds=2.0, figures=figures
        )
        self.page.on_event(events.Finished(stage="report", seconds=2.0, submission_id="report-1"))

    def train(self, stage: str, num_epochs: int, of: int = 8) -> None:
        """Write a training's live files after some epochs and half of the next, and tell the page how far it is."""
        history = self.finished.histories[stage]
        epochs = [history["epochs"][k % 3] | {"epoch": k + 1, "step": 10 * (k + 1)} for k in range(num_epochs)]
        step = 10 * num_epochs + 5
        training = live.Training(
            epochs=[stages.Epoch(**epoch) for epoch in epochs],
            losses=[(each, 3.0 / each) for each in range(1, step + 1)],
            best_epoch=min(2, num_epochs) or None,
            step=step,
            num_epochs=of,
            num_steps=10,
            pictures=list(range(1, num_epochs + 1)) if stage in live.DRAWN_STAGES else [],
            clips=["abc_0.0_3.0", "def_1.0_4.5"],
            updated=time.time(),
        )
        for epoch in training.pictures:
            picture(f"{self.uri}/{stage}/{live.picture(epoch)}", 20 * epoch + 40)
        picture(f"{self.uri}/{stage}/{live.REAL}", 200)
        storage.write_bytes(f"{self.uri}/{stage}/{live.FILE}", training.model_dump_json().encode())
        text = f"epoch {num_epochs + 1} of {of}, loss 0.43"
        self.page.on_event(
            events.StageProgress(stage=stage, current=step, total=10 * of, unit="steps", message=text, eta_seconds=95.0)
        )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = storage.read_json(f"{self.uri}/{live.FILE}")
        return found
