"""Every reason for which a file is dropped, with a real file that has it."""

import io
import pickle
import struct

import av
import cv2
import fsspec
import numpy as np
import pytest
import soundfile

from arspm.corpus.schema import DropReason
from arspm.media.clips import DroppedClip, decode_clip, load_speech

RATE = 44_100


def buzz(seconds: float, rate: int = RATE) -> np.ndarray:
    """Something voiced with syllables, (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * ((time * 130) % 1 - 0.5) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def pictures(num_frames: int, width: int = 128, height: int = 96) -> list[np.ndarray]:
    """Grey frames, brighter from first to last, with a red upper left corner: order and orientation can be read."""
    frames = [np.full((height, width, 3), 40 + 200 * i // num_frames, np.uint8) for i in range(num_frames)]
    for frame in frames:
        frame[: height // 3, : width // 3] = (255, 0, 0)
    return frames


def write_clip(path, frames=(), sound=None, *, rate=RATE, fps=25, video_codec="mpeg4", sound_codec="aac", **options):
    """Write frames (uint8 RGB) and sound ((samples,) or (channels, samples)) as a file of FFmpeg's choosing."""
    with av.open(str(path), "w") as container:
        if len(frames):
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv420p"
            for name, value in options.items():
                setattr(video, name, value)
        if sound is not None:
            samples = np.atleast_2d(sound)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
        if len(frames):
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        if sound is not None:
            for start in range(0, samples.shape[1], 1024):
                block = np.ascontiguousarray(samples[:, start : start + 1024], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def drop_of(source, **options) -> DroppedClip:
    with pytest.raises(DroppedClip) as caught:
        decode_clip(source, **options)
    return caught.value


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", pictures(75), buzz(3.0))


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
def test_resampling_keeps_a_tone_and_lets_no_alias_in(tmp_path, rate):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    above = 0.5 * np.sin(2 * np.pi * 11_000 * time) if rate > 22_050 else 0  # 5 kHz, were it to fold
    soundfile.write(tmp_path / "tone.wav", tone + above, rate, subtype="FLOAT")
    waveform = load_speech(tmp_path / "tone.wav")
    assert waveform.size == pytest.approx(16_000, abs=20)
    spectrum = np.abs(np.fft.rfft(waveform[1000:15_000] * np.hanning(14_000))) / 3500
    hz = np.fft.rfftfreq(14_000, 1 / 16_000)
    assert spectrum[np.abs(hz - 1000) < 10].max() == pytest.approx(0.5, rel=0.02)
    assert spectrum[hz > 1100].max() < 1e-3


@pytest.mark.parametrize("num_channels", [2, 6])
def test_mono_is_the_mean_of_the_channels(tmp_path, num_channels):
    one = buzz(1.0, 16_000)
    channels = np.stack([one * (i + 1) / num_channels for i in range(num_channels)])
    soundfile.write(tmp_path / "many.wav", channels.T, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_speech(tmp_path / "many.wav"), channels.mean(axis=0), atol=1e-5)


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
    ],
)
def test_rotation_of_a_telephone_is_honoured(clip, matrix, corner):
    a, b, c, d = matrix
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, layer, volume: 40 bytes before the matrix
    numbers = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *numbers)
    frame = decode_clip(bytes(data)).frames[0]
    assert frame.shape == ((128, 96, 3) if a == 0 else (96, 128, 3))
    red = {(y, x): frame[y, x, 0] > 180 and frame[y, x, 1] < 90 for y in (0, -1) for x in (0, -1)}
    assert [place for place, is_red in red.items() if is_red] == [corner]


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    from fractions import Fraction

    frames = pictures(10, width=64, height=96)
    path = write_clip(tmp_path / "wide.mp4", frames, buzz(1.0), sample_aspect_ratio=Fraction(2, 1))
    assert decode_clip(path).frames[0].shape == (96, 128, 3)


def read_jpeg(path) -> np.ndarray:
    return cv2.imread(str(path))[:, :, ::-1]


def test_sound_file_with_a_picture(tmp_path):
    soundfile.write(tmp_path / "s.wav", buzz(1.0), RATE)
    done, data = cv2.imencode(".png", pictures(1)[0][:, :, ::-1])
    assert done
    (tmp_path / "s.png").write_bytes(data.tobytes())
    media = decode_clip(tmp_path / "s.wav", image=tmp_path / "s.png")
    np.testing.assert_array_equal(media.frames, pictures(1))
    assert drop_of(tmp_path / "s.wav", image=tmp_path / "none.png").reason is DropReason.missing_file
    for name in ("s.jpg", "s.JPEG", "s%03d.jpg"):  # the last would be a series of files, were it FFmpeg that opens it
        cv2.imwrite(str(tmp_path / name), pictures(1)[0][:, :, ::-1])
        assert np.array_equal(
            decode_clip(tmp_path / "s.wav", image=tmp_path / name).frames[0], read_jpeg(tmp_path / name)
        )
    for broken in (b"", b"not a picture", data.tobytes()[:60]):
        assert drop_of(tmp_path / "s.wav", image=broken).reason is DropReason.undecodable
    drop = drop_of(tmp_path / "s.wav", image=tmp_path / "s.png", max_pixels=128 * 96 - 1)
    assert (drop.reason, drop.detail) == (
        DropReason.undecodable,
        "picture: 128x96 pixels, more than the limit of 12287",
    )


def test_missing_file(tmp_path):
    assert drop_of(tmp_path / "none.mp4").reason is DropReason.missing_file
    assert drop_of("memory://clips-test/none.mp4").reason is DropReason.missing_file


def test_undecodable(clip, tmp_path):
    data = clip.read_bytes()
    damaged = bytearray(data)
    middle = slice(len(data) // 10, len(data) // 2)
    damaged[middle] = np.random.default_rng(1).bytes(len(damaged[middle]))
    for broken in (b"", np.random.default_rng(0).bytes(5000), data[: len(data) // 2], data[:100], bytes(damaged)):
        assert drop_of(broken).reason is DropReason.undecodable
    assert drop_of(tmp_path).reason is DropReason.undecodable


def test_a_playlist_that_names_other_files_is_not_followed(clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    playlist = f"ffconcat version 1.0\nfile '{clip.name}'\n".encode()
    assert drop_of(playlist).reason is DropReason.undecodable
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    assert drop_of(playlist).reason is DropReason.undecodable


def test_limits(clip):
    drop = drop_of(clip, max_pixels=128 * 96 - 1)
    assert (drop.reason, drop.detail) == (DropReason.undecodable, "128x96 pixels, more than the limit of 12287")
    drop = drop_of(clip, max_seconds=2.5)
    assert (drop.reason, drop.detail) == (DropReason.undecodable, "longer than the limit of 2.5 s")


def test_limit_of_seconds_holds_where_the_header_tells_no_length(tmp_path):
    path = write_clip(tmp_path / "c.mpg", pictures(75), buzz(3.0), video_codec="mpeg1video", sound_codec="mp2")
    data = path.read_bytes()
    decode_clip(data)
    drop = drop_of(data + data[:-4], max_seconds=4)  # two streams, one after the other
    assert (drop.reason, drop.detail) == (DropReason.undecodable, "longer than the limit of 4 s")


def test_no_video(tmp_path):
    soundfile.write(tmp_path / "s.wav", buzz(1.0), RATE)
    assert drop_of(tmp_path / "s.wav").reason is DropReason.no_video


def test_no_sound(tmp_path):
    path = write_clip(tmp_path / "c.mp4", pictures(10))
    assert drop_of(path).reason is DropReason.no_sound


@pytest.mark.parametrize("seconds", [0, 0.01, 0.3])
def test_too_short(tmp_path, seconds):
    soundfile.write(tmp_path / "s.wav", buzz(seconds), RATE)
    picture = cv2.imencode(".jpg", pictures(1)[0])[1].tobytes()
    assert drop_of(tmp_path / "s.wav", image=picture).reason is DropReason.too_short


def test_silent(tmp_path):
    rng = np.random.default_rng(0)
    late = np.concatenate((np.zeros(7 * RATE), buzz(1.0)))  # the model hears six seconds
    noise = 0.1 * rng.standard_normal(3 * RATE)
    for sound in (np.zeros(RATE), 0.0005 * buzz(1.0), late, noise):
        path = write_clip(tmp_path / "c.mkv", pictures(10), sound, sound_codec="flac")
        assert drop_of(path).reason is DropReason.silent
    assert "noise without speech" in drop_of(path).detail


def test_sound_that_is_not_finite(tmp_path):
    sound = buzz(1.0)
    sound[5000] = np.nan
    soundfile.write(tmp_path / "s.wav", sound, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        load_speech(tmp_path / "s.wav")


def test_a_fault_of_the_storage_is_not_the_clips(clip):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("the network is down")

    with pytest.raises(ConnectionResetError):
        decode_clip(Broken(clip.read_bytes()))


def test_dropped_clip_survives_pickling():
    drop = pickle.loads(pickle.dumps(DroppedClip(DropReason.silent, "level -70 dBFS")))
    assert (drop.reason, drop.detail, str(drop)) == (DropReason.silent, "level -70 dBFS", "silent: level -70 dBFS")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.mp4", "aac")],
)
def test_load_speech_reads_every_usual_format(tmp_path, name, codec):
    sound = buzz(1.5, 16_000)
    path = write_clip(tmp_path / name, (), sound, rate=16_000, sound_codec=codec)
    loaded = load_speech(path)
    assert loaded.dtype == np.float32
    assert loaded.size == pytest.approx(24_000, abs=2400)
    assert loaded.std() == pytest.approx(sound.std(), rel=0.1)


def test_load_speech_stops_at_the_limit_and_takes_the_sound_of_a_video(clip):
    assert load_speech(clip, max_seconds=1.0).size == 16_000
    np.testing.assert_array_equal(load_speech(clip), decode_clip(clip).waveform)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"hello"), "cannot be decoded"),
        (lambda path: soundfile.write(path, np.zeros(0), 16_000), "0.00 s of sound"),
        (lambda path: soundfile.write(path, np.zeros(16_000), 16_000), "level -inf dBFS"),
    ],
)
def test_load_speech_says_what_is_wrong_in_one_line(tmp_path, make, message):
    path = tmp_path / "mine.wav"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_speech(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
