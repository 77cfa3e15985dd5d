"""Training stages on Ray Train with real workers: to the end, after the loss of one, and the encoder's inputs."""

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.distributed.train.feed import PATHS
from arspm.distributed.train.launch import train_stage
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.runs.kept_epoch import MIN_HELD_OUT
from arspm.training import artifacts, checkpoint
from tests.distributed.conftest import FINGERPRINT, Prepared, busy_workers
from tests.training.conftest import TIMINGS

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # the chain, too, trains with two workers
EPOCHS = 6


def two_workers(config: Config) -> Config:
    changes = {"resources.gender.num_workers": 2, "training.gender.epochs": EPOCHS, "ingest.path": "stream"}
    return override(config, changes)


def history(run: str, stage: str) -> dict[str, Any]:
    return json.loads(Path(run, stage, artifacts.HISTORY).read_text())


def timeless(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k not in TIMINGS} for each in epochs]


@pytest.fixture(scope="module")
def uninterrupted(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, dict]:
    """A gender stage of two workers that was never interrupted: the run, its files and its figures."""
    run = tmp_path_factory.mktemp("uninterrupted")
    (run / "corpus").symlink_to(prepared.run / "corpus")
    return str(run), *train_stage("gender", two_workers(prepared.config), str(run), FINGERPRINT)


def test_two_workers_train_to_the_end(prepared: Prepared, uninterrupted: tuple[str, dict, dict]) -> None:
    run, files, figures = uninterrupted
    trained = history(run, "gender")
    assert [each["epoch"] for each in trained["epochs"]] == list(range(1, EPOCHS + 1))
    num_held_out = figures["num_held_out"]
    assert 0 < num_held_out < MIN_HELD_OUT
    assert figures["chosen_by"] == "train_loss"
    losses = [each["train_loss"] for each in trained["epochs"]]
    assert trained["best_epoch"] == losses.index(min(losses)) + 1
    assert figures["train_loss"] == min(losses)
    assert [step for step, _ in trained["losses"]] == list(range(1, trained["epochs"][-1]["step"] + 1))
    assert set(files) == {"gender/model.safetensors", "gender/history.json"}
    for name, described in files.items():
        data = Path(run, name).read_bytes()
        assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert artifacts.load_gender_classifier(run, prepared.config) is not None


@pytest.mark.long
def test_eight_workers_learn_what_one_learns(prepared: Prepared, tmp_path: Path) -> None:
    """Epoch by epoch. The weights themselves differ by rounding, which ReLU and max pooling amplify."""
    losses = []
    for num_workers in (1, 8):
        run = tmp_path / str(num_workers)
        run.mkdir()
        (run / "corpus").symlink_to(prepared.run / "corpus")
        changes = {"resources.gender.num_workers": num_workers, "resources.gender.cpus": 0.1}
        changes |= {"resources.read.cpus": 0.1, "resources.read.num_tasks": 1, "ingest.path": "stream"}
        changes |= {"training.gender.num_lanes": 8, "training.gender.augment": False, "training.gender.epochs": 4}
        files, _ = train_stage("gender", override(prepared.config, changes), str(run), FINGERPRINT)
        assert "gender/model.safetensors" in files
        losses.append([each["train_loss"] for each in history(str(run), "gender")["epochs"]])
    one, eight = losses
    assert len(one) == 4
    assert one[0] - one[-1] > 0.02
    assert eight == pytest.approx(one, rel=2e-3)


def test_a_checkpoint_describes_itself(prepared: Prepared, uninterrupted: tuple[str, dict, dict]) -> None:
    run = uninterrupted[0]
    training = Path(run, "gender", stages.training_name(run, "gender", FINGERPRINT))
    [folder] = (path for path in training.glob("checkpoint_*") if path.is_dir())
    value = json.loads((folder / checkpoint.PROGRESS).read_text())
    assert value["config"] == two_workers(prepared.config).model_dump(mode="json")
    assert value["versions"]["torch"] == torch.__version__.split("+")[0]
    assert value["progress"]["epochs"] == history(run, "gender")["epochs"]
    assert set(value["files"]) == {checkpoint.MODEL, checkpoint.BEST, checkpoint.OPTIMIZER}
    for name, described in value["files"].items():
        assert described["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert (folder / checkpoint.BEST).read_bytes() == Path(run, "gender", artifacts.MODEL).read_bytes()


@pytest.mark.parametrize(
    ("title", "path"),
    [
        *(("RayTrainWorker", path) for path in PATHS),
        pytest.param("TrainController", "stream", marks=pytest.mark.long),
    ],
)
def test_a_killed_worker_is_replaced_and_the_weights_equal_an_uninterrupted_runs(
    head: Any,
    prepared: Prepared,
    uninterrupted: tuple[str, dict, dict],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    title: str,
    path: str,
) -> None:
    """On every path of the rows; the uninterrupted run streamed them. Train's controller stops the workers too."""
    (tmp_path / "corpus").symlink_to(prepared.run / "corpus")
    config = override(two_workers(prepared.config), {"ingest.path": path})
    stages.commit(
        str(tmp_path),
        "preprocess",
        fingerprint=prepared.fingerprint,
        config=config,
        files=prepared.files,
        seconds=0.0,
        figures={},
    )
    seen: list[list[dict[str, Any]]] = []
    ended = threading.Event()

    def kill() -> None:
        """Kill one as soon as Train lists a checkpoint, and note the epochs in this checkpoint."""
        while not ended.wait(0.02):
            for snapshot in tmp_path.glob("gender/*/checkpoint_manager_snapshot.json"):
                folders = sorted(path for path in snapshot.parent.glob("checkpoint_*") if path.is_dir())
                if folders and folders[0].name in snapshot.read_text():
                    seen.append(json.loads((folders[0] / checkpoint.PROGRESS).read_text())["progress"]["epochs"])
                    busy_workers(head, title)[-1].kill()
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with caplog.at_level(logging.WARNING, "arspm.distributed.train.launch"):
            train_stage("gender", config, str(tmp_path), FINGERPRINT)
    finally:
        ended.set()
        killer.join()
    [lost] = [record.getMessage() for record in caplog.records if record.name == "arspm.distributed.train.launch"]
    assert "lost a worker of gender (1 of at most 3): resuming from the last checkpoint" in lost

    run = uninterrupted[0]
    assert Path(tmp_path, "gender/model.safetensors").read_bytes() == Path(run, "gender/model.safetensors").read_bytes()
    found, wanted = history(str(tmp_path), "gender"), history(run, "gender")
    assert timeless(found["epochs"]) == timeless(wanted["epochs"])
    assert found["losses"] == wanted["losses"]
    # It did not start over: the timings of the first epochs are unchanged.
    [before] = seen
    assert 1 <= len(before) < EPOCHS
    assert found["epochs"][: len(before)] == before


@pytest.mark.long
def test_training_resumes_although_trains_snapshot_is_incomplete(
    head: Any,
    prepared: Prepared,
    uninterrupted: tuple[str, dict, dict],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Train writes its snapshot in place, so a full disk can leave half of it. There is also a torn checkpoint.

    The same after the last epoch, with a snapshot that lists a missing checkpoint, with none because the stage was
    killed after removing it, and with one of another Ray version.
    """
    (tmp_path / "corpus").symlink_to(prepared.run / "corpus")
    config = two_workers(prepared.config)
    train_stage("gender", override(config, {"training.gender.epochs": EPOCHS // 2}), str(tmp_path), FINGERPRINT)
    [snapshot] = tmp_path.glob("gender/*/checkpoint_manager_snapshot.json")
    snapshot.write_bytes(snapshot.read_bytes()[: snapshot.stat().st_size // 2])
    [intact] = (path for path in snapshot.parent.glob("checkpoint_*") if path.is_dir())
    shutil.copytree(intact, torn := snapshot.parent / "checkpoint_torn")
    (torn / checkpoint.OPTIMIZER).write_bytes(b"")
    half = history(str(tmp_path), "gender")["epochs"]
    with caplog.at_level(logging.WARNING, "arspm.distributed.train.launch"):
        train_stage("gender", config, str(tmp_path), FINGERPRINT)
    assert f"{snapshot} is incomplete" in caplog.text
    assert f"Ray Train lists no checkpoint: resuming from {intact}" in caplog.text
    assert (
        Path(tmp_path, "gender/model.safetensors").read_bytes()
        == Path(uninterrupted[0], "gender/model.safetensors").read_bytes()
    )
    found = history(str(tmp_path), "gender")["epochs"]
    assert timeless(found) == timeless(history(uninterrupted[0], "gender")["epochs"])
    assert found[: EPOCHS // 2] == half, "including the timings: not repeated"
    known = json.loads(snapshot.read_text())
    gone = [each | {"checkpoint_dir_name": "checkpoint_gone"} for each in known["checkpoint_results"]]
    for bad in (known | {"checkpoint_results": gone}, None, known | {"ray_version": "2.59.0"}):
        snapshot.unlink(missing_ok=True) if bad is None else snapshot.write_text(json.dumps(bad))
        train_stage("gender", config, str(tmp_path), FINGERPRINT)
        assert history(str(tmp_path), "gender")["epochs"] == found


@pytest.mark.parametrize("gpus", [0, pytest.param(1, marks=pytest.mark.gpu)])
def test_the_encoder_needs_only_fc8_of_vggface_and_fc1_of_the_decoder(
    driver: None, write_corpus: Callable[..., tuple[str, Any]], tmp_path: Path, gpus: int
) -> None:
    """Their files contain only these layers, so no convolution of either can run."""
    write_corpus({"train": (9, 4), "val": (5,)}, feature_dim=16)
    changes = {"feature_dim": 16, "data.storage": "waveform", "training.encoder.epochs": 1}
    config = override(preset("smoke"), changes | {"resources.encoder.gpus": gpus})
    generator = torch.Generator().manual_seed(0)

    def weights(stage: str, name: str, layers: dict[str, tuple[int, ...]]) -> None:
        (tmp_path / stage).mkdir()
        tensors = {layer: torch.randn(shape, generator=generator) for layer, shape in layers.items()}
        safetensors.torch.save_file(tensors, tmp_path / stage / name)

    weights("vggface", artifacts.MODEL, {"fc8.weight": (7, 16), "fc8.bias": (7,)})
    weights("decoder", artifacts.MODEL, {"fc1.weight": (24, 16), "fc1.bias": (24,)})
    weights("prior", artifacts.PRIORS, {"neutral": (16,)})
    run = str(tmp_path)
    _, figures = train_stage("encoder", config, run, FINGERPRINT)
    assert {"train_loss", "val_cos_degrees", "val_l1", "val_l2"} <= set(figures)
    trained = speech_portrait.speech_encoder(config)
    checkpoint.restore(trained, checkpoint.read_weights(Path(run, "encoder", artifacts.MODEL)), "encoder")
