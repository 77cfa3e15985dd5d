"""Decoded frames and sound of real files. `test_dropped_clips.py` has the files that are dropped."""

import io
import struct

import av
import cv2
import fsspec
import numpy as np
import pytest
import soundfile

from arspm.corpus.schema import DropReason
from arspm.media.clips import decode_clip, decode_sound, load_speech
from arspm.media.dropped import DroppedClip
from arspm.media.frames import HLG, PQ, read_picture, tone_mapped
from arspm.media.speech import find_speech
from tests.media.media_files import buzz, pictures, voice, write_clip


def test_frames_are_evenly_spaced_over_the_clip(clip):
    media = decode_clip(clip)
    assert [frame.shape for frame in media.frames] == [(96, 128, 3)] * 8
    assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in media.frames)
    brightness = np.array([frame[60:, 60:].mean() for frame in media.frames])
    steps = np.diff(brightness) / (200 / 8)  # 1 where the frames are an eighth of the clip apart
    assert (steps > 0.5).all()
    assert (steps < 1.8).all()
    assert brightness[0] < 40 + 200 / 6
    assert brightness[-1] > 40 + 200 * 5 / 6


@pytest.mark.parametrize(("num_frames", "in_clip"), [(1, 30), (4, 30), (8, 5), (8, 1), (8, 16), (8, 17)])
def test_number_of_frames(tmp_path, num_frames, in_clip):
    path = write_clip(tmp_path / "c.avi", pictures(in_clip), buzz(1.0), sound_codec="mp3")
    assert len(decode_clip(path, num_frames=num_frames).frames) == min(num_frames, in_clip)


def test_sound_is_mono_at_16_khz(clip):
    waveform = decode_clip(clip).waveform
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert waveform.size == pytest.approx(48_000, abs=1100)  # AAC comes in blocks of 1024 samples at 44.1 kHz


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_removes_aliases(tmp_path, rate):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    above = 0.5 * np.sin(2 * np.pi * 11_000 * time) if rate > 22_050 else 0  # its alias would be at 5 kHz
    soundfile.write(tmp_path / "tone.wav", tone + above, rate, subtype="FLOAT")
    waveform = decode_sound(tmp_path / "tone.wav")
    assert waveform.size == pytest.approx(16_000, abs=20)
    spectrum = np.abs(np.fft.rfft(waveform[1000:15_000] * np.hanning(14_000))) / 3500
    hz = np.fft.rfftfreq(14_000, 1 / 16_000)
    assert spectrum[np.abs(hz - 1000) < 10].max() == pytest.approx(0.5, rel=0.02)
    assert spectrum[hz > 1100].max() < 1e-3


def test_bytes_open_file_path_and_uri_give_the_same(clip):
    fsspec.filesystem("memory").pipe("/clips-test/clip.mp4", clip.read_bytes())
    expected = decode_clip(clip)
    for source in (clip.read_bytes(), io.BytesIO(clip.read_bytes()), str(clip), "memory://clips-test/clip.mp4"):
        media = decode_clip(source)
        np.testing.assert_array_equal(media.waveform, expected.waveform)
        np.testing.assert_array_equal(media.frames, expected.frames)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), (0, -1)),  # a quarter clockwise: upper left goes to upper right
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),
        ((-1, 0, 0, 1), (0, -1)),  # mirrored
        ((1, 0, 0, -1), (-1, 0)),
        ((0, 1, 1, 0), (0, 0)),
        ((0, -1, -1, 0), (-1, -1)),
        ((1, 0, 0, 1), (0, 0)),
    ],
)
def test_the_display_matrix_in_the_file_is_applied(clip, matrix, corner):
    a, b, c, d = matrix
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, layer, volume: 40 bytes before the matrix
    numbers = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *numbers)
    frame = decode_clip(bytes(data)).frames[0]
    assert frame.shape == ((128, 96, 3) if a == 0 else (96, 128, 3))
    red = {(y, x): frame[y, x, 0] > 180 and frame[y, x, 1] < 90 for y in (0, -1) for x in (0, -1)}
    assert [position for position, is_red in red.items() if is_red] == [corner]


def test_non_square_pixels_are_resampled(tmp_path):
    from fractions import Fraction

    frames = pictures(10, width=64, height=96)
    path = write_clip(tmp_path / "wide.mp4", frames, buzz(1.0), sample_aspect_ratio=Fraction(2, 1))
    assert decode_clip(path).frames[0].shape == (96, 128, 3)


def read_jpeg(path) -> np.ndarray:
    return cv2.imread(str(path))[:, :, ::-1]


def picture_drop(source, **options) -> DroppedClip:
    with pytest.raises(DroppedClip) as caught:
        read_picture(source, **options)
    return caught.value


def test_pictures_of_every_kind_are_read(tmp_path):
    done, data = cv2.imencode(".png", pictures(1)[0][:, :, ::-1])
    assert done
    (tmp_path / "s.png").write_bytes(data.tobytes())
    np.testing.assert_array_equal(read_picture(tmp_path / "s.png"), pictures(1)[0])
    assert picture_drop(tmp_path / "none.png").reason is DropReason.missing_file
    for name in ("s.jpg", "s.JPEG", "s%03d.jpg"):  # FFmpeg would take the last for a series of files
        cv2.imwrite(str(tmp_path / name), pictures(1)[0][:, :, ::-1])
        np.testing.assert_array_equal(read_picture(tmp_path / name), read_jpeg(tmp_path / name))
    for kind in (".webp", ".avif", ".gif", ".bmp"):  # whatever the file's name says
        done, other = cv2.imencode(kind, pictures(1)[0][:, :, ::-1])
        assert done
        (tmp_path / "other.jpg").write_bytes(other.tobytes())
        found = read_picture(tmp_path / "other.jpg")
        assert np.abs(found.astype(int) - pictures(1)[0]).mean() < 20  # a GIF has few colours
    for broken in (b"", b"not a picture", data.tobytes()[:60]):
        assert picture_drop(broken).reason is DropReason.undecodable
    drop = picture_drop(tmp_path / "s.png", max_pixels=128 * 96 - 1)
    assert (drop.reason, drop.detail) == (
        DropReason.undecodable,
        "picture: 128x96 pixels, more than the limit of 12287",
    )


def test_a_storage_failure_does_not_drop_the_clip(clip):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("the network is down")

    with pytest.raises(ConnectionResetError):
        decode_clip(Broken(clip.read_bytes()))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.mp4", "aac")],
)
def test_load_speech_reads_every_usual_format(tmp_path, name, codec):
    sound = voice(1.5)
    path = write_clip(tmp_path / name, (), sound, rate=16_000, sound_codec=codec)
    loaded = load_speech(path)
    assert loaded.dtype == np.float32
    assert loaded.size == pytest.approx(24_000, abs=2400)
    np.testing.assert_allclose(loaded, find_speech(decode_sound(path)).waveform)


def test_the_sound_of_a_video_stops_at_the_limit(clip):
    assert decode_sound(clip, max_seconds=1.0).size == 16_000
    np.testing.assert_array_equal(decode_sound(clip), decode_clip(clip).waveform)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"hello"), "cannot be decoded"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "a web page, not a recording"),
        (lambda path: path.write_bytes(b"RIFF\x10\0\0\0WEBPVP8 "), "a picture, not a recording"),
        (lambda path: soundfile.write(path, buzz(2.0, 16_000), 16_000), r"0\.0 of 2\.0 s are speech; 0\.3 s needed"),
        (lambda path: soundfile.write(path, np.zeros(0), 16_000), "0.00 s of sound"),
        (lambda path: soundfile.write(path, np.zeros(16_000), 16_000), "level -inf dBFS"),
    ],
)
def test_load_speech_reports_the_problem_in_one_line(tmp_path, make, message):
    path = tmp_path / "mine.wav"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_speech(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def encoded(nits: float, transfer: int) -> float:
    """The signal of grey light by ITU-R BT.2100's definition."""
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = (nits / 10_000) ** m1
        return ((c1 + c2 * power) / (1 + c3 * power)) ** m2
    scene = (nits / 1000) ** (1 / 1.2)
    a, b = 0.17883277, 0.28466892
    return float(np.sqrt(3 * scene) if scene <= 1 / 12 else a * np.log(12 * scene - b) + 0.5 - a * np.log(4 * a))


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_mapped_to_the_range_of_a_usual_screen(transfer):
    """Grey stays grey. Paper, at 203 nits, is nearly white. Half of its light is as in BT.709; more is compressed."""
    levels = {}
    for nits in (1, 20, 101.5, 203, 1000):
        signal = np.full((2, 2, 3), encoded(nits, transfer), np.float32)
        pixel = tone_mapped(signal, transfer)[0, 0]
        assert np.ptp(pixel.astype(int)) <= 1
        levels[nits] = int(pixel[0])
    assert levels[101.5] == pytest.approx(255 * (1.099 * 0.5**0.45 - 0.099), abs=2)
    assert levels[20] == pytest.approx(255 * (1.099 * (20 / 203) ** 0.45 - 0.099), abs=2)
    assert 225 <= levels[203] < levels[1000] <= 255
    assert levels[1] < 20


def test_hdr_video_is_recognized(tmp_path):
    frames = pictures(10)
    options = {"color_trc": 16, "color_primaries": 9, "colorspace": 9}
    path = write_clip(tmp_path / "hdr.mp4", frames, buzz(1.0), video_codec="libx264")
    usual = decode_clip(path).frames[0].mean()
    data = path.read_bytes()
    assert usual > 30
    with av.open(io.BytesIO(data)) as source, av.open(str(tmp_path / "pq.mkv"), "w") as target:
        video = target.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        for name, value in options.items():
            setattr(video.codec_context, name, value)
        sound = target.add_stream_from_template(source.streams.audio[0])
        for frame in pictures(10):
            target.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        target.mux(video.encode(None))
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
    assert abs(decode_clip(tmp_path / "pq.mkv").frames[0].mean() - usual) > 5, "read as PQ"
