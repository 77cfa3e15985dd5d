"""The page of an ablation: each variant's figures and pictures come from its own run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import storage
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.distributed.ablation import Finished, write_page
from arspm.evaluation.ablation import FIGURES
from arspm.media.jpeg import encode_jpeg
from arspm.runs import stages

ABOUT = {"non-prior": ("no prior", True), "neutral+fc": ("before Fc2", True), "female": ("women alone", True)}
CLIPS = ["a_0_6", "b_0_6", "c_0_6", "d_0_6"]


def finish(run: str, name: str, seed: int, angle: float, own: slice = slice(None)) -> None:
    """Write the files of the encoder and evaluate stages into a run. Each picture has a different grey."""
    clips = CLIPS[own]
    row: dict[str, Any] = {"model": name, "n": len(clips), "cos_degrees_learnt_share": None}
    row |= dict.fromkeys(FIGURES, angle) | {f"{figure}_interval": None for figure in FIGURES}
    prior = row | {"model": "prior-only"} | dict.fromkeys(FIGURES, 40.0)
    portraits = []
    for number, clip in enumerate(CLIPS[:2]):
        entry = {"clip_id": clip}
        for index, kind in enumerate(("real", "face_to_face", "portrait")):
            entry[kind] = f"evaluate/pictures/{number:03d}-{kind}.jpg"
            grey = np.full((64, 64, 3), round(angle) + 20 * index + 60 * number, np.uint8)
            storage.write_bytes(storage.join(run, entry[kind]), encode_jpeg(grey))
        portraits.append(entry)
    measured = {"table4": [row, prior], "table5": None, "table6": None, "judge": None, "oracle": None}
    measured |= {"split": "test", "n": len(CLIPS), "n_speakers": len(CLIPS), "portraits": portraits}
    storage.write_json(storage.join(run, "evaluate", "metrics.json"), measured)
    columns: dict[str, Any] = {schema.CLIP_ID: clips, schema.SPEAKER: [clip[0] for clip in clips]}
    columns |= {figure: np.full(len(clips), angle) for figure in FIGURES}
    pq.write_table(pa.table(columns), f"{run}/evaluate/clips.parquet")
    epochs = [
        {"epoch": step, "step": step, "clips_per_second": 9.0, "val_cos_degrees": angle + 10 / step} for step in (1, 2)
    ]
    history = {"epochs": epochs, "losses": [[1, 2.0], [2, 1.0 + seed]], "best_epoch": 2}
    storage.write_json(storage.join(run, "encoder", "history.json"), history)


def test_each_variants_figures_and_portraits_are_its_own(tmp_path: Path) -> None:
    """Figure 6: real and Face-to-Face once, then each variant's portrait of the same clips, by its first seed."""
    run = str(tmp_path)
    women, first, second = (stages.variant_run(run, slug) for slug in ("female-0", "non-prior-0", "non-prior-1"))
    made = [
        (Finished("female", 0, women), 31.0, slice(1, 3)),
        (Finished("non-prior", 0, first), 33.0, slice(None)),
        (Finished("non-prior", 1, second), 35.0, slice(None)),
        (Finished("neutral+fc", 0, run), 30.0, slice(None)),  # the run's own model
    ]
    for model, angle, own in made:
        finish(model.run, model.variant, model.seed, angle, own)
    found = write_page(run, preset("smoke"), [model for model, *_ in made], ABOUT, [], 1.0)
    assert storage.read_json(f"{run}/ablation/metrics.json").keys() == found.keys()
    rows = {row["variant"]: row for row in found["variants"]}
    assert {name: row["figures"]["l2"]["mean"] for name, row in rows.items()} == {
        "female": 31.0,
        "non-prior": 34.0,
        "neutral+fc": 30.0,
    }
    assert rows["female"]["n"] == 2
    assert [each["run"] for each in rows["non-prior"]["runs"]] == ["_variants/non-prior-0", "_variants/non-prior-1"]
    assert rows["neutral+fc"]["runs"][0]["run"] == "."
    assert rows["neutral+fc"]["against_non_prior"]["l2"]["difference"] == pytest.approx(-3.0)  # seed 0
    assert (found["rows_of"], [row["model"] for row in found["rows"]]) == ("neutral+fc", ["prior-only"])
    assert found["seeds"] == [0, 1]

    for number, entry in enumerate(found["portraits"]):
        assert entry["clip_id"] == CLIPS[number]
        expected = {"real": f"{run}/evaluate", "face_to_face": f"{run}/evaluate"}
        for kind, folder in expected.items():
            assert f"{run}/{entry[kind]}" == f"{folder}/pictures/{number:03d}-{kind}.jpg"
        assert {name: f"{run}/{path}" for name, path in entry["variants"].items()} == {
            "female": f"{women}/evaluate/pictures/{number:03d}-portrait.jpg",
            "non-prior": f"{first}/evaluate/pictures/{number:03d}-portrait.jpg",
            "neutral+fc": f"{run}/evaluate/pictures/{number:03d}-portrait.jpg",
        }
    assert Path(run, "ablation", "index.html").stat().st_size > 10_000


def test_a_study_is_written_beside_the_ablation(tmp_path: Path, write_corpus: Callable[..., Any]) -> None:
    write_corpus({"train": (9, 11)})
    run = str(tmp_path)
    models = []
    for variant, angle in (("non-prior", 33.0), ("neutral", 32.0)):
        for seed in (0, 1):
            models.append(Finished(variant, seed, stages.variant_run(run, f"study-prior-{variant}-{seed}")))
            finish(models[-1].run, variant, seed, angle + seed)
    about = {"non-prior": ("no prior", True), "neutral": ("after Fc2", True)}
    found = write_page(run, preset("smoke"), models, about, [], 1.0, "prior")
    assert storage.read_json(f"{run}/study-prior/metrics.json")["study"]["name"] == "prior"
    assert Path(run, "study-prior", "index.html").stat().st_size > 10_000
    assert not Path(run, "ablation").exists()
    assert found["study"]["num_clips"] == 20
    [pair] = found["study"]["pairs"]
    assert pair["differences"]["cos_degrees"]["difference"] == pytest.approx(-1.0)
    assert "loss_10" not in pair["differences"]  # only two steps were run
    assert found["findings"] == found["study"]["findings"]
