"""A small finished run, written with the real writers, and a real browser to open its page in."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import storage
from arspm.config import TRAINED_STAGES, Config, override
from arspm.config.presets import PRESETS, preset
from arspm.corpus import schema
from arspm.report.page import PAGE, write_report
from arspm.runs import stages
from tests.report.measured import FIGURES, drawn, evaluated, judged_row, picture, row, six

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "<script>window.pwned = 1; alert(1)</script>",
    "\"><img src=x onerror='window.pwned = 1'>",
    "</script><script>window.pwned = 1</script>",
    "{{ 7 * 7 }} & <b>bold</b> 'quoted'",
)
SECONDS = {
    "preprocess": 49.758,
    "vggface": 91.382,
    "gender": 30.5,
    "features": 8.867,
    "prior": 0.308,
    "decoder": 83.833,
    "encoder": 3728.058,
    "oracle": 41.25,
    "evaluate": 10.258,
}


class Run(NamedTuple):
    uri: str
    config: Config
    evaluated: dict[str, Any]  # what evaluate/metrics.json holds
    histories: dict[str, dict[str, Any]]


def write_run(
    folder: Path, *, labelled: bool = True, dropped: list[dict[str, Any]] | None = None, older: bool = False
) -> Run:
    """Write what the stages before the report leave in a run, as far as the report reads it.

    `labelled`: whether labels.csv was there. `older`: as an earlier version evaluated it, with Tables 4 and 5 alone.
    """
    uri = str(folder)
    config = override(
        preset("smoke"),
        {
            "data.csv": "/data/my clips.csv",
            "data.clips": "/data/clips",
            "seed": 7,
            "loss.lambda2": 0.05,
            "ingest.subset": 40,
            "resources.threads_per_worker": None,
            "face_decoder.batch_norm": False,
        },
    )
    drops = dropped if dropped is not None else [_drop(3, "no_face", "a_1.0_4.0", "")] * 5
    reasons = {drop["reason"]: 0 for drop in drops}
    for drop in drops:
        reasons[drop["reason"]] += 1
    splits = {
        name: {"rows": rows, "videos": rows // 3, "shards": [{"name": "shard-00000", "rows": rows, "ids": "0"}]}
        for name, rows in (("train", 1200), ("val", 30), ("test", 41))
    }
    manifest = {
        "num_rows": 1271 + len(drops),
        "num_clips": 1271,
        "num_dropped": len(drops),
        "dropped": reasons,
        "splits": splits,
    }
    storage.write_json(f"{uri}/corpus/manifest.json", manifest)
    table = pa.Table.from_pylist(drops, schema.dropped_schema())
    pq.write_table(table, folder / "corpus" / "dropped.parquet")

    portraits = []
    for number in range(3):
        entry = {"clip_id": f"video{number}_0.0_{number}.5"}
        for kind in ("real", "face_to_face", "portrait"):
            entry[kind] = f"evaluate/pictures/{number:03d}-{kind}.jpg"
            picture(f"{uri}/{entry[kind]}", 60 * number + 40)
        portraits.append(entry)
    draw = drawn(0)
    nothing = dict.fromkeys(FIGURES)
    found: dict[str, Any] = {
        "split": "test",
        "n": 41,
        "table4": [
            row("neutral+fc", six(1.0)),
            row("prior-only", six(1.05)),
            row("gender-prior-only", six(0.8) if labelled else nothing),
            row("shuffled-speech", six(1.3)),
            row(
                "face-to-face",
                nothing | {name: value for name, value in six(0.3).items() if name.startswith("portrait")},
            ),
        ],
        "judge": "logistic regression on VGGFace features of 96 training faces" if labelled else None,
        "table5": [judged_row(name, False, draw) for name in ("real", "face-to-face", "neutral+fc")]
        if labelled
        else None,
        "portraits": portraits,
    }
    if not older:
        found |= _measured(uri, labelled)
        found["table4"].append(row("oracle", six(0.75)))
        for each in found["table4"]:
            each |= {"cos_degrees_learnt_share": None, "cos_degrees_learnt_share_interval": None}
        found["table4"][0] |= {"cos_degrees_learnt_share": 0.6311, "cos_degrees_learnt_share_interval": [0.502, 0.704]}
    storage.write_json(f"{uri}/evaluate/metrics.json", found)

    figures: dict[str, dict[str, Any]] = {key: {} for key in ("preprocess", "features", "oracle", "evaluate")}
    figures["prior"] = {
        "priors": {
            name: _prior(n)
            for name, n in (("neutral", 1200), ("female", 700), ("male", 500))
            if labelled or name == "neutral"
        }
    }
    histories = {}
    for stage in TRAINED_STAGES:
        if stage == "gender" and not labelled:
            figures[stage] = {"trained": False, "reason": "labels.csv names no speaker of one sex"}
            continue
        histories[stage] = history = _history(stage)
        storage.write_json(f"{uri}/{stage}/history.json", history)
        figures[stage] = {"best_epoch": history["best_epoch"], **history["epochs"][history["best_epoch"] - 1]}
    for number, (stage, seconds) in enumerate(SECONDS.items()):
        fingerprint = f"{number:x}" * 64
        stages.commit(
            uri, stage, fingerprint=fingerprint, config=config, files={}, seconds=seconds, figures=figures[stage]
        )
    return Run(uri, config, found, histories)


def _measured(uri: str, labelled: bool) -> dict[str, Any]:
    found = evaluated(uri, "neutral+fc")
    if labelled:
        return found
    reason = "dlib's HOG gives no landmarks; evaluate.landmarks names a YuNet file that does"
    return found | {"table6": None, "probes": None, "craniofacial": {"reason": reason}}


def _drop(line: int, reason: str, clip_id: str | None, detail: str) -> dict[str, Any]:
    return {"row": line, "clip_id": clip_id, "reason": reason, "detail": detail}


def _prior(n: int) -> dict[str, Any]:
    points = [{"n": count, "l1": 90.0 / count} for count in (10, 50, 100) if count < n]
    return {"n": n, "gender_balanced": True, "clips": "ab" * 32, "convergence": points}


def _history(stage: str) -> dict[str, Any]:
    objective = {"decoder": "val_loss", "encoder": "val_cos_degrees"}.get(stage, "val_accuracy")
    values = {"decoder": (0.6, 0.3, 0.4), "encoder": (61.0, 36.5, 37.0)}.get(stage, (0.2, 0.875, 0.5))
    epochs = [
        {
            "train_loss": 3.0 - number,
            objective: value,
            "epoch": number + 1,
            "step": 10 * (number + 1),
            "clips_per_second": 51.2,
            "data_wait": 0.02,
        }
        for number, value in enumerate(values)
    ]
    return {"epochs": epochs, "losses": [[step, 3.0 / step] for step in range(1, 31)], "best_epoch": 2}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **options: write_run(tmp_path / "runs" / "trial", **options)


@pytest.fixture
def drop() -> Callable[..., dict[str, Any]]:
    return _drop


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    return row


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium through playwright, or a failure that says how to get it; ARSPM_NO_BROWSER=1 skips instead."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        how = "apt-get install chromium, or another way to put chromium or google-chrome on the PATH"
        if os.environ.get("ARSPM_NO_BROWSER") == "1":
            pytest.skip(f"THE PAGE WAS NOT TESTED: no browser, and ARSPM_NO_BROWSER=1. To test it: {how}")
        pytest.fail(f"no browser to open the report in: {how}; or set ARSPM_NO_BROWSER=1 to leave the page untested")
    from playwright.sync_api import sync_playwright

    flags = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
    with sync_playwright() as playwright:
        options = [f"--{flag}" for flag in flags.split()]
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=options)
        yield browser
        browser.close()


class Opened:
    """A page that is open, and everything that it said or asked for on the way."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.wait_for("[...document.querySelectorAll('.chart')].every(e => e.querySelector('.main-svg'))")

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until it is true; playwright's own waiting needs eval, which the page forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression} (said: {self.said})"
            self.page.wait_for_timeout(50)

    def network(self) -> list[str]:
        """What it asked for beside its own file and what it carries itself."""
        return [url for url in self.asked if url != self.page.url and not url.startswith("data:")]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Opened]]:
    opened = []

    def open_it(run: Any, width: int = 1280, scheme: str = "light", path: Path | None = None) -> Opened:
        if path is None:
            write_report(run.config, run.uri, PRESETS[run.config.preset])
        opened.append(Opened(browser, path or Path(run.uri, PAGE), width, scheme))
        return opened[-1]

    yield open_it
    for each in opened:
        each.page.close()


class LookedAt(NamedTuple):
    opened: Opened
    run: Run


@pytest.fixture(scope="session")
def looked_at(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LookedAt]:
    """The page of a whole run, open for tests that only look at it."""
    run = write_run(tmp_path_factory.mktemp("runs") / "trial")
    write_report(run.config, run.uri, PRESETS[run.config.preset])
    opened = Opened(browser, Path(run.uri, PAGE), 1280, "light")
    yield LookedAt(opened, run)
    opened.page.close()


# The least contrast of any text with what is behind it (WCAG 2: 4.5 for text), charts aside.
CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let worst = { ratio: 99, text: "" };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || e.closest("script, style, noscript, .chart")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: text.slice(0, 60) };
  }
  return worst;
}"""
