"""Fixtures: ten synthetic speakers, one clip for every drop reason, and the corpus made from them."""

import contextlib
import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import ray  # before psutil, which it carries and makes importable
import torch
from psutil import NoSuchProcess

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.synthetic.face import draw_face
from arspm.synthetic.films import write_clip, write_corpus
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.scene import Pose
from arspm.training import artifacts, checkpoint
from cluster.host import marked_processes
from jobs.stage import expected_fingerprint
from tests.media.media_files import voice

REPO = Path(__file__).parents[2]
FPS = 10
FINGERPRINT = "f" * 64


class Clips(NamedTuple):
    """A CSV of clips. `good`: the rows that get into the corpus. `dropped`: line and reason of every other row."""

    folder: Path
    csv: Path
    labels: Path
    good: list[list[str]]
    dropped: dict[int, str]


class Prepared(NamedTuple):
    """A run with a finished corpus."""

    run: Path
    config: Config
    files: dict[str, Any]
    figures: dict[str, Any]
    fingerprint: str


def busy_workers(head: Any, title: str) -> list[Any]:
    """Return the head's live processes (psutil.Process) whose title contains `title`."""
    found = []
    for process in marked_processes(head.pid, head.id):
        with contextlib.suppress(NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def write_broken_clips(folder: Path) -> list[tuple[str, list[str]]]:
    """Write a media file for every drop reason that a file can have. Returns the reasons with their rows of the CSV."""
    people = sample_speakers(2, seed=7)
    face, spoken = draw_face(people[0]), voice(1.0)
    still = [face] * FPS
    small = [draw_face(people[0], pose=Pose(scale=0.12))] * FPS
    tone = np.sin(np.arange(16_000) / 16).astype(np.float32)
    made: dict[DropReason, tuple[list[np.ndarray], np.ndarray, str]] = {  # frames, sound, end of the row
        DropReason.silent: (still, np.zeros(16_000, np.float32), "2.0"),
        DropReason.no_speech: (still, tone, "2.0"),
        DropReason.too_short: (still[:3], spoken[:4800], "2.0"),
        DropReason.wrong_length: (still, spoken, "9.0"),
        DropReason.too_long: (still, spoken, "4000.0"),
        DropReason.no_face: ([np.full_like(face, 120)] * FPS, spoken, "2.0"),
        DropReason.several_faces: ([np.hstack([face, draw_face(people[1])])] * FPS, spoken, "2.0"),
        DropReason.face_too_small: (small, spoken, "2.0"),
    }
    rows = []
    for reason, (frames, sound, end) in made.items():
        write_clip(folder / f"{reason.value}_1.0_{end}.mp4", frames, sound, FPS)
        xy = ["", ""] if reason is DropReason.several_faces else ["0.5", "0.5"]
        rows.append((reason.value, [reason.value, "1.0", end, *xy]))
    (folder / "undecodable_1.0_2.0.mp4").write_bytes(b"not a clip")
    for reason in (DropReason.no_video, DropReason.no_sound):  # a file with the other stream only
        with av.open(str(folder / "silent_1.0_2.0.mp4")) as source:
            stream = source.streams.audio[0] if reason is DropReason.no_video else source.streams.video[0]
            with av.open(str(folder / f"{reason.value}_1.0_2.0.mp4"), "w") as half:
                copy = half.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is not None:
                        packet.stream = copy
                        half.mux(packet)
    half_files = (DropReason.undecodable, DropReason.no_video, DropReason.no_sound)
    return rows + [(reason.value, [reason.value, "1.0", "2.0", "0.5", "0.5"]) for reason in half_files]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    made = write_corpus(
        tmp_path_factory.mktemp("clips") / "made", num_speakers=10, clips_per_speaker=2, seconds=(1.0, 1.5), fps=FPS
    )
    with made.clips_csv.open() as file:
        good = list(csv.reader(file))
    broken = write_broken_clips(made.clips_dir)
    others = [row for _, row in broken] + [["missing_file", "1.0", "2.0", "0.5", "0.5"], good[0], ["bad_row", "1.0"]]
    reasons = [reason for reason, _ in broken] + ["missing_file", "duplicate_key", "bad_row"]
    rows = others[:4] + good + others[4:]
    lines = [*range(1, 5), *range(5 + len(good), 1 + len(rows))]
    with made.clips_csv.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return Clips(made.clips_dir, made.clips_csv, made.labels_csv, good, dict(zip(lines, reasons, strict=True)))


@pytest.fixture(scope="session")
def config(clips: Clips) -> Config:
    """The smoke preset over those clips, in shards of four rows."""
    return override(
        preset("smoke"),
        {
            "data.csv": str(clips.csv),
            "data.clips": str(clips.folder),
            "data.labels": str(clips.labels),
            "data.rows_per_shard": 4,
            "data.rows_per_group": 2,
            "data.test_fraction": 0.35,
            "data.val_fraction": 0.2,
            "face.min_side_pixels": 60,
        },
    )


@pytest.fixture(scope="session")
def driver(head: Any) -> Iterator[None]:
    """Connect this process to the head as a Ray driver."""
    ray.init(
        address=head.gcs_address,
        log_to_driver=False,
        logging_level="warning",
        runtime_env={"env_vars": {"PYTHONPATH": str(REPO)}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def prepared(driver: None, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The corpus of those clips, made without an interruption."""
    from arspm.distributed.data.preprocess import preprocess

    run = tmp_path_factory.mktemp("prepared")
    fingerprint = expected_fingerprint("preprocess", str(run), config)
    return Prepared(run, config, *preprocess(config, str(run), fingerprint), fingerprint)


@pytest.fixture
def copy_run(prepared: Prepared, tmp_path: Path) -> Callable[[str], str]:
    """A function that returns a copy of the prepared run."""

    def copy(name: str) -> str:
        shutil.copytree(prepared.run, tmp_path / name)
        stages.commit(
            str(tmp_path / name),
            "preprocess",
            fingerprint=prepared.fingerprint,
            config=prepared.config,
            files=prepared.files,
            seconds=0.0,
            figures=prepared.figures,
        )
        return str(tmp_path / name)

    return copy


@pytest.fixture
def program_env(head: Any) -> dict[str, str]:
    """The environment in which a stage's program connects to the head, as in a job."""
    return {**os.environ, "RAY_ADDRESS": head.gcs_address, "PYTHONPATH": str(REPO)}


def commit_corpus(run: str, config: Config) -> None:
    """Write anew the manifests of the stages that wrote the corpus, with the hashes of its files."""
    for stage, families in (("preprocess", ("speech", "faces")), ("features", ("features",))):
        storage.remove(storage.join(run, stage, stages.SUCCESS))
        files = {
            str(path.relative_to(run)): storage.describe(str(path))
            for family in families
            for path in Path(run).glob(f"corpus/*/{family}/*.parquet")
        }
        stages.commit(run, stage, fingerprint="f" * 64, config=config, files=files, seconds=1.0, figures={})


@pytest.fixture
def decoded_run(write_corpus: Callable[..., Any], tmp_path: Path) -> tuple[str, Config]:
    """A run with everything that an encoder needs, made of random numbers, and its configuration."""
    torch.manual_seed(0)
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(
        preset("smoke"),
        {
            "data.storage": "waveform",
            "training.encoder.epochs": 3,
            "training.encoder.augment": False,
            "resources.trial.cpus": 0.9,
        },
    )
    networks = {
        "vggface": speech_portrait.vggface(config, 5),
        "gender": speech_portrait.gender_classifier(config),
        "decoder": speech_portrait.face_decoder(config),
    }
    for name, model in networks.items():
        (tmp_path / name).mkdir()
        checkpoint.write_weights(tmp_path / name / artifacts.MODEL, model.state_dict())
    (tmp_path / "prior").mkdir()
    priors = {name: torch.randn(64) for name in ("neutral", *schema.GENDERS)}
    checkpoint.write_weights(tmp_path / "prior" / artifacts.PRIORS, priors)
    commit_corpus(str(tmp_path), config)
    for stage in ("prior", "gender", "decoder"):
        stages.commit(str(tmp_path), stage, fingerprint="f" * 64, config=config, files={}, seconds=1.0, figures={})
    return str(tmp_path), config
