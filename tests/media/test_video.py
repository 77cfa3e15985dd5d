"""Which frames of a video are decoded, and that they are the pictures of a full decoding."""

from __future__ import annotations

import os
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
# Of 150 frames, at most this many are decoded: those to which others refer. The other decoders leave none out.
REFERENCES = {"h264": 80, "h264, open": 80, "hevc": 70, "hevc, open": 70, "av1": 80}


@pytest.fixture(autouse=True)
def _usual_priority() -> Iterator[None]:
    """SVT-AV1, run as root, gives the calling thread real-time priority, which later tests' browsers would inherit."""
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """SVT-AV1 prints its version unless an environment variable says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVT_LOG", "0")
        yield


def moving(num_frames: int) -> list[np.ndarray]:
    """Return frames (96, 128, 3) that differ from each other everywhere."""
    noise = np.random.default_rng(0).integers(40, 216, (24, 110, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
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


@pytest.mark.parametrize("kind", REFERENCES)
def test_frames_to_which_no_other_refers_are_not_decoded(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, 250)
    media = decode_clip(path, key_frames=True)
    assert not media.has_only_key_frames, "there is one"
    assert media.num_decoded <= REFERENCES[kind]
    assert len(media.frames) == 8
    require_same_pictures(path, media)


@pytest.mark.parametrize("kind", [kind for kind in CODECS if kind not in ("mpeg2", "mpeg4")])
def test_key_frames_alone_are_the_pictures_of_a_full_decoding(tmp_path: Path, kind: str) -> None:
    """A key frame every 0.6 s; MJPEG has no other frames. Each is decoded by itself."""
    path = write(tmp_path, kind, 15)
    media = decode_clip(path, key_frames=True)
    assert media.has_only_key_frames
    assert media.num_decoded == len(media.frames) == 8
    times = np.array(media.frame_seconds)
    assert (np.abs(times - (np.arange(8) + 0.5) * SECONDS / 8) < SECONDS / 8).all()
    require_same_pictures(path, media)
    part = decode_clip(path, part=(2.3, 4.5), key_frames=True)
    assert part.num_decoded == len(part.frames) == (8 if kind == "mjpeg" else 4)
    require_same_pictures(path, part, 2.3)
    assert not decode_clip(path).has_only_key_frames, "only where the caller wants it"


@pytest.mark.parametrize("kind", CODECS)
def test_only_the_seconds_of_the_clip_are_decoded(tmp_path: Path, kind: str) -> None:
    """The clip begins at 4.1 s. The key frames before it are at 3 and at 4 s; seeking goes to the first of them."""
    path = write(tmp_path, kind, FPS, 10)
    media = decode_clip(path, part=(4.1, 4.9))
    assert media.num_decoded <= 0.95 * FPS + 1, "from 4 s to 4.9 s, and the second field of a frame"
    assert len(media.frames) == min(8, media.num_decoded - 3)
    require_same_pictures(path, media, 4.1)


def test_sound_that_comes_late_in_the_file_does_not_prolong_the_decoding(tmp_path: Path) -> None:
    """In the file, the sound is 1.5 s behind the picture."""
    path = write(tmp_path, "h264", FPS, 10)
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "late.mkv"), "w", options={"max_interleave_delta": "1"}) as target,
    ):
        copies = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None]

        def place(packet: av.Packet) -> float:
            return float(packet.dts * packet.time_base) + (1.5 if packet.stream.type == "audio" else 0.0)

        for packet in sorted(packets, key=place):
            packet.stream = copies[packet.stream]
            target.mux_one(packet)
    late = decode_clip(tmp_path / "late.mkv", part=(4.1, 4.9))
    assert late.num_decoded <= 0.95 * FPS + 1
    require_same_pictures(path, late, 4.1)


def test_too_few_or_badly_spaced_key_frames_are_not_enough(tmp_path: Path) -> None:
    """Four in the first second, and then none; or one every 2 s. Then other frames are decoded, too."""
    for gop, forced in ((250, (0, 6, 12, 18)), (2 * FPS, ())):
        path = write_with_keys(tmp_path / "keys.mp4", gop, forced)
        media = decode_clip(path, key_frames=True)
        assert not media.has_only_key_frames
        assert media.num_decoded > 60
        np.testing.assert_array_equal(media.frames, decode_clip(path).frames)


INTRA_REFRESH = "intra-refresh=1:keyint=15:bframes=0"


@pytest.mark.parametrize("options", [INTRA_REFRESH, "tff=1:interlaced=1"], ids=["intra_refresh", "interlaced"])
def test_a_key_frame_that_may_not_be_the_whole_picture_is_not_taken(tmp_path: Path, options: str) -> None:
    """x264's intra refresh renews the picture bit by bit. Half of an interlaced frame may be in the next packet."""
    path = write(tmp_path, "h264", 15, options={"x264-params": options})
    media = decode_clip(path, key_frames=True)
    assert not media.has_only_key_frames
    require_same_pictures(path, media)


def test_decoding_begins_where_the_picture_becomes_complete_in_time(tmp_path: Path) -> None:
    """With intra refresh, the "key frames" are complete half a second later."""
    path = write(tmp_path, "h264", 15, options={"x264-params": INTRA_REFRESH})
    part = decode_clip(path, part=(3.05, 5.05), key_frames=True)
    assert part.frame_seconds[0] == pytest.approx(0.03, abs=0.005), "decoding begins before the last key frame"
    require_same_pictures(path, part, 3.05)


def test_key_frames_of_old_codecs_are_not_taken(tmp_path: Path) -> None:
    """They may be less sharp than the others."""
    path = write(tmp_path, "mpeg2", 15)
    media = decode_clip(path, key_frames=True)
    assert media.num_decoded > 140
    np.testing.assert_array_equal(media.frames, decode_clip(path).frames)


def write_with_keys(path: Path, gop: int, forced: tuple[int, ...]) -> Path:
    """Write a film of six seconds with a key frame every `gop` frames, and at these numbers."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"x264-params": "scenecut=0"})
        video.width, video.height, video.pix_fmt, video.gop_size = 128, 96, "yuv420p", gop
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        block = av.AudioFrame.from_ndarray(buzz(SECONDS, 48_000)[None], "fltp", "mono")
        block.sample_rate = 48_000
        for number, picture in enumerate(moving(FPS * SECONDS)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pict_type = av.video.frame.PictureType.I if number in forced else av.video.frame.PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(sound.encode(block))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    return path
