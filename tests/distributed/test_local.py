"""Stages in the test's own process: no Ray cluster, the same results as a worker's training loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.distributed import local
from arspm.distributed.data.preprocess import preprocess
from arspm.distributed.train.rows import gather_rows, make_task, train
from arspm.media.jpeg import decode_jpeg
from arspm.runs import stages
from arspm.synthetic.films import write_corpus as write_clips
from arspm.training import artifacts, checkpoint, fit
from arspm.training.columns import ROW, WEIGHT
from arspm.training.fit import WorkerContext
from arspm.training.order import window
from jobs import encoder, features, gender, vggface
from jobs.stage import expected_fingerprint, main
from tests.distributed.conftest import REPO, commit_corpus
from tests.training.conftest import TIMINGS


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where Ray would be started. Ray Data and Ray Train start it by `ray.init`."""
    if not ray.is_initialized():
        monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))


@pytest.fixture
def run_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that runs a stage's program with --local in this process."""

    def run(stage: str, work: Any, run: str, config: Config) -> None:
        uri = storage.join(run, "config.json")
        storage.write_bytes(uri, configuration.dump(config).encode())
        monkeypatch.setattr(sys, "argv", [f"jobs.{stage}", "--local", "--run", run, "--config", uri])
        main(stage, work)

    return run


def without_timings(history: dict[str, Any]) -> dict[str, Any]:
    epochs = [{name: value for name, value in epoch.items() if name not in TIMINGS} for epoch in history["epochs"]]
    return {**history, "epochs": epochs}


def test_an_encoder_is_trained_as_by_one_worker(
    decoded_run: tuple[str, Config], run_local: Callable[..., None], tmp_path: Path
) -> None:
    """Bit-identical to the training loop over rows that are read one step at a time, in the order of the plan."""
    run, config = decoded_run
    run_local("encoder", encoder.encoder, run, config)
    assert stages.done(run, "encoder", expected_fingerprint("encoder", run, config)) is not None

    rows = gather_rows("encoder", config, run)

    def batches(_: Any) -> Any:
        for epoch in range(config.training.encoder.epochs):
            for reading in rows.readings:
                order = reading.order
                for index in range(order.num_windows):
                    part = window(order, epoch if order.shuffle else 0, index, rank=0, world_size=1)
                    for numbers, weights in zip(part.rows, part.weights, strict=True):
                        batch = tables.read_rows(reading.split, reading.wanted, numbers)
                        batch[schema.CLIP_ID] = batch[schema.CLIP_ID].to_pylist()
                        yield batch | {ROW: numbers, WEIGHT: weights}

    task = make_task("encoder", config, run, torch.device("cpu"), rows)
    *_, last = train("encoder", config, rows, task, WorkerContext(), feed=batches, resume=None)
    last.save(tmp_path / "expected")
    expected = checkpoint.read_weights(tmp_path / "expected" / checkpoint.BEST)
    weights = checkpoint.read_weights(Path(run, "encoder", artifacts.MODEL))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    history = stages.history(run, "encoder")
    assert history is not None
    assert len(history["epochs"]) == 3
    progress = last.progress
    assert without_timings(history) == without_timings(
        {"epochs": progress.epochs, "losses": progress.losses, "best_epoch": progress.best_epoch}
    )


def test_a_breakpoint_in_the_training_loop_is_in_this_process(
    decoded_run: tuple[str, Config], run_local: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training step is patched here, which another process would not see."""
    steps = []
    train_step = fit.train_step
    monkeypatch.setattr(fit, "train_step", lambda *args, **kwargs: steps.append(1) or train_step(*args, **kwargs))
    run, config = decoded_run
    run_local("gender", gender.gender, run, config)
    history = stages.history(run, "gender")
    assert history is not None
    assert len(steps) == history["epochs"][-1]["step"]


def test_features_are_computed_in_this_process(
    decoded_run: tuple[str, Config], run_local: Callable[..., None], write_corpus: Callable[..., Any]
) -> None:
    run, config = decoded_run
    write_corpus({"train": (5, 4), "val": (3,), "test": (3,)}, feature_dim=64)
    commit_corpus(run, config)
    stages.commit(run, "vggface", fingerprint="f" * 64, config=config, files={}, seconds=1.0, figures={})
    run_local("features", features.features, run, config)
    done = stages.success(run, "features")
    assert done is not None
    assert done.figures["num_faces"] == 15
    network = artifacts.load_vggface(run, config)
    split = tables.open_split(stages.corpus(run), "val")
    found = tables.read_rows(split, {"faces": (schema.FACE_JPEG,), "features": (schema.FACE_FEATURE,)}, np.arange(3))
    faces = np.stack([decode_jpeg(jpeg, config.image_size) for jpeg in found[schema.FACE_JPEG].to_pylist()])
    with torch.no_grad():
        expected = network.features(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(torch.from_numpy(found[schema.FACE_FEATURE]).float(), expected, rtol=1e-2, atol=1e-2)


def test_features_of_unchanged_shards_are_used_again(
    decoded_run: tuple[str, Config], run_local: Callable[..., None], write_corpus: Callable[..., Any]
) -> None:
    """But not those of a shard with other clips, without its file, or of another network."""
    run, config = decoded_run
    write_corpus({"train": (5, 4), "val": (3,), "test": (3,)}, feature_dim=64)
    uri = storage.join(stages.corpus(run), "manifest.json")
    manifest = storage.read_json(uri)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            shard["key"] = shard["name"]

    def num_reused(weights: str = "0") -> int:
        storage.write_json(uri, manifest)
        for stage in ("preprocess", "vggface", "features"):
            storage.remove(f"{run}/{stage}/_SUCCESS.json")
        for stage, files in (("preprocess", {}), ("vggface", {"vggface/model.safetensors": {"sha256": weights}})):
            stages.commit(run, stage, fingerprint="f" * 64, config=config, files=files, seconds=1.0, figures={})
        run_local("features", features.features, run, config)
        done = stages.success(run, "features")
        assert done is not None
        assert len(done.files) == 4
        return int(done.figures["num_reused"])

    assert num_reused() == 0
    expected = {path: path.read_bytes() for path in Path(run, "corpus").glob("*/features/*.parquet")}
    assert num_reused() == 15
    manifest["splits"]["train"]["shards"][1]["key"] = "other clips"
    assert num_reused() == 11
    Path(run, "corpus/val/features/shard-00000.parquet").unlink()
    assert num_reused() == 12
    assert {path: path.read_bytes() for path in expected} == expected
    assert num_reused("1") == 0


def test_a_corpus_is_made_in_this_process(tmp_path: Path) -> None:
    made = write_clips(tmp_path / "made", num_speakers=5, clips_per_speaker=1, seconds=(1.0, 1.5), fps=10)
    config = override(
        preset("smoke"),
        {"data.csv": str(made.clips_csv), "data.clips": str(made.clips_dir), "face.min_side_pixels": 60}
        | {"data.test_fraction": 0.35, "data.val_fraction": 0.3},
    )
    with local.in_process():
        _, figures = preprocess(config, str(tmp_path / "run"), "f" * 64)
    assert figures["num_clips"] == 5
    assert not local.is_in_process()


@pytest.mark.slow
def test_three_speakers_in_folders_end_in_a_report(tmp_path: Path) -> None:
    """All stages, each in a process of its own without Ray. The test split has one speaker."""
    made = write_clips(tmp_path / "made", num_speakers=3, clips_per_speaker=2, seconds=(1.0, 1.5), fps=10)
    for clip in sorted(made.clips_dir.iterdir()):
        folder = tmp_path / "people" / clip.name.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        clip.rename(folder / clip.name)
    config = override(preset("smoke"), {"data.format": "folder", "data.clips": f"{tmp_path}/people"})
    run = str(tmp_path / "run")
    storage.write_bytes(f"{tmp_path}/config.json", configuration.dump(config).encode())
    for stage in stages.STAGES:
        command = [
            sys.executable,
            "-m",
            f"jobs.{stage}",
            "--local",
            "--run",
            run,
            "--config",
            f"{tmp_path}/config.json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
        assert done.returncode == 0, (stage, done.stderr)
    metrics = storage.read_json(f"{run}/report/metrics.json")
    assert metrics["corpus"]["splits"]["test"]["videos"] == 1
    assert {row["r1"] for row in metrics["retrieval"] if row["distance"] == "random"} == {1.0}


@pytest.mark.slow
def test_of_one_held_out_face_an_untrained_network_is_not_kept(
    tmp_path: Path, run_local: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fourteen people of whom one has three clips. The face held out is recognised by chance in the first epochs."""
    made = write_clips(
        tmp_path / "made", num_speakers=14, clips_per_speaker=1, seed=5, seconds=(1.0, 1.5), fps=10, workers=1
    )
    [clip] = made.clips_dir.glob("synth000001*")
    lines = made.clips_csv.read_text().splitlines()
    _, start, end, x, y = next(line for line in lines if line.startswith("synth000001")).split(",")
    for later in (10, 20):
        lines.append(f"synth000001,{float(start) + later:.3f},{float(end) + later:.3f},{x},{y},{clip.name}")
    made.clips_csv.write_text("\n".join(lines) + "\n")
    config = override(preset("demo"), {"data.csv": str(made.clips_csv), "data.clips": str(made.clips_dir)})
    run = str(tmp_path / "run")
    run_local("preprocess", preprocess, run, config)
    run_local("vggface", vggface.vggface, run, config)
    history, done = stages.history(run, "vggface"), stages.success(run, "vggface")
    assert history is not None
    assert done is not None
    losses = [epoch["train_loss"] for epoch in history["epochs"]]
    assert max(epoch["val_accuracy"] for epoch in history["epochs"][:5]) == 1
    assert history["best_epoch"] == losses.index(min(losses)) + 1 > 20
    assert (done.figures["chosen_by"], done.figures["num_held_out"]) == ("train_loss", 1)
    accuracy = f"{100 * done.figures['val_accuracy']:.1f} %, {done.figures['val_accuracy']:.0f} of 1 held-out faces"
    said = f"kept epoch {history['best_epoch']} of 40 by the training loss: accuracy {accuracy}, too few to choose by"
    assert said in capsys.readouterr().out
