"""Which frames of a video are decoded, and that they are the pictures of a full decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from arspm.media.clips import Media, decode_clip
from tests.media.media_files import buzz, write_clip

FPS, SECONDS = 25, 6
CODECS = {
    "h264": ("libx264", "mp4", {"x264-params": "bframes=3:b-pyramid=normal:scenecut=0"}),
    "h264, open": ("libx264", "mkv", {"x264-params": "bframes=3:open-gop=1:scenecut=0"}),
    "hevc": ("libx265", "mp4", {"x265-params": "bframes=4:open-gop=0:scenecut=0:log-level=none"}),
    "hevc, open": ("libx265", "mp4", {"x265-params": "bframes=4:open-gop=1:scenecut=0:log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("libsvtav1", "mp4", {"preset": "12", "svtav1-params": "scd=0"}),
    "mpeg2": ("mpeg2video", "ts", {"sc_threshold": "1000000000"}),
    "mpeg4": ("mpeg4", "avi", {"sc_threshold": "1000000000"}),
    "mjpeg": ("mjpeg", "mov", {}),
}
# Of 150 frames at most this many are decoded: those to which others refer. VP9's and MJPEG's decoders leave none out.
REFERENCES = {"h264": 80, "h264, open": 80, "hevc": 80, "hevc, open": 80, "av1": 90, "mpeg2": 60, "mpeg4": 150}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """SVT-AV1 prints its version unless an environment variable says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVT_LOG", "0")
        yield


def moving(num_frames: int) -> list[np.ndarray]:
    """Return frames (96, 128, 3) that differ from each other everywhere."""
    noise = np.random.default_rng(0).integers(40, 216, (24, 80, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    return [np.ascontiguousarray(noise[:96, 2 * n : 2 * n + 128]) for n in range(num_frames)]


def write(folder: Path, kind: str, gop: int, seconds: int = SECONDS, **more: object) -> Path:
    codec, extension, options = CODECS[kind]
    settings = {"gop_size": gop, "options": options} | more
    if codec == "mjpeg":
        settings = {"pix_fmt": "yuvj420p"}
    sound = {"webm": "libopus", "ts": "mp2", "avi": "mp3"}.get(extension, "aac")
    path, rate = folder / f"film.{extension}", 48_000
    return write_clip(
        path, moving(FPS * seconds), buzz(seconds, rate), rate=rate, video_codec=codec, sound_codec=sound, **settings
    )


def every_frame(path: Path) -> dict[float, np.ndarray]:
    """Return all frames of a file by their times, decoded by PyAV alone."""
    with av.open(str(path)) as container:
        return {frame.time: frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}


def require_same_pictures(path: Path, media: Media, start: float = 0.0) -> None:
    """Every chosen frame is, bit by bit, the one that a full decoding shows at its time."""
    every = every_frame(path)
    assert media.frames
    for time, picture in zip(media.frame_seconds, media.frames, strict=True):
        assert time is not None
        (same,) = (other for other, each in every.items() if np.array_equal(each, picture))
        assert same == pytest.approx(time + start, abs=0.03)  # the clip begins when its sound does


@pytest.mark.parametrize("kind", CODECS)
def test_chosen_frames_are_those_of_a_full_decoding(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, 250)
    media = decode_clip(path, key_frames=kind != "mjpeg")
    require_same_pictures(path, media, 0.0)
    print(kind, media.num_decoded, media.frame_seconds)


@pytest.mark.parametrize("kind", CODECS)
def test_k(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, 15)
    media = decode_clip(path, key_frames=True)
    require_same_pictures(path, media)
    print(kind, media.num_decoded, media.frame_seconds, media.has_only_key_frames)
    media = decode_clip(path, part=(2.3, 4.5), key_frames=False)
    print(kind, media.num_decoded)
    media = decode_clip(path, part=(2.3, 4.5), key_frames=True)
    print(kind, media.num_decoded, media.frame_seconds)
