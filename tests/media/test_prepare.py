"""One clip, from its files to its speech tensor and its face."""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.media import prepare as preparing
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import ClipRow, read_clip_rows
from arspm.media.clips import decode_clip
from arspm.media.detectors import FaceBox
from arspm.media.dropped import DroppedClip
from arspm.media.faces import crop_face
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.media.measures import Measures
from arspm.media.prepare import prepare
from arspm.media.speech import LEVEL_DBFS, find_speech
from arspm.synthetic.face import draw_face
from arspm.synthetic.films import write_clip
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from tests.media import media_files

CONFIG = override(preset("smoke"), {"data.storage": "waveform"})
PEOPLE = sample_speakers(6, seed=3)
FPS = 5


def row_of(path: Path, start: float = 0.0, end: float = 0.0, images: tuple[Path, ...] = ()) -> ClipRow:
    names = tuple(map(str, images))
    first = names[0] if names else None
    return ClipRow(1, "a_1_2", "a", start, end, None, None, str(path), first, names[1:])


def picture(path: Path, pixels: np.ndarray) -> Path:
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


def likeness(jpeg: bytes, faces: list[bytes]) -> int:
    """The number of the face that the JPEG is most like."""
    own = decode_jpeg(jpeg).astype(float)
    return int(np.argmin([np.abs(decode_jpeg(face) - own).mean() for face in faces]))


@pytest.fixture(scope="module")
def voices() -> list[np.ndarray]:
    return [speak(person, 3.0, np.random.default_rng(number)) for number, person in enumerate(PEOPLE)]


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    return [draw_face(person) for person in PEOPLE]


def prepared_alone(
    folder: Path, face: np.ndarray, voice: np.ndarray, config: Config = CONFIG
) -> tuple[np.ndarray, bytes]:
    write_clip(folder / "alone.mp4", [face] * 3 * FPS, voice, FPS)
    return prepare(row_of(folder / "alone.mp4"), config)[:2]


@pytest.mark.parametrize("storage", ["waveform", "spectrogram"])
def test_the_tensor_does_not_depend_on_the_microphones_gain(tmp_path, faces, voices, storage) -> None:
    config = override(CONFIG, {"data.storage": storage})
    image = picture(tmp_path / "face.png", faces[0])
    tensors = []
    for gain_db in (0, -30):
        sound = tmp_path / f"{gain_db}.wav"
        soundfile.write(sound, voices[0] * 10 ** (gain_db / 20), 16_000, subtype="FLOAT")
        tensors.append(prepare(row_of(sound, images=(image,)), config)[0].astype(float))
    assert np.abs(tensors[0] - tensors[1]).max() <= (1 if storage == "waveform" else 0.05)
    assert np.abs(tensors[0]).max() > (3000 if storage == "waveform" else 1)


def test_the_next_picture_is_tried_if_one_has_no_usable_face(tmp_path, faces, voices) -> None:
    soundfile.write(sound := tmp_path / "a.wav", voices[0], 16_000)
    blank = picture(tmp_path / "blank.png", np.full_like(faces[0], 90))
    (broken := tmp_path / "broken.jpg").write_bytes(b"no picture")
    good = picture(tmp_path / "good.png", faces[0])
    expected = prepare(row_of(sound, images=(good,)), CONFIG)[1]
    found = prepare(row_of(sound, images=(blank, broken, tmp_path / "gone.jpg", good)), CONFIG)
    assert found.face_jpeg == expected
    assert found.measures.picture == str(good)
    with pytest.raises(DroppedClip) as caught:
        prepare(row_of(sound, images=(blank, broken)), CONFIG)
    assert caught.value.reason is DropReason.no_face, "that of the first"
    soundfile.write(sound, np.zeros(48_000), 16_000)
    with pytest.raises(DroppedClip) as caught:
        prepare(row_of(sound, images=(blank, good)), CONFIG)
    assert caught.value.reason is DropReason.silent, "no picture can help"


def test_of_several_faces_in_a_picture_the_middle_one_is_the_speakers(tmp_path, faces, voices) -> None:
    soundfile.write(sound := tmp_path / "a.wav", voices[0], 16_000)
    three = picture(tmp_path / "three.png", np.hstack(faces[:3]))
    alone = [prepare(row_of(sound, images=(picture(tmp_path / f"{n}.png", faces[n]),)), CONFIG)[1] for n in range(3)]
    assert likeness(prepare(row_of(sound, images=(three,)), CONFIG)[1], alone) == 1
    two = picture(tmp_path / "two.png", np.hstack(faces[:2]))
    with pytest.raises(DroppedClip) as caught:
        prepare(row_of(sound, images=(two,)), CONFIG)
    assert caught.value.reason is DropReason.several_faces
    write_clip(tmp_path / "film.mp4", [np.hstack(faces[:3])] * 3 * FPS, voices[0], FPS)
    with pytest.raises(DroppedClip) as caught:
        prepare(row_of(tmp_path / "film.mp4"), CONFIG)
    assert caught.value.reason is DropReason.several_faces, "a film is not centred on anybody"


def test_every_row_of_a_film_has_its_own_face_and_voice(tmp_path, faces, voices) -> None:
    frames = [face for face in faces for _ in range(3 * FPS)]
    write_clip(tmp_path / "film.mp4", frames, np.concatenate(voices), FPS)
    alone = [prepared_alone(tmp_path, face, voice) for face, voice in zip(faces, voices, strict=True)]
    for number in (4, 0, 5, 2):
        tensor, jpeg, _ = prepare(row_of(tmp_path / "film.mp4", 3.0 * number, 3.0 * number + 3), CONFIG)
        assert likeness(jpeg, [each for _, each in alone]) == number
        likest = [np.corrcoef(tensor[1000:40_000], other[1000:40_000])[0, 1] for other, _ in alone]
        assert int(np.argmax(likest)) == number
        assert likest[number] > 0.98


@pytest.mark.slow
@pytest.mark.long
def test_an_hour_of_forty_speakers_gives_every_row_its_face_and_voice(tmp_path) -> None:
    """Two rows of each speaker, in random order, from one file with the video's name. They are found by the CSV."""
    seconds, people = 90, sample_speakers(40, seed=5)
    pictures = [draw_face(person) for person in people]
    spoken = [speak(person, 9.0, np.random.default_rng(number)) for number, person in enumerate(people)]
    sound = np.concatenate([np.tile(each, seconds // 9) for each in spoken])
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "hour.mp4", [face for face in pictures for _ in range(seconds * FPS)], sound, FPS)
    assert sound.size == 3600 * 16_000
    rng = np.random.default_rng(0)
    starts = {(n, k): seconds * n + 40 * k + round(rng.uniform(1, 40), 3) for n in range(40) for k in range(2)}
    order = [*starts]
    rng.shuffle(order)
    csv = [f"hour,{starts[key]:.3f},{starts[key] + rng.uniform(3, 8):.3f},0.5,0.5" for key in map(tuple, order)]
    (tmp_path / "avspeech.csv").write_text("\n".join(csv))
    rows = read_clip_rows(tmp_path / "avspeech.csv", ClipFolder(tmp_path / "clips"))
    assert len(rows.usable()) == 80
    alone = []
    for face, voice in zip(pictures, spoken, strict=True):
        alone.append(prepared_alone(tmp_path, face, voice[: 3 * 16_000])[1])
    for row, key in zip(rows, map(tuple, order), strict=True):
        tensor, jpeg, _ = prepare(row, CONFIG)
        own = decode_jpeg(alone[key[0]]).astype(float)
        assert np.abs(decode_jpeg(jpeg) - own).mean() < 25, row  # detection may choose another size
        frames = decode_clip(row.path, part=(row.start_seconds, row.end_seconds)).frames
        nearest = [np.argmin([np.abs(frame.astype(float) - other).mean() for other in pictures]) for frame in frames]
        assert nearest == [key[0]] * 8
        begin = round(row.start_seconds * 16_000)
        heard = sound[begin : begin + round(16_000 * min(6.0, row.end_seconds - row.start_seconds))]
        assert np.corrcoef(tensor[: heard.size][800:-800], heard[800:-800])[0, 1] > 0.98, row


def test_a_sound_is_decoded_once_for_all_its_pictures(tmp_path, faces, voices, monkeypatch) -> None:
    soundfile.write(sound := tmp_path / "a.wav", voices[0], 16_000)
    blank = picture(tmp_path / "blank.png", np.full_like(faces[0], 90))
    good = picture(tmp_path / "good.png", faces[0])
    decoded = []

    def spy(source, **options):
        decoded.append(source)
        return decode_clip(source, **options)

    monkeypatch.setattr(preparing, "decode_clip", spy)
    prepare(row_of(sound, images=(blank, blank, blank, good)), CONFIG)
    assert decoded == [str(sound)]


def check_types(measures: Measures) -> None:
    """The measures are a row of the corpus's family, and None only where it may be."""
    cells = {"clip_id": "a_1_2", "video_id": "a"} | measures._asdict()
    table = pa.Table.from_pylist([cells], schema.measures_schema())
    for field in table.schema:
        assert field.nullable or cells[field.name] is not None, field.name
        assert (table[field.name].to_pylist() == [None]) == (cells[field.name] is None)
        if isinstance(cells[field.name], (int, str)):
            assert table[field.name].to_pylist() == [cells[field.name]]


def test_the_measures_of_a_film(tmp_path, faces, voices) -> None:
    """The face is seen in the second second only, in the right half of the frame."""
    blank = np.full((256, 512, 3), 90, np.uint8)
    shown = blank.copy()
    shown[:, 256:] = faces[0]
    frames = [blank] * FPS + [shown] * FPS + [blank] * FPS
    write_clip(tmp_path / "film.mp4", frames, 0.1 * voices[0], FPS)
    found = prepare(row_of(tmp_path / "film.mp4"), CONFIG)
    measures = found.measures
    check_types(measures)
    assert measures.frame_seconds is not None
    assert 1 <= measures.frame_seconds < 2
    assert (measures.frame_width, measures.frame_height) == (512, 256)
    decoded = decode_clip(tmp_path / "film.mp4", num_frames=CONFIG.face.num_frames)
    frame = decoded.frames[decoded.frame_seconds.index(measures.frame_seconds)]
    box = FaceBox(*measures[:4], score=1.0)
    assert encode_jpeg(crop_face(frame, box, margin=CONFIG.face.margin), CONFIG.face.jpeg_quality) == found.face_jpeg
    assert 256 < measures.face_x0 < measures.face_x1 <= 512
    assert 0.4 <= measures.face_score <= 1
    assert measures.face_sharpness > 1
    assert (measures.face_frontalness, measures.face_landmarks) == (None, None), "dlib's detector has no landmarks"
    assert (measures.num_faces, measures.num_frames) == (1, len(decoded.frames))
    assert measures.num_face_frames == sum(1 <= time < 2 for time in decoded.frame_seconds)
    speech = find_speech(decoded.waveform)
    assert (measures.level_dbfs, measures.gain_db, measures.voiced_seconds) == speech[1:]
    assert measures.level_dbfs + measures.gain_db == pytest.approx(LEVEL_DBFS)
    assert measures.gain_db > 10, "the sound is quiet"
    assert measures.speech_seconds == pytest.approx(3.0, abs=0.1)
    assert measures.speech_start_seconds == 0
    assert (measures.source, measures.picture, measures.sound) == (str(tmp_path / "film.mp4"), None, None)
    assert measures.source_bytes == (tmp_path / "film.mp4").stat().st_size
    assert measures.source_seconds == pytest.approx(3.0, abs=0.1)
    assert (measures.video_codec, measures.audio_codec) == ("h264", "aac")


def test_the_measures_of_a_sound_with_a_picture(tmp_path, faces, voices) -> None:
    soundfile.write(sound := tmp_path / "a.flac", np.concatenate([np.zeros(40_000), *voices[:2]]), 16_000)
    image = picture(tmp_path / "face.png", faces[0])
    measures = prepare(row_of(sound, 2.0, 8.0, images=(image,)), CONFIG).measures
    check_types(measures)
    assert (measures.frame_seconds, measures.video_codec, measures.audio_codec) == (None, None, "flac")
    assert (measures.num_frames, measures.num_face_frames, measures.num_faces) == (1, 1, 1)
    assert (measures.source, measures.picture) == (str(sound), str(image))
    assert measures.speech_seconds == pytest.approx(6.0)
    assert measures.source_seconds == pytest.approx(8.5, abs=0.01)


def test_times_are_after_the_clips_start(tmp_path, faces, voices) -> None:
    """In a film of 20 s, the clip lasts from 4 s to 18 s, and speech from 10 s to 16 s: 6 to 12 s after its start."""
    sound = np.concatenate([np.zeros(10 * 16_000, np.float32), *voices[:2], np.zeros(4 * 16_000, np.float32)])
    write_clip(tmp_path / "film.mp4", [faces[0]] * 20 * FPS, sound, FPS)
    config = override(CONFIG, {"data.seconds": "speech"})
    measures = prepare(row_of(tmp_path / "film.mp4", 4.0, 18.0), config).measures
    assert measures.speech_start_seconds == pytest.approx(6.0, abs=0.5)
    assert measures.speech_seconds == pytest.approx(6.0)
    assert measures.frame_seconds is not None
    assert 0 <= measures.frame_seconds - measures.speech_start_seconds < 6
    assert measures.source_seconds == pytest.approx(20.0, abs=0.1)


def test_the_sound_of_another_file_is_named(tmp_path, faces, voices) -> None:
    write_clip(tmp_path / "both.mp4", [faces[0]] * 3 * FPS, voices[0], FPS)
    with av.open(str(tmp_path / "both.mp4")) as both, av.open(str(tmp_path / "a.mp4"), "w") as silent:
        video = both.streams.video[0]
        copy = silent.add_stream_from_template(video)
        for packet in both.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                silent.mux(packet)
    soundfile.write(tmp_path / "a.wav", voices[0], 16_000)
    row = row_of(tmp_path / "a.mp4")
    with pytest.raises(DroppedClip, match="no_sound"):
        prepare(row, CONFIG)
    found = prepare(replace(row, sound=str(tmp_path / "a.wav")), CONFIG)
    check_types(found.measures)
    assert (found.measures.sound, found.measures.audio_codec) == (str(tmp_path / "a.wav"), "pcm_s16le")
    assert (found.measures.source, found.measures.video_codec) == (str(tmp_path / "a.mp4"), "h264")
    expected = prepare(row_of(tmp_path / "both.mp4"), CONFIG)
    assert found.face_jpeg == expected.face_jpeg
    assert np.corrcoef(found.speech[1000:40_000], expected.speech[1000:40_000])[0, 1] > 0.98


@pytest.mark.parametrize("shown", ["between", "always"])
def test_other_frames_are_searched_if_the_key_frames_show_no_face(tmp_path, faces, voices, shown) -> None:
    """A key frame every 0.6 s, in which the face is hidden or not."""
    frames = [faces[0]] * 75
    if shown == "between":
        frames[::15] = [np.full_like(faces[0], 90)] * 5
    options = {"video_codec": "libx264", "gop_size": 15, "options": {"x264-params": "scenecut=0"}}
    path = media_files.write_clip(tmp_path / "a.mp4", frames, voices[0], rate=16_000, **options)
    decoded = decode_clip(path, key_frames=True)
    assert decoded.has_only_key_frames
    assert len(decoded.frames) == 5
    measures = prepare(row_of(path), override(CONFIG, {"face.num_frames": 8})).measures
    assert measures.num_frames == (5 if shown == "always" else 8)
    assert (measures.frame_seconds in decoded.frame_seconds) == (shown == "always")


def lower_the_limit(pipe) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
    preparing._limit(resource.RLIMIT_CPU, 5000)
    pipe.send(resource.getrlimit(resource.RLIMIT_CPU))


def test_a_limit_that_the_user_may_not_raise_is_kept() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=lower_the_limit, args=(theirs,))
    process.start()
    assert ours.recv() == (1000, 1000)
    process.join()
