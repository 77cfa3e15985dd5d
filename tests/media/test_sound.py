"""The sound of recordings with many channels, several tracks, and formats that change."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from arspm.media.clips import decode_clip, decode_sound
from arspm.media.sound import downmix
from arspm.media.speech import level_dbfs
from tests.media.media_files import buzz, pictures, write_clip

RATE = 16_000
VOICE = buzz(2.0, RATE)


def load(channels: list[np.ndarray], path: Path) -> np.ndarray:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return decode_sound(path)


def test_a_stereo_sound_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    other = np.roll(VOICE, 3000)
    np.testing.assert_allclose(load([VOICE, other], tmp_path / "s.wav"), (VOICE + other) / 2, atol=1e-5)
    np.testing.assert_allclose(load([VOICE], tmp_path / "s.wav"), VOICE, atol=1e-6)


@pytest.mark.parametrize("factor", [-1.0, -0.97, -0.8])
def test_channels_that_cancel_give_the_louder_one(tmp_path: Path, factor: float) -> None:
    np.testing.assert_allclose(load([VOICE, np.float32(factor) * VOICE], tmp_path / "s.wav"), VOICE, atol=1e-5)
    louder = load([np.float32(factor) * VOICE * 0.5, VOICE * 0.5, np.zeros_like(VOICE)], tmp_path / "s.wav")
    assert level_dbfs(louder) > level_dbfs(VOICE) - 13


def test_a_silent_channel_only_lowers_the_level(tmp_path: Path) -> None:
    np.testing.assert_allclose(load([VOICE, np.zeros_like(VOICE)], tmp_path / "s.wav"), VOICE / 2, atol=1e-5)


def test_surround_sound_has_its_voice_in_the_centre(tmp_path: Path) -> None:
    """ITU-R BS.775: centre 1, sides 0.707, behind 0.5, no low-frequency channel, scaled to a sum of 1."""
    names = ["FL", "FR", "FC", "LFE", "BL", "BR"]
    total = 1 + 2 * 0.5**0.5 + 2 * 0.5
    for name, weight in zip(names, (0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5), strict=True):
        channels = np.zeros((6, VOICE.size), np.float32)
        channels[names.index(name)] = VOICE
        if weight:
            np.testing.assert_allclose(downmix(channels, names), VOICE * weight / total, atol=1e-6)
    path = write_clip(tmp_path / "s.flac", (), channels * 0, rate=RATE, sound_codec="flac")
    centre = np.zeros((6, VOICE.size), np.float32)
    centre[2], centre[3] = VOICE, 1.0
    path = write_clip(tmp_path / "s.flac", (), centre, rate=RATE, sound_codec="flac")
    np.testing.assert_allclose(decode_sound(path), VOICE / total, atol=2e-3)


def mp3(sound: np.ndarray, rate: int, stereo: bool) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        layout = "stereo" if stereo else "mono"
        stream = container.add_stream("mp3", rate=rate, layout=layout)
        for begin in range(0, sound.size, 1152):
            block = np.ascontiguousarray(np.tile(sound[begin : begin + 1152], (1 + stereo, 1)), np.float32)
            frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
            frame.sample_rate, frame.pts = rate, begin
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("first", "second"),
    [((44_100, False), (48_000, True)), ((48_000, True), (16_000, False)), ((22_050, True), (22_050, False))],
)
def test_a_recording_that_changes_its_format_is_used_to_the_end(
    first: tuple[int, bool], second: tuple[int, bool]
) -> None:
    """As files do that are joined byte by byte, and radio recordings."""
    joined = b"".join(mp3(buzz(1.5, rate), rate, stereo) for rate, stereo in (first, second))
    loaded = decode_sound(io.BytesIO(joined))
    assert loaded.size == pytest.approx(3 * RATE, abs=0.15 * RATE)
    for part in (loaded[: RATE // 2], loaded[-RATE // 2 :]):
        assert level_dbfs(part) == pytest.approx(level_dbfs(VOICE), abs=3)


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_is_heard_and_the_default_video_is_seen(tmp_path: Path, default: int) -> None:
    path = tmp_path / "tracks.mkv"
    with av.open(str(path), "w") as container:
        videos = [container.add_stream("mpeg4", rate=25) for _ in range(3)]
        tracks = [container.add_stream("flac", rate=RATE, layout="mono") for _ in range(3)]
        for streams in (videos, tracks):
            for number, stream in enumerate(streams):
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for video in videos:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for second in range(50):
            for number, video in enumerate(videos):
                picture = np.full((64, 64, 3), 60 * number + 40, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            for number, track in enumerate(tracks):
                block = VOICE[second * 640 : (second + 1) * 640] * (0.2 * number + 0.2)
                frame = av.AudioFrame.from_ndarray((block[None] * 32767).astype(np.int16), "s16", "mono")
                frame.sample_rate, frame.pts = RATE, second * 640
                container.mux(track.encode(frame))
        for stream in (*videos, *tracks):
            container.mux(stream.encode(None))
    media = decode_clip(path)
    assert np.abs(media.waveform).max() == pytest.approx(np.abs(VOICE).max() * (0.2 * default + 0.2), rel=0.02)
    assert media.frames[0].mean() == pytest.approx(60 * default + 40, abs=3)


def test_the_picture_size_may_change_in_the_middle(tmp_path: Path) -> None:
    parts = []
    for width in (128, 192):
        codecs = {"video_codec": "mpeg2video", "sound_codec": "mp2"}
        path = write_clip(tmp_path / f"{width}.ts", pictures(25, width=width), buzz(1.0), **codecs)
        parts.append(path.read_bytes())
    media = decode_clip(b"".join(parts))
    assert {frame.shape[1] for frame in media.frames} <= {128, 192}
