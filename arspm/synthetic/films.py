"""Clips of synthetic speakers, in AVSpeech's format: mp4 files, a CSV, labels and the speakers' true traits.

Voice and face depend on the same causes (see `people`), so faces can be predicted from voices, and the best possible
prediction is known. Clips of one speaker differ in words, noise, light, pose, mouth and background. Each speaker has
one video id; the clips are segments of that video.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from arspm.synthetic.face import draw_face
from arspm.synthetic.people import MAX_SPEAKERS, Speaker, sample_speakers
from arspm.synthetic.scene import Pose, Scene, sample_pose, sample_scene
from arspm.synthetic.voice import speak

__all__ = [
    "CorpusSummary",
    "Pose",
    "Scene",
    "Speaker",
    "Take",
    "draw_face",
    "film",
    "mouth_openings",
    "sample_pose",
    "sample_scene",
    "sample_speakers",
    "speak",
    "write_clip",
    "write_corpus",
]

SAMPLE_RATE = 16_000
CLIP_SECONDS = (3.0, 4.0)  # shortest and longest clip
FPS = 10
FRAME_SIZE = 256  # width and height in pixels
_SMALL_CORPUS = 8  # up to this many clips, starting a process pool takes longer than writing them
_CLIP_KEY = 1  # spawn key: keeps the random streams of clips and speakers independent


@dataclass(frozen=True)
class CorpusSummary:
    """Paths and counts of what `write_corpus` wrote."""

    clips_csv: Path  # columns: video id, start, end, x, y; no header
    clips_dir: Path
    labels_csv: Path
    speakers_parquet: Path
    num_speakers: int
    num_clips: int
    num_seconds: float


class Take(NamedTuple):
    """One clip before encoding.

    frames: (height, width, 3) RGB each. voice: (samples,) at `SAMPLE_RATE`. x, y: face centre, as fractions of the
    frame's width and height, as in AVSpeech's CSV.
    """

    frames: list[NDArray[np.uint8]]
    voice: NDArray[np.float32]
    x: float
    y: float


def write_corpus(
    out_dir: str | os.PathLike[str],
    *,
    num_speakers: int,
    clips_per_speaker: int = 3,
    seconds: tuple[float, float] = CLIP_SECONDS,
    seed: int = 0,
    fps: int = FPS,
    size: int = FRAME_SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusSummary:
    """Write `clips/`, `avspeech.csv`, `labels.csv` and `speakers.parquet` to `out_dir`.

    seconds: shortest and longest clip; every clip has an integer number of frames. workers: number of processes
    (default: one per usable core); with 1, no process is started. Processes are spawned, so a script must call this
    under `if __name__ == "__main__"`. progress: called with (finished clips, all clips).

    The same arguments give the same files for any `workers`, and a speaker's clips do not depend on `num_speakers`.
    If writing fails, nothing is left in `out_dir`. A clip takes about 0.2 s on one core. Raises `ValueError` for
    arguments out of range or an `out_dir` that is not empty.
    """
    out_dir = Path(out_dir).absolute()
    _check_request(num_speakers, clips_per_speaker, seconds, fps, size)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{out_dir} exists and is not an empty directory; choose another path or delete it first")
    speakers = sample_speakers(num_speakers, seed)
    num_clips = num_speakers * clips_per_speaker
    rows: list[tuple[str, ...]] = []
    with _all_or_nothing(out_dir) as partial_dir:
        (partial_dir / "clips").mkdir()
        write = partial(
            _write_speaker_clips,
            clips_dir=partial_dir / "clips",
            num_clips=clips_per_speaker,
            seconds=seconds,
            seed=seed,
            fps=fps,
            size=size,
        )
        for speaker_rows in _map_in_processes(write, speakers, _num_processes(workers, num_clips)):
            rows += speaker_rows
            if progress is not None:
                progress(len(rows), num_clips)
        _write_csv(partial_dir / "avspeech.csv", rows)
        labels = [(s.video_id, s.sex, str(int(s.age)), s.video_id) for s in speakers]
        _write_csv(partial_dir / "labels.csv", [("video_id", "gender", "age", "identity"), *labels])
        pq.write_table(pa.Table.from_pylist([asdict(s) for s in speakers]), partial_dir / "speakers.parquet")
    return CorpusSummary(
        clips_csv=out_dir / "avspeech.csv",
        clips_dir=out_dir / "clips",
        labels_csv=out_dir / "labels.csv",
        speakers_parquet=out_dir / "speakers.parquet",
        num_speakers=num_speakers,
        num_clips=num_clips,
        num_seconds=round(sum(float(end) - float(start) for _, start, end, _, _ in rows), 3),
    )


def write_clip(
    path: str | os.PathLike[str],
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    waveform: NDArray[np.float32],
    fps: int,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write an mp4 file with H.264 video and mono AAC sound. The same input gives the same bytes.

    frames: (height, width, 3) RGB each, all of one size, width and height even. waveform: (samples,); samples outside
    [-1, 1] are clipped. Raises `ValueError` if there are no frames, they have odd or different sizes, or the waveform
    is empty or not mono.
    """
    if len(frames) == 0 or waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(
            f"a clip needs frames and mono sound, got {len(frames)} frames and a waveform of shape {waveform.shape}"
        )
    height, width = frames[0].shape[:2]
    if height % 2 or width % 2 or any(frame.shape != (height, width, 3) for frame in frames):
        raise ValueError(
            f"frames must be RGB, of one size and with even sides, got {sorted({f.shape for f in frames})}"
        )
    with av.open(os.fspath(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "20"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1  # each process writes one clip on one core
        sound = container.add_stream("aac", rate=sample_rate, layout="mono")
        sound.bit_rate = 64_000
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
        container.mux(video.encode(None))
        samples = np.clip(waveform, -1.0, 1.0).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def mouth_openings(
    waveform: NDArray[np.float32], num_frames: int, fps: int, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float64]:
    """Return how far the mouth is open in each frame, from 0 to 1: (num_frames,).

    It is the frame's loudness relative to the loudest frame, less a small threshold.
    """
    edges = np.arange(num_frames + 1) * sample_rate // fps
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    edges = np.minimum(edges, len(waveform))
    loudness = np.sqrt(np.diff(energy[edges]) / np.maximum(np.diff(edges), 1))
    return np.clip(loudness / max(float(loudness.max(initial=0.0)), 1e-9) - 0.08, 0.0, 1.0)


def _write_speaker_clips(
    speaker: Speaker,
    *,
    clips_dir: Path,
    num_clips: int,
    seconds: tuple[float, float],
    seed: int,
    fps: int,
    size: int,
) -> list[tuple[str, ...]]:
    """Write the clips of one speaker and return their rows of the CSV."""
    rows: list[tuple[str, ...]] = []
    end = 0.0
    for index in range(num_clips):
        number = int(speaker.video_id.removeprefix("synth"))
        key = (_CLIP_KEY, number, index)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        num_frames = int(rng.integers(np.ceil(seconds[0] * fps - 1e-6), np.floor(seconds[1] * fps + 1e-6) + 1))
        start = end + round(rng.uniform(1.0, 20.0), 3)
        end = start + num_frames / fps
        start_text, end_text = f"{start:.3f}", f"{end:.3f}"
        take = film(speaker, num_frames, rng, fps=fps, size=size)
        write_clip(clips_dir / f"{speaker.video_id}_{start_text}_{end_text}.mp4", take.frames, take.voice, fps)
        rows.append((speaker.video_id, start_text, end_text, f"{take.x:.6f}", f"{take.y:.6f}"))
    return rows


def film(
    speaker: Speaker,
    num_frames: int,
    rng: np.random.Generator,
    *,
    fps: int = FPS,
    size: int = FRAME_SIZE,
    frame_numbers: Sequence[int] | None = None,
) -> Take:
    """Return one clip of the speaker. Words, noise, pose and scene are drawn from `rng`.

    num_frames: length of the clip. frame_numbers: indices of the frames to draw (default: all); the voice is always
    complete.
    """
    voice = speak(speaker, num_frames / fps, rng, sample_rate=SAMPLE_RATE)
    mouths = mouth_openings(voice, num_frames, fps)
    # The background noise is 20 to 40 dB below the voice: from a busy room to a quiet one.
    level, hiss = rng.uniform(0.6, 1.2), 0.08 * 10 ** rng.uniform(-2.0, -1.0)
    voice = np.float32(level) * (voice + hiss * rng.standard_normal(len(voice), np.float32))
    pose, scene, grain = sample_pose(rng), sample_scene(rng), rng.uniform(0.5, 3.0)
    poses = _swaying_poses(pose, num_frames, fps, rng)
    frames = [
        draw_face(speaker, size=size, pose=poses[i], scene=scene, mouth=float(mouths[i]), noise=grain, rng=rng)
        for i in (range(num_frames) if frame_numbers is None else frame_numbers)
    ]
    return Take(frames, voice, pose.x, pose.y)


def _swaying_poses(pose: Pose, num_frames: int, fps: int, rng: np.random.Generator) -> list[Pose]:
    """Return the pose in each frame: small sinusoidal movements around `pose`."""
    hertz, phase = rng.uniform(0.1, 0.6, 5), rng.uniform(0, 2 * np.pi, 5)
    amplitudes = np.array([0.008, 0.006, 0.04, 0.02, 0.02])
    moves = amplitudes * np.sin(2 * np.pi * np.arange(num_frames)[:, None] / fps * hertz + phase)
    return [
        replace(
            pose,
            x=pose.x + x,
            y=pose.y + y,
            yaw=pose.yaw + yaw,
            pitch=pose.pitch + pitch,
            roll=pose.roll + roll,
        )
        for x, y, yaw, pitch, roll in moves.tolist()
    ]


def _map_in_processes(
    write: Callable[[Speaker], list[tuple[str, ...]]], speakers: list[Speaker], workers: int
) -> Iterator[list[tuple[str, ...]]]:
    """Yield the result of `write` for each speaker, in order."""
    if workers == 1:
        yield from map(write, speakers)
        return
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads may deadlock
    with ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(write, speakers, chunksize=max(1, min(8, len(speakers) // (4 * workers))))


def _num_processes(workers: int | None, num_clips: int) -> int:
    if workers is not None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        return workers
    if num_clips <= _SMALL_CORPUS:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_request(
    num_speakers: int, clips_per_speaker: int, seconds: tuple[float, float], fps: int, size: int
) -> None:
    problems = []
    if not 1 <= num_speakers <= MAX_SPEAKERS:
        problems.append(f"num_speakers must be in 1..{MAX_SPEAKERS}, got {num_speakers}")
    if clips_per_speaker < 1:
        problems.append(f"clips_per_speaker must be at least 1, got {clips_per_speaker}")
    if fps < 1:
        problems.append(f"fps must be at least 1, got {fps}")
    elif not 0.5 <= seconds[0] <= seconds[1]:
        problems.append(f"seconds must be (shortest, longest) with 0.5 <= shortest <= longest, got {seconds}")
    elif np.ceil(seconds[0] * fps - 1e-6) > np.floor(seconds[1] * fps + 1e-6):
        problems.append(
            f"no whole number of frames at {fps} fps lasts between {seconds[0]} and {seconds[1]} s; widen the range"
        )
    if size < 32 or size % 2:
        problems.append(f"size must be even and at least 32 pixels, got {size}")
    if problems:
        raise ValueError("; ".join(problems))


@contextmanager
def _all_or_nothing(out_dir: Path) -> Iterator[Path]:
    """Yield a temporary directory next to `out_dir`. Rename it to `out_dir` at the end, or delete it on an error."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial_dir = out_dir.with_name(f".{out_dir.name}.partial-{os.getpid()}")
    partial_dir.mkdir()
    try:
        yield partial_dir
        os.replace(partial_dir, out_dir)
    except BaseException:
        shutil.rmtree(partial_dir, ignore_errors=True)
        raise


def _write_csv(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
