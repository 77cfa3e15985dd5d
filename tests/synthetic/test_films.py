"""Made-up people: what voice and face share, what they do not, and the corpus on disk."""

from __future__ import annotations

import csv
from dataclasses import astuple, replace
from pathlib import Path

import av
import dlib
import numpy as np
import pyarrow.parquet as pq
import pytest

from arspm.synthetic.films import (
    Pose,
    draw_face,
    mouth_openings,
    sample_pose,
    sample_scene,
    sample_speakers,
    speak,
    write_clip,
    write_corpus,
)
from arspm.synthetic.people import HAIR_COLOURS, Speaker

SAMPLE_RATE = 16_000
SIZES = {"num_speakers": 4, "clips_per_speaker": 2, "seconds": (1.0, 1.5), "seed": 7}


@pytest.fixture(scope="module")
def people() -> list[Speaker]:
    return sample_speakers(2000, seed=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(out, **SIZES, workers=1)
    return out


# People


def test_a_speaker_depends_on_the_seed_and_its_number_only() -> None:
    few, many = sample_speakers(3, seed=1), sample_speakers(9, seed=1)
    assert many[:3] == few
    assert len({s.age for s in many}) == 9
    assert sample_speakers(3, seed=2)[0].age != few[0].age


def test_sexes_are_balanced_and_video_ids_look_like_youtubes(people: list[Speaker]) -> None:
    assert sum(s.sex == "female" for s in people) == len(people) // 2
    assert len({s.video_id for s in people}) == len(people)
    assert {len(s.video_id) for s in people} == {11}
    ages = [s.age for s in people]
    assert min(ages) >= 20
    assert max(ages) <= 80
    assert np.histogram(ages, bins=6, range=(20, 80))[0].min() > 250


def test_voices_are_in_human_range(people: list[Speaker]) -> None:
    pitch = {sex: [s.f0_hz for s in people if s.sex == sex] for sex in ("male", "female")}
    assert min(pitch["male"]) >= 85
    assert max(pitch["male"]) <= 155
    assert min(pitch["female"]) >= 165
    assert max(pitch["female"]) <= 255
    male = np.array([s.sex == "male" for s in people], float)
    assert np.corrcoef(male, [s.f0_hz for s in people])[0, 1] < -0.9


def explained(causes: np.ndarray, effect: np.ndarray) -> float:
    """R2 on the second half of the people of a linear fit to the first half."""
    design = np.column_stack([np.ones(len(causes)), causes])
    half = len(causes) // 2
    weights = np.linalg.lstsq(design[:half], effect[:half], rcond=None)[0]
    rest = effect[half:]
    return 1 - np.mean((rest - design[half:] @ weights) ** 2) / np.mean((rest - effect[:half].mean()) ** 2)


def voice_of(people: list[Speaker]) -> np.ndarray:
    voice = np.array([(s.f0_hz, s.vocal_tract_cm, s.breathiness, s.syllables_per_second) for s in people])
    voice = (voice - voice.mean(0)) / voice.std(0)
    products = [voice[:, i] * voice[:, j] for i in range(4) for j in range(i, 4)]
    return np.column_stack([voice, *products])


@pytest.mark.parametrize(
    "trait",
    ["face_width", "jaw_width", "nose_width", "brow_thickness", "lip_redness", "wrinkles", "greyness", "neck_width"],
)
def test_the_voice_tells_of_the_face(people: list[Speaker], trait: str) -> None:
    assert explained(voice_of(people), np.array([getattr(s, trait) for s in people], float)) > 0.7


def test_the_voice_tells_nothing_of_hair_colour_style_glasses_and_skin_tone(people: list[Speaker]) -> None:
    apart = {"glasses": [s.glasses for s in people], "skin_tone": [s.skin_tone for s in people]}
    apart |= {colour: [s.hair_colour == colour for s in people] for colour in HAIR_COLOURS}
    apart |= {"fringe": [s.hair_style == "fringe" for s in people]}
    for name, values in apart.items():
        effect = np.array(values, float)
        assert effect.std() > 0.1, name
        assert explained(voice_of(people), effect) < 0.02, name


def test_every_personal_trait_is_more_than_its_causes(people: list[Speaker]) -> None:
    causes = np.array([(s.sex == "male", s.age, s.body_size) for s in people], float)
    causes = np.column_stack([causes, causes[:, :1] * causes, causes**2])
    for trait in ("f0_hz", "vocal_tract_cm", "face_width", "nose_width"):
        assert explained(causes, np.array([getattr(s, trait) for s in people])) < 0.995, trait


# Faces


def test_dlib_finds_the_face_where_the_pose_puts_it() -> None:
    detector = dlib.get_frontal_face_detector()
    rng = np.random.default_rng(0)
    num_found = 0
    for speaker in sample_speakers(60, seed=11):
        pose = sample_pose(rng)
        frame = draw_face(
            speaker, pose=pose, scene=sample_scene(rng), mouth=rng.uniform(), noise=rng.uniform(0, 3), rng=rng
        )
        boxes = detector(frame, 0)
        num_found += len(boxes) == 1 and contains(boxes[0], 256 * pose.x, 256 * pose.y)
    assert num_found >= 57


def contains(box: dlib.rectangle, x: float, y: float) -> bool:
    return box.left() < x < box.right() and box.top() < y < box.bottom()


def test_a_drawing_is_its_arguments_and_shows_the_causes(people: list[Speaker]) -> None:
    woman = people[0]
    plain = draw_face(woman)
    assert plain.shape == (256, 256, 3)
    assert plain.dtype == np.uint8
    np.testing.assert_array_equal(plain, draw_face(woman))
    noisy = [draw_face(woman, noise=3.0, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).mean() > 0.5
    assert 2.0 < (noisy[0].astype(float) - plain).std() < 3.5
    face = np.s_[90:200, 80:176]
    changed = {
        trait: np.abs(draw_face(replace(woman, **{trait: value}))[face] - plain[face].astype(float)).mean()
        for trait, value in {
            "beard_shadow": 1.0,
            "wrinkles": 1.0 - woman.wrinkles,
            "face_width": 1.15 * woman.face_width,
            "jaw_width": 0.98,
            "nose_width": 0.25,
            "brow_thickness": 0.1,
            "glasses": not woman.glasses,
        }.items()
    }
    assert min(changed.values()) > 0.5, changed


def test_age_creases_the_forehead(people: list[Speaker]) -> None:
    man = replace(people[1], hair_recession=0.5, glasses=False)
    ripples = []
    for wrinkles in (0.0, 1.0):
        forehead = draw_face(replace(man, wrinkles=wrinkles))[66:88, 110:146].astype(float).mean((1, 2))
        ripples.append(np.abs(np.diff(forehead, 2)).mean())
    assert ripples[1] > 3 * ripples[0]


def test_the_mouth_opens_where_the_mouth_is(people: list[Speaker]) -> None:
    pose = Pose(x=0.5, y=0.5, scale=0.3)
    shut, wide = (draw_face(people[0], pose=pose, mouth=m).astype(int) for m in (0.0, 1.0))
    rows, cols = np.nonzero(np.abs(wide - shut).sum(2))
    assert rows.size > 200
    assert rows.min() > 128 + 10
    assert rows.max() < 128 + 0.85 * 0.3 * 256
    assert abs(cols.mean() - 128) < 3


def test_pictures_hold_two_faces_side_by_side(people: list[Speaker]) -> None:
    two = np.hstack([draw_face(people[0]), draw_face(people[1])])
    assert len(dlib.get_frontal_face_detector()(two, 0)) == 2


@pytest.mark.parametrize("wrong", [{"size": 16}, {"mouth": 1.5}, {"noise": 2.0}])
def test_draw_face_refuses(people: list[Speaker], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draw_face(people[0], **wrong)


# Voices


def track_pitch_hz(waveform: np.ndarray) -> tuple[float, float]:
    """Median pitch of the periodic windows by autocorrelation, and how periodic those windows are."""
    taper = np.hanning(800)
    of_taper = np.correlate(taper, taper, "full")[799:]
    pitches, peaks = [], []
    for start in range(0, len(waveform) - 800, 320):
        window = waveform[start : start + 800] * taper
        if np.sqrt(np.mean(window**2)) < 0.03:
            continue
        correlation = np.correlate(window, window, "full")[799:]
        correlation = correlation[:270] / of_taper[:270] * of_taper[0] / correlation[0]
        best = correlation[55:270].max()
        lag = 55 + int(np.argmax(correlation[55:270] > 0.9 * best))  # the first of the multiples of the period
        while lag < 269 and correlation[lag + 1] > correlation[lag]:
            lag += 1
        if best > 0.6:
            pitches.append(SAMPLE_RATE / lag)
        peaks.append(best)
    return float(np.median(pitches)), float(np.mean(peaks))


def test_the_pitch_is_the_speakers() -> None:
    rng = np.random.default_rng(3)
    for speaker in sample_speakers(16, seed=2):
        pitch_hz, _ = track_pitch_hz(speak(speaker, 3.0, rng))
        assert pitch_hz == pytest.approx(speaker.f0_hz, rel=0.05), speaker


def envelope_on_log_axis(waveform: np.ndarray) -> np.ndarray:
    """The long-term spectrum, smoothed over harmonics, in dB on steps of 1 % in frequency from 600 to 6000 Hz."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = (np.abs(np.fft.rfft(windows, 1024)) ** 2).mean(0)
    power = np.convolve(power, np.hanning(25), "same")
    hz = 600 * 1.01 ** np.arange(232)
    return 10 * np.log10(np.interp(hz, np.fft.rfftfreq(1024, 1 / SAMPLE_RATE), power))


@pytest.mark.parametrize("tract_cm", [13.5, 15.0, 18.0])
def test_formants_scale_with_the_vocal_tract(tract_cm: float) -> None:
    base = replace(sample_speakers(2, seed=0)[1], f0_hz=100.0, vocal_tract_cm=16.0, breathiness=0.3)
    spectra = [
        envelope_on_log_axis(speak(replace(base, vocal_tract_cm=cm), 4.0, np.random.default_rng(1)))
        for cm in (16.0, tract_cm)
    ]

    def agreement(shift: int) -> float:
        """Correlation of the two spectra when the second is moved down by `shift` percent."""
        first = spectra[0][max(0, -shift) : len(spectra[0]) - max(0, shift)]
        second = spectra[1][max(0, shift) : len(spectra[1]) - max(0, -shift)]
        return float(np.corrcoef(first, second)[0, 1])

    best = max(range(-40, 41), key=agreement)
    assert agreement(best) > 0.97
    assert 1.01**best == pytest.approx(16.0 / tract_cm, rel=0.03)


def test_breathy_voices_are_less_periodic_in_the_treble() -> None:
    base = replace(sample_speakers(1, seed=0)[0], jitter=0.004)
    periodicity = []
    for breathiness in (0.05, 0.9):
        speech = speak(replace(base, breathiness=breathiness), 3.0, np.random.default_rng(1))
        treble = np.diff(speech, 2)
        periodicity.append(track_pitch_hz(0.08 * treble / treble.std())[1])
    assert periodicity[1] < periodicity[0] - 0.15


def test_slow_speakers_say_fewer_syllables() -> None:
    base = sample_speakers(1, seed=0)[0]

    def num_onsets(rate: float) -> int:
        waveform = speak(replace(base, syllables_per_second=rate), 20.0, np.random.default_rng(1))
        level = np.sqrt(np.convolve(waveform**2, np.hanning(640) / 320, "same"))[::80]
        rises = np.diff((level > 0.5 * np.median(level[level > 0.02])).astype(int))
        return int((rises > 0).sum())

    assert num_onsets(5.6) > 1.25 * num_onsets(3.2)


def test_a_recording_is_its_arguments_and_has_its_length() -> None:
    speaker = sample_speakers(1, seed=0)[0]
    first, again, other = (speak(speaker, 2.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.shape == (32_000,)
    assert 0.3 < np.abs(first).max() <= 1.0
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert speak(speaker, 1.0, np.random.default_rng(0), sample_rate=44_100).shape == (44_100,)


@pytest.mark.parametrize(("seconds", "sample_rate"), [(0.1, 16_000), (2.0, 8_000)])
def test_speak_refuses(seconds: float, sample_rate: int) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        speak(sample_speakers(1, seed=0)[0], seconds, np.random.default_rng(0), sample_rate=sample_rate)


def test_the_mouth_follows_the_loudness() -> None:
    waveform = np.repeat([0.0, 0.5, 0.25, 0.0], 1600).astype(np.float32)
    np.testing.assert_allclose(mouth_openings(waveform, 4, 10), [0.0, 0.92, 0.42, 0.0], atol=1e-6)
    assert not mouth_openings(np.zeros(1600, np.float32), 1, 10).any()


# The corpus


def read_rows(corpus: Path) -> list[list[str]]:
    with (corpus / "avspeech.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_rows_name_the_files_and_the_files_last_as_long(corpus: Path) -> None:
    rows = read_rows(corpus)
    names = {f"{video_id}_{start}_{end}.mp4" for video_id, start, end, _, _ in rows}
    assert names == {path.name for path in (corpus / "clips").iterdir()}
    assert len(rows) == len(names) == 8
    for video_id, start, end, _, _ in rows:
        assert len(start.partition(".")[2]) == len(end.partition(".")[2]) == 3
        seconds = float(end) - float(start)
        assert 1.0 - 1e-6 < seconds < 1.5 + 1e-6
        with av.open(corpus / "clips" / f"{video_id}_{start}_{end}.mp4") as container:
            assert [s.codec_context.name for s in container.streams.video] == ["h264"]
            assert [s.codec_context.name for s in container.streams.audio] == ["aac"]
            video, sound = container.streams.video[0], container.streams.audio[0]
            assert (video.width, video.height, video.pix_fmt, video.average_rate) == (256, 256, "yuv420p", 10)
            assert float(video.duration * video.time_base) == pytest.approx(seconds, abs=1e-3)
            assert float(sound.duration * sound.time_base) == pytest.approx(seconds, abs=0.1)


def decoded(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, sound


def test_the_face_is_where_the_row_says_and_the_voice_is_the_speakers(corpus: Path) -> None:
    detector = dlib.get_frontal_face_detector()
    f0_hz = {row["video_id"]: row["f0_hz"] for row in pq.read_table(corpus / "speakers.parquet").to_pylist()}
    for video_id, start, end, x, y in read_rows(corpus):
        frames, sound = decoded(corpus / "clips" / f"{video_id}_{start}_{end}.mp4")
        for frame in frames[:: len(frames) // 2]:
            (box,) = detector(frame, 0)
            assert contains(box, 256 * float(x), 256 * float(y))
        # One second holds few syllables, so their accents do not cancel out.
        assert track_pitch_hz(sound)[0] == pytest.approx(f0_hz[video_id], rel=0.12)


def test_clips_of_one_person_differ_in_picture_and_sound(corpus: Path) -> None:
    first, second = (decoded(path) for path in sorted((corpus / "clips").glob("synth000001_*")))
    assert np.abs(first[0][0].astype(float) - second[0][0]).mean() > 5
    shorter = min(len(first[1]), len(second[1]))
    assert abs(np.corrcoef(first[1][:shorter], second[1][:shorter])[0, 1]) < 0.5
    assert any(np.abs(a.astype(float) - b).max() > 100 for a, b in zip(first[0], first[0][1:], strict=False))


def test_labels_and_causes_are_those_of_the_speakers(corpus: Path) -> None:
    speakers = sample_speakers(4, seed=7)
    with (corpus / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert labels == [
        {"video_id": s.video_id, "gender": s.sex, "age": str(int(s.age)), "identity": s.video_id} for s in speakers
    ]
    truth = [Speaker(**row) for row in pq.read_table(corpus / "speakers.parquet").to_pylist()]
    assert [astuple(s) for s in truth] == [astuple(s) for s in speakers]


def test_processes_and_further_speakers_change_nothing(corpus: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    more = {**SIZES, "num_speakers": 6}
    summary = write_corpus(tmp_path / "more", **more, workers=2, progress=lambda n, total: done.append((n, total)))
    assert done == [(2 * n, 12) for n in range(1, 7)]
    rows = read_rows(tmp_path / "more")
    assert rows[:8] == read_rows(corpus)
    assert summary.num_clips == len(rows) == 12
    assert summary.num_seconds == pytest.approx(sum(float(row[2]) - float(row[1]) for row in rows))
    for path in (corpus / "clips").iterdir():
        assert path.read_bytes() == (tmp_path / "more" / "clips" / path.name).read_bytes()


def test_a_corpus_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "out", **SIZES, workers=1, progress=give_up)
    assert list(tmp_path.iterdir()) == []


def test_a_full_directory_is_refused_and_an_empty_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not an empty directory"):
        write_corpus(tmp_path, **SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    smallest = {**SIZES, "num_speakers": 1, "clips_per_speaker": 1}
    assert write_corpus(tmp_path / "empty", **smallest).clips_csv.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_speakers": 0},
        {"clips_per_speaker": 0},
        {"seconds": (4.0, 3.0)},
        {"seconds": (1.01, 1.09)},
        {"fps": 0},
        {"size": 255},
        {"seed": -1},
        {"workers": 0},
    ],
    ids=str,
)
def test_write_corpus_refuses(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|must not|whole number"):
        write_corpus(tmp_path / "out", **{**SIZES, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_write_clip_refuses_odd_sides_and_silence_without_samples(tmp_path: Path) -> None:
    frame, sound = np.zeros((64, 64, 3), np.uint8), np.zeros(1600, np.float32)
    for frames, waveform in (([frame[:63]], sound), ([], sound), ([frame], sound[:0]), ([frame, frame[:32]], sound)):
        with pytest.raises(ValueError, match=r"needs frames|even sides"):
            write_clip(tmp_path / "clip.mp4", frames, waveform, 10, SAMPLE_RATE)
