"""Clips of synthetic speakers and the corpus on disk."""

from __future__ import annotations

import csv
from dataclasses import astuple
from pathlib import Path

import av
import dlib
import numpy as np
import pyarrow.parquet as pq
import pytest

from arspm.synthetic.films import mouth_openings, write_clip, write_corpus
from arspm.synthetic.people import Speaker, sample_speakers
from tests.synthetic.measures import SAMPLE_RATE, contains, track_pitch_hz

SIZES = {"num_speakers": 4, "clips_per_speaker": 2, "seconds": (1.0, 1.5), "seed": 7}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of four speakers, written by one process."""
    out = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(out, **SIZES, workers=1)
    return out


def test_the_mouth_opening_follows_the_loudness() -> None:
    waveform = np.repeat([0.0, 0.5, 0.25, 0.0], 1600).astype(np.float32)
    np.testing.assert_allclose(mouth_openings(waveform, 4, 10), [0.0, 0.92, 0.42, 0.0], atol=1e-6)
    assert not mouth_openings(np.zeros(1600, np.float32), 1, 10).any()


def read_rows(corpus: Path) -> list[list[str]]:
    with (corpus / "avspeech.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_csv_rows_match_the_names_and_durations_of_the_files(corpus: Path) -> None:
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
    """Return all frames and the waveform of an mp4 file."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, sound


def test_face_position_and_pitch_of_clips_match_the_tables(corpus: Path) -> None:
    detector = dlib.get_frontal_face_detector()
    f0_hz = {row["video_id"]: row["f0_hz"] for row in pq.read_table(corpus / "speakers.parquet").to_pylist()}
    for video_id, start, end, x, y in read_rows(corpus):
        frames, sound = decoded(corpus / "clips" / f"{video_id}_{start}_{end}.mp4")
        for frame in frames[:: len(frames) // 2]:
            (box,) = detector(frame, 0)
            assert contains(box, 256 * float(x), 256 * float(y))
        # A clip of one second has few syllables, so their random accents do not average out.
        assert track_pitch_hz(sound)[0] == pytest.approx(f0_hz[video_id], rel=0.12)


def test_clips_of_one_speaker_differ_in_picture_and_sound(corpus: Path) -> None:
    first, second = (decoded(path) for path in sorted((corpus / "clips").glob("synth000001_*")))
    assert np.abs(first[0][0].astype(float) - second[0][0]).mean() > 5
    shorter = min(len(first[1]), len(second[1]))
    assert abs(np.corrcoef(first[1][:shorter], second[1][:shorter])[0, 1]) < 0.5
    assert any(np.abs(a.astype(float) - b).max() > 100 for a, b in zip(first[0], first[0][1:], strict=False))


def test_labels_and_speakers_parquet_hold_the_traits_of_the_speakers(corpus: Path) -> None:
    speakers = sample_speakers(4, seed=7)
    with (corpus / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert labels == [
        {"video_id": s.video_id, "gender": s.sex, "age": str(int(s.age)), "identity": s.video_id} for s in speakers
    ]
    truth = [Speaker(**row) for row in pq.read_table(corpus / "speakers.parquet").to_pylist()]
    assert [astuple(s) for s in truth] == [astuple(s) for s in speakers]


def test_a_clip_does_not_depend_on_num_speakers_and_workers(corpus: Path, tmp_path: Path) -> None:
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


def test_an_interrupted_write_leaves_no_files(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "out", **SIZES, workers=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_output_directory_must_be_empty_or_missing(tmp_path: Path) -> None:
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
def test_write_corpus_rejects_invalid_arguments(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|must not|whole number"):
        write_corpus(tmp_path / "out", **{**SIZES, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_write_clip_rejects_odd_or_different_sizes_and_empty_input(tmp_path: Path) -> None:
    frame, sound = np.zeros((64, 64, 3), np.uint8), np.zeros(1600, np.float32)
    for frames, waveform in (([frame[:63]], sound), ([], sound), ([frame], sound[:0]), ([frame, frame[:32]], sound)):
        with pytest.raises(ValueError, match=r"needs frames|even sides"):
            write_clip(tmp_path / "clip.mp4", frames, waveform, 10, SAMPLE_RATE)
