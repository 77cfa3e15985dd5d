"""Clips cut from longer files: the sound and the faces of the asked time, in any container."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from arspm.corpus.schema import DropReason
from arspm.media.clips import decode_clip, decode_sound
from tests.media.media_files import drop_of, write_clip

RATE = 16_000
FPS = 25
SECONDS = 40


def level(second: float) -> int:
    """The brightness of the picture in a second of the film."""
    return 20 + 5 * int(second)


def hertz(second: int) -> int:
    """The pitch of the voice in a second of the film; not a multiple of another second's."""
    return 100 + 7 * second


def film(seconds: int = SECONDS) -> tuple[list[np.ndarray], np.ndarray]:
    """A film in which every second has a brightness and a pitch of its own."""
    frames = [np.full((64, 64, 3), level(n / FPS), np.uint8) for n in range(FPS * seconds)]
    time = np.arange(RATE) / RATE
    loudness = 0.5 + 0.4 * np.sin(2 * np.pi * 4 * time)
    sound = [0.5 * loudness * (((time * hertz(second)) % 1) - 0.5) for second in range(seconds)]
    return frames, np.concatenate(sound).astype(np.float32)


def pitch(sound: np.ndarray) -> float:
    """The frequency of the strongest partial of one second."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
    spectrum[: 90 * sound.size // RATE] = 0
    return float(np.argmax(spectrum)) * RATE / sound.size


def check(media, start: int, seconds: int, *, frames: bool = True) -> None:
    """Every second has its own pitch, and every frame is of the clip."""
    assert media.waveform.size == pytest.approx(seconds * RATE, abs=RATE // 100)
    for second in range(seconds):
        middle = media.waveform[int((second + 0.1) * RATE) : int((second + 0.9) * RATE)]
        assert pitch(middle) == pytest.approx(hertz(start + second), abs=3), second
    if frames:
        levels = [frame.mean() for frame in media.frames]
        assert len(levels) == 8
        assert levels == sorted(levels)
        assert level(max(0, start - 1 / FPS)) - 2 <= levels[0] <= level(start) + 7  # MPEG's clock is a frame off
        assert level(start + seconds - 1) - 7 <= levels[-1] <= level(start + seconds - 1) + 2
        times = media.frame_seconds
        assert all(-1 / FPS <= time < seconds for time in times)
        for shown, time in zip(levels, times, strict=True):  # a second's brightness says when its frames are
            assert level(start + time - 1.5 / FPS) - 2 <= shown <= level(start + time + 1.5 / FPS) + 2


FORMATS = {
    "film.mp4": ("libx264", "aac"),
    "film.mkv": ("libx264", "flac"),
    "film.webm": ("libvpx", "libopus"),
    "film.mov": ("mpeg4", "pcm_s16le"),
    "film.avi": ("mpeg4", "mp3"),
    "film.ts": ("libx264", "aac"),
    "film.mpg": ("mpeg1video", "mp2"),
    "film.3gp": ("mpeg4", "aac"),
    "film.wmv": ("wmv2", "mp3"),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same film in every format."""
    folder = tmp_path_factory.mktemp("films")
    frames, sound = film()
    for name, (video, audio) in FORMATS.items():
        rate = 48_000 if audio == "libopus" else 44_100
        resampled = np.interp(np.arange(SECONDS * rate) / rate, np.arange(sound.size) / RATE, sound).astype(np.float32)
        options = {"gop_size": 250} if video != "mpeg1video" else {"bit_rate": 400_000}
        write_clip(folder / name, frames, resampled, rate=rate, video_codec=video, sound_codec=audio, **options)
    return folder


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("start", "end"), [(0, 3), (1, 4), (12, 18), (34, 40), (17, 30)])
def test_a_part_has_its_own_sound_and_frames(films: Path, name: str, start: int, end: int) -> None:
    """No more than six seconds are heard, and no frame is of another time."""
    media = decode_clip(films / name, part=(float(start), float(end)))
    check(media, start, min(end - start, 6))
    assert media.source_seconds == pytest.approx(SECONDS, abs=0.2)
    assert media.source_bytes == (films / name).stat().st_size
    codecs = {"libx264": "h264", "libvpx": "vp8", "libopus": "opus"}
    assert [media.video_codec, media.audio_codec] == [codecs.get(each, each) for each in FORMATS[name]]
    assert (media.start_seconds, media.has_own_sound) == (0, True)


def test_a_part_of_a_sound_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "s.mp3", (), film()[1], rate=RATE, sound_codec="mp3")
    check(decode_clip(tmp_path / "s.mp3", part=(31.0, 34.0), num_frames=0), 31, 3, frames=False)


@pytest.fixture(scope="module")
def split_film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The film as a video without sound and a sound without pictures."""
    folder = tmp_path_factory.mktemp("split")
    frames, sound = film()
    write_clip(folder / "film.mp4", frames, fps=FPS, video_codec="libx264", gop_size=250)
    write_clip(folder / "film.m4a", (), sound, rate=RATE, sound_codec="aac")
    return folder / "film.mp4", folder / "film.m4a"


@pytest.mark.parametrize("part", [None, (0.0, 3.0), (12.0, 18.0), (34.0, 40.0)])
def test_the_sound_of_a_video_without_sound_is_that_of_the_other_file(split_film, part) -> None:
    video, sound = split_film
    media = decode_clip(video, sound=sound, part=part)
    start, end = (0, 6) if part is None else map(int, part)
    check(media, start, end - start)
    assert (media.has_own_sound, media.video_codec, media.audio_codec) == (False, "h264", "aac")
    assert media.source_bytes == video.stat().st_size
    assert media.source_seconds == pytest.approx(SECONDS, abs=0.2)


def test_drop_reasons_of_a_video_without_sound(split_film, films: Path, tmp_path: Path) -> None:
    video, sound = split_film
    assert drop_of(video).reason is DropReason.no_sound
    assert drop_of(video, sound=video).reason is DropReason.no_sound
    assert drop_of(video, sound=tmp_path / "none.m4a").reason is DropReason.missing_file
    assert drop_of(sound, sound=sound).reason is DropReason.no_video
    assert decode_clip(films / "film.mp4", sound=tmp_path / "none.m4a").has_own_sound, "then the other is not read"
    short = write_clip(tmp_path / "short.mp4", film(2)[0], fps=FPS, video_codec="libx264")
    assert drop_of(short, sound=sound, part=(10.0, 15.0)).reason is DropReason.no_video, "it ends before"


def test_a_part_beyond_the_end_is_no_clip(films: Path) -> None:
    drop = drop_of(films / "film.mp4", part=(38.0, 44.0))
    assert drop.reason is DropReason.wrong_length
    assert "lasts 40." in drop.detail
    assert drop_of(films / "film.mp4", part=(1.0, 11.0), max_seconds=9.5).reason is DropReason.too_long


def test_a_long_file_without_a_part_gives_its_beginning(films: Path) -> None:
    check(decode_clip(films / "film.mkv"), 0, 6)
    assert decode_sound(films / "film.mkv").size == pytest.approx(SECONDS * RATE, rel=0.01)
    assert decode_sound(films / "film.ts", max_seconds=7).size == 7 * RATE


@pytest.mark.parametrize(("before", "after"), [(2.5, 0.0), (0.0, 4.0), (1.5, 1.5)])
def test_frames_are_of_the_time_of_the_sound(tmp_path: Path, before: float, after: float) -> None:
    """The video begins before the sound, or goes on after it, as in cuts at key frames."""
    frames, sound = film(8)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("flac", rate=RATE, layout="mono")
        for number, picture in enumerate(frames):
            each = av.VideoFrame.from_ndarray(picture, "rgb24")
            each.pts = number
            container.mux(video.encode(each))
        container.mux(video.encode(None))
        heard = sound[int(before * RATE) : int((8 - after) * RATE)]
        for begin in range(0, heard.size, 1600):
            piece = av.AudioFrame.from_ndarray(
                (heard[None, begin : begin + 1600] * 32767).astype(np.int16), "s16", "mono"
            )
            piece.sample_rate, piece.pts = RATE, int(before * RATE) + begin
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    media = decode_clip(path, part=(100.0, 100.0 + 8 - before - after))
    assert media.waveform.size == min(heard.size, 6 * RATE)
    levels = [frame.mean() for frame in media.frames]
    assert min(levels) >= level(before) - 2
    assert max(levels) <= level(min(8 - after, before + 6)) + 2
