"""Seconds of one core for one clip, by kind of video: python -m benchmarks.clip_seconds FOLDER.

Films one synthetic speaker in the formats that corpora have, then measures for each, in one process: decoding the clip
alone, everything that preprocessing does for it, and FFmpeg's decoding of every frame of the clip. What preprocessing
does after decoding is the search for faces, the voice activity detector and the encoding of the results. Kinds take
turns, so that a slow minute of the machine does not fall on one of them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np
import torch

from arspm.config import Config, override
from arspm.media.clip_rows import ClipRow
from arspm.media.clips import decode_clip
from arspm.media.detectors import make_detector
from arspm.media.prepare import prepare
from arspm.media.speech import voice_activity_detector
from arspm.synthetic.films import film
from arspm.synthetic.people import sample_speakers
from benchmarks import results

SECONDS = 6  # of a clip
LONG_SECONDS = 600  # of a whole video
CLIP_BEGINS = 0.7189  # of a whole video
CORE_HOUR_DOLLARS = 0.2807 / 16  # cluster/prices.yaml: c6i.4xlarge, spot, 16 virtual cores
NUM_CLIPS = 290_000


def write_video(path: Path, size: tuple[int, int], fps: int, codec: str, seconds: int, **options: str) -> Path:
    """Write a talking face in a frame of this size (width, height), with sound; the film is repeated if it is long."""
    (width, height), rng = size, np.random.default_rng(0)
    side = min(height, 512)
    take = film(sample_speakers(1, seed=3)[0], SECONDS * fps, rng, fps=fps, size=256)
    background = cv2.resize(rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8), size)
    sound_codec, rate = ("libopus", 48_000) if path.suffix == ".webm" else ("aac", 44_100)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream(sound_codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(sound.format, "mono", rate)
        for second in range(seconds):
            for number in range(fps):
                face = take.frames[(second * fps + number) % len(take.frames)]
                picture = background.copy()
                left, top = (width - side) // 2, (height - side) // 2
                picture[top : top + side, left : left + side] = cv2.resize(face, (side, side))
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            begin = second % SECONDS * 16_000
            block = av.AudioFrame.from_ndarray(take.voice[None, begin : begin + 16_000].copy(), "fltp", "mono")
            block.sample_rate, block.pts = 16_000, second * 16_000
            for frame in resampler.resample(block):
                container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def kinds(folder: Path, long_seconds: int) -> Iterator[tuple[str, ClipRow]]:
    """Yield the name of each kind of video and a row of it; the files are written unless they exist."""
    hd = (1280, 720)
    fast = {"preset": "veryfast", "g": "120"}
    vp9 = {"deadline": "realtime", "cpu-used": "8", "g": "120"}
    hevc = {"preset": "veryfast", "g": "120", "x265-params": "log-level=error"}
    short = hevc | {"g": "30"}
    av1 = {"preset": "10", "g": "120"}
    files = {
        "VoxCeleb2's face track, 224 x 224, H.264": ("track.mp4", (224, 224), 25, "libx264", SECONDS, fast),
        "clip, 640 x 360, H.264": ("small.mp4", (640, 360), 25, "libx264", SECONDS, fast),
        "clip, 1280 x 720, H.264": ("clip.mp4", hd, 30, "libx264", SECONDS, fast),
        "clip, 1280 x 720, VP9": ("clip.webm", hd, 30, "libvpx-vp9", SECONDS, vp9),
        "clip, 1280 x 720, HEVC": ("hevc.mp4", hd, 30, "libx265", SECONDS, hevc),
        "clip, 1280 x 720, HEVC, a key frame every second": ("short.mp4", hd, 30, "libx265", SECONDS, short),
        "clip, 1280 x 720, AV1": ("av1.mp4", hd, 30, "libsvtav1", SECONDS, av1),
        "clip, 1920 x 1080, H.264": ("large.mp4", (1920, 1080), 30, "libx264", SECONDS, fast),
        f"6 s of a video of {long_seconds} s, 1280 x 720, H.264": ("whole.mp4", hd, 30, "libx264", long_seconds, fast),
        f"6 s of a video of {long_seconds} s, 1280 x 720, VP9": ("whole.webm", hd, 30, "libvpx-vp9", long_seconds, vp9),
    }
    for kind, (name, size, fps, codec, seconds, options) in files.items():
        path = folder / name
        if not path.exists():
            write_video(path, size, fps, codec, seconds, **options)
            os.sched_setscheduler(
                0, os.SCHED_OTHER, os.sched_param(0)
            )  # SVT-AV1, run as root, takes real-time priority
        begin = CLIP_BEGINS * seconds if seconds == long_seconds else 0.0
        yield kind, ClipRow(1, "a", "a", begin, begin + SECONDS, 0.5, 0.5, str(path))


def decode_all(row: ClipRow) -> None:
    """Decode every frame and every sample of the clip, on one thread, from the key frame before it."""
    with av.open(row.path) as container:
        for stream in container.streams:
            stream.codec_context.thread_count = 1
        container.seek(int(row.start_seconds * av.time_base), backward=True)
        for frame in container.decode(video=0, audio=0):
            if frame.time >= row.end_seconds and isinstance(frame, av.VideoFrame):
                break


def seconds_of(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the videos, written at the first run")
    parser.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    parser.add_argument(
        "--long-seconds", type=int, default=LONG_SECONDS, help=f"length of the whole videos (default: {LONG_SECONDS})"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = override(Config(), {"face.detector": "hog"})
    make_detector("hog")
    voice_activity_detector()
    rows = dict(kinds(arguments.folder, arguments.long_seconds))
    measured: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in rows}
    for number in range(arguments.rounds + 1):
        for kind, row in rows.items():
            part = (row.start_seconds, row.end_seconds)
            works = (
                lambda row=row: decode_all(row),
                lambda row=row, part=part: decode_clip(row.path, part=part, key_frames=True),
                lambda row=row: prepare(row, config),
            )
            each = tuple(seconds_of(work) for work in works)
            if number:  # the first round loads libraries
                measured[kind].append(each)
    figures = {
        kind: {
            name: results.spread(column)
            for name, column in zip(("every_frame", "decoded", "prepared"), zip(*values, strict=True), strict=True)
        }
        for kind, values in measured.items()
    }
    ratios = {
        f"{kind}: decoding every frame / preparing": results.spread(value[0] / value[2] for value in values)
        for kind, values in measured.items()
    }
    results.write(arguments.json, figures, ratios)
    print("| kind | every frame | decoded | prepared (range) | after decoding | core hours of 290,000 | dollars |")
    print("|---|---|---|---|---|---|---|")
    for kind, values in measured.items():
        every, decoded, prepared = (median(column) for column in zip(*values, strict=True))
        low, high = min(value[2] for value in values), max(value[2] for value in values)
        hours = prepared * NUM_CLIPS / 3600
        print(
            f"| {kind} | {every:.2f} | {decoded:.2f} | {prepared:.2f} ({low:.2f} to {high:.2f}) | "
            f"{1 - decoded / prepared:.0%} | {hours:.0f} | {hours * CORE_HOUR_DOLLARS:.2f} |"
        )


if __name__ == "__main__":
    main()
