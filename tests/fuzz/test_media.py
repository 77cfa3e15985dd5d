"""Clips, pictures, recordings and stored faces: files that C libraries decode."""

from __future__ import annotations

import io
import os
import signal
import struct
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.media.clip_rows import ClipRow
from arspm.media.clips import load_speech
from arspm.media.dropped import DroppedClip
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.media.prepare import prepare
from arspm.media.preparer import Preparer
from arspm.synthetic.face import draw_face
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

RATE = 16_000
CONFIG = override(preset("smoke"), {"data.storage": "waveform"})


@pytest.fixture(scope="module")
def person() -> tuple[np.ndarray, np.ndarray]:
    """A face that the detector finds, and a second of speech."""
    speaker = sample_speakers(1, seed=3)[0]
    return draw_face(speaker), speak(speaker, 1.0, np.random.default_rng(0))


def encoded(person: tuple[np.ndarray, np.ndarray], form: str, video_codec: str, sound_codec: str) -> bytes:
    """Return a video of the face with the speech."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=form) as container:
        video = container.add_stream(video_codec, rate=25)
        video.height, video.width, video.pix_fmt = *person[0].shape[:2], "yuv420p"
        sound = container.add_stream(sound_codec, rate=RATE, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(person[0]), format="rgb24")
        for number in range(6):
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        container.mux([*sound.encode(sound_frame(person[1], sound.format.name)), *sound.encode(None)])
    return sink.getvalue()


def sound_frame(samples: np.ndarray, form: str = "fltp") -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = RATE
    (converted,) = av.AudioResampler(format=form, rate=RATE, layout="mono").resample(frame)
    return converted


@pytest.fixture(scope="module")
def videos(person) -> tuple[bytes, ...]:
    """Face and speech as H.264 in MP4, VP8 in WebM, MPEG-4 in AVI and MPEG-2 in a transport stream."""
    kinds = [("mp4", "libx264", "aac"), ("webm", "libvpx", "libopus")]
    kinds += [("avi", "mpeg4", "mp3"), ("mpegts", "mpeg2video", "mp2")]
    return tuple(encoded(person, *kind) for kind in kinds)


@pytest.fixture(scope="module")
def sounds(person) -> tuple[bytes, ...]:
    """The speech as wav, flac, mp3, ogg and m4a."""
    found = []
    for form in ("WAV", "FLAC", "MP3", "OGG"):
        sink = io.BytesIO()
        soundfile.write(sink, person[1], RATE, format=form)
        found.append(sink.getvalue())
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        container.mux([*stream.encode(sound_frame(person[1])), *stream.encode(None)])
    return (*found, sink.getvalue())


@pytest.fixture(scope="module")
def pictures(person) -> tuple[bytes, ...]:
    bgr = person[0][..., ::-1]
    return tuple(cv2.imencode(ending, bgr)[1].tobytes() for ending in (".jpg", ".png"))


def row_of(path: Path, image: Path | None = None) -> ClipRow:
    return ClipRow(1, "a_1_2", "a", 1.0, 2.0, None, None, str(path), None if image is None else str(image))


def checked(row: ClipRow, config: Config = CONFIG) -> None:
    """Prepare a clip, which may be dropped. A ValueError would fail the stage."""
    try:
        tensor, jpeg, _ = prepare(row, config)
    except ValueError as error:
        raise AssertionError from error
    kind = schema.tensor_type(schema.speech_schema(config.data.storage).field(config.data.storage))
    assert (tensor.shape, tensor.dtype) == (kind.shape, np.dtype(kind.dtype))
    assert np.isfinite(tensor).all()
    assert decode_jpeg(jpeg).shape == (schema.FACE_SIZE, schema.FACE_SIZE, 3)


def clip(path: Path) -> None:
    checked(row_of(path))


def picture_of_a_sound(path: Path, sound: Path) -> None:
    checked(row_of(sound, path))


def recording(path: Path) -> None:
    waveform = load_speech(str(path))
    assert waveform.dtype == np.float32
    assert RATE / 2 <= len(waveform) <= 60 * RATE
    assert np.isfinite(waveform).all()


def stored_face(path: Path, size: int = 64) -> None:
    try:
        face = decode_jpeg(path.read_bytes(), size)
    except ValueError as error:  # `decode_jpeg` reads bytes, so its error has no name
        raise ValueError(f"{path.name}: {error}") from None
    assert (face.shape, face.dtype) == ((size, size, 3), np.uint8)


def test_clips(videos) -> None:
    tally = try_inputs(clip, Mutated(videos, BYTES, num_inputs(100)), name="clip.mp4")
    assert tally["dropped"] > tally.total() // 10
    assert tally["accepted"] > tally.total() // 10


def test_pictures_of_sounds(pictures, sounds, tmp_path) -> None:
    (tmp_path / "sound.wav").write_bytes(sounds[0])
    tally = try_inputs(
        picture_of_a_sound, Mutated(pictures, BYTES, num_inputs(60)), name="face.jpg", sound=tmp_path / "sound.wav"
    )
    assert tally["dropped"] > tally.total() // 10


def test_recordings(sounds, videos) -> None:
    tally = try_inputs(recording, Mutated((*sounds, videos[0]), BYTES, num_inputs(200)), name="speech.wav")
    assert tally["refused"] > tally.total() // 10
    assert tally["accepted"] > tally.total() // 10


def test_stored_faces(person) -> None:
    small = cv2.resize(person[0], (schema.FACE_SIZE, schema.FACE_SIZE))
    tally = try_inputs(stored_face, Mutated((encode_jpeg(small),), BYTES, num_inputs(150)), name="face.jpg")
    assert tally["refused"] > tally.total() // 10


# --- bombs


def png(width: int, height: int) -> bytes:
    """Return a black picture with one bit per pixel, which compresses to a few bytes per million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), []
    for _ in range(height):
        rows.append(packer.compress(bytes(1 + -(-width // 8))))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"".join([*rows, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """Return the JPEG with another size in its header."""
    at = next(at for at in range(len(jpeg)) if jpeg[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def wav_header(seconds: int, *, rate: int = RATE, channels: int = 1, data: bytes = b"") -> bytes:
    """Return a wav file whose header claims `seconds` of sound, followed by `data`."""
    size = min(seconds * rate * channels * 2, 2**32 - 40)
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return (
        b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
    )


def test_gigapixel_pictures(pictures, sounds, person, tmp_path) -> None:
    (tmp_path / "sound.wav").write_bytes(sounds[0])
    bombs = [png(60_000, 60_000), resized(pictures[0], 60_000, 60_000), resized(pictures[0], 65_535, 1)]
    bombs += [png(30_000, 30_000), resized(pictures[0], 30_000, 30_000)]
    assert max(map(len, bombs)) < 1_000_000
    tally = try_inputs(picture_of_a_sound, bombs, name="face.jpg", sound=tmp_path / "sound.wav")
    assert tally["dropped"] == len(bombs)
    assert try_inputs(stored_face, bombs, name="face.jpg")["refused"] == len(bombs)


def test_a_video_that_claims_to_be_huge(videos) -> None:
    """In the container's header, and in the stream's (H.264's SPS). FFmpeg may trust either."""
    lies = []
    width, height = (av.open(io.BytesIO(videos[0])).streams.video[0].codec_context.width for _ in range(2))
    for form, sides in ((">HH", 65_535), (">HH", 20_000), (">II", 60_000 << 16)):
        real = struct.pack(form, *((width, height) if form == ">HH" else (width << 16, height << 16)))
        lies.append(videos[0].replace(real, struct.pack(form, sides, sides)))
    assert all(each != videos[0] for each in lies)
    tally = try_inputs(clip, lies, name="clip.mp4")
    assert tally.total() == len(lies)
    with io.BytesIO() as sink:
        with av.open(sink, "w", format="mp4") as container:
            video = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
            video.width = video.height = 8192
            video.pix_fmt = "yuv420p"
            container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.VideoFrame(8192, 8192, "yuv420p")
            container.mux([*video.encode(frame), *video.encode(None)])
        assert try_inputs(clip, [sink.getvalue()], name="clip.mp4")["dropped"] == 1


def test_sounds_of_hours(sounds) -> None:
    silence = io.BytesIO()
    with soundfile.SoundFile(silence, "w", RATE, 1, format="FLAC") as file:
        for _ in range(600):
            file.write(np.zeros(60 * RATE, np.int16))
    assert len(silence.getvalue()) < 20_000_000
    ten_hours = 36_000
    speech = sounds[0][44:]
    files = [
        wav_header(ten_hours),
        wav_header(ten_hours, data=speech),
        wav_header(ten_hours, rate=1, channels=64, data=speech * 8),
        wav_header(ten_hours, rate=1, data=speech * 8),
        wav_header(1, rate=2**31 - 1, data=speech),
        silence.getvalue(),
    ]
    tally = try_inputs(recording, files, name="speech.wav")
    assert tally["refused"] >= 4
    assert tally["accepted"] <= 1  # one has a second of speech and a false length
    assert try_inputs(clip, files, name="clip.wav")["dropped"] == len(files)


def test_a_playlist_is_not_followed(tmp_path) -> None:
    """FFmpeg would read the files and URLs that such a "clip" names."""
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    lists = [f"ffconcat version 1.0\nfile '{secret}'\n", f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"]
    lists += ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"]
    lists += [
        f"<?xml version='1.0'?><MPD><BaseURL>{secret}</BaseURL></MPD>",
        "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    ]
    inputs = [text.encode() for text in lists]
    assert try_inputs(recording, inputs, name="speech.mp4")["refused"] == len(inputs)
    assert try_inputs(clip, inputs, name="clip.mp4")["dropped"] == len(inputs)


# --- a decoder that crashes its process


def test_a_clip_that_ends_its_process_is_dropped_and_the_next_one_is_not(videos, tmp_path) -> None:
    (tmp_path / "clip.mp4").write_bytes(videos[0])
    prepared = Preparer(CONFIG)
    try:
        tensor = prepared(row_of(tmp_path / "clip.mp4")).speech
        process = prepared._process
        assert process is not None
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(DroppedClip, match=r"undecodable: the decoder crashed \(SIGSEGV\)"):
            prepared(row_of(tmp_path / "clip.mp4"))
        again = prepared(row_of(tmp_path / "clip.mp4")).speech
        assert (again == tensor).all()
        os.kill(prepared._process.pid, signal.SIGKILL)  # an operator or the kernel did this, not the clip
        with pytest.raises(RuntimeError, match="ended with -9"):
            prepared(row_of(tmp_path / "clip.mp4"))
        with pytest.raises(DroppedClip, match="missing_file"):
            prepared(row_of(tmp_path / "none.mp4"))
        last = prepared._process
    finally:
        prepared.close()
    assert last.poll() is not None
