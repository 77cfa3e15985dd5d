"""A small finished run, written with the real writers, and a real browser to open its page in."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import schema, stages, storage
from arspm.config import TRAINED_STAGES, Config, override
from arspm.presets import preset

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FIGURES = ("l1", "l2", "cos_degrees", "portrait_l1", "portrait_l2", "portrait_cos_degrees")
SECONDS = {
    "preprocess": 49.758,
    "vggface": 91.382,
    "gender": 30.5,
    "features": 8.867,
    "prior": 0.308,
    "decoder": 83.833,
    "encoder": 3728.058,
    "evaluate": 10.258,
}


class Run(NamedTuple):
    uri: str
    config: Config
    evaluated: dict[str, Any]  # what evaluate/metrics.json holds
    histories: dict[str, dict[str, Any]]


def row(model: str, values: Mapping[str, float | None], half: float = 0.05) -> dict[str, Any]:
    """A row of Table 4 with intervals of `half` the value on each side."""
    found: dict[str, Any] = {"model": model, "n": 41}
    for name in FIGURES:
        value = values.get(name)
        found[name] = value
        found[f"{name}_interval"] = None if value is None else [value * (1 - half), value * (1 + half)]
    return found


def six(scale: float) -> dict[str, float | None]:
    """Plausible values of a row's six figures; a larger scale is further from the truth."""
    return dict(
        zip(
            FIGURES,
            (126.5241 * scale, 2.4703 * scale, 30.123 * scale, 144.0 * scale, 2.81 * scale, 32.5 * scale),
            strict=True,
        )
    )


def write_run(folder: Path, *, labelled: bool = True, dropped: list[dict[str, Any]] | None = None) -> Run:
    """Write what the stages before the report leave in a run, as far as the report reads it."""
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
            picture = np.full((64, 64, 3), 60 * number + 40, np.uint8)
            storage.write_bytes(f"{uri}/{entry[kind]}", cv2.imencode(".jpg", picture)[1].tobytes())
        portraits.append(entry)
    nothing = dict.fromkeys(FIGURES)
    evaluated = {
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
        "table5": [
            {
                "pictures": name,
                "n": 41,
                "accuracy": 0.9756,
                "accuracy_interval": [0.9268, 1.0],
                "female": 0.95,
                "male": 1.0,
            }
            for name in ("real", "face-to-face", "neutral+fc")
        ]
        if labelled
        else None,
        "portraits": portraits,
    }
    storage.write_json(f"{uri}/evaluate/metrics.json", evaluated)

    figures: dict[str, dict[str, Any]] = {"preprocess": {}, "features": {"num_faces": 1271}, "evaluate": {}}
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
    return Run(uri, config, evaluated, histories)


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
