"""What the page shows of a recording, and what it says when there is nothing to show. Needs no gradio."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from arspm import SpeechPortrait
from arspm.demo_page.faces import LIMITS, draw_faces, faces_html, load_means
from arspm.demo_page.page import MISSING, answer
from arspm.evaluation.metrics import cos_degrees
from arspm.export import folder
from arspm.portrait import to_pixels
from tests.jobs.conftest import arspm_in_process
from tests.media.media_files import voice
from tests.untrained_run import write_untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_untrained_run(tmp_path_factory.mktemp("page") / "run", {"prior.kind": "neutral"})


@pytest.fixture(scope="module")
def model(run: str) -> SpeechPortrait:
    return SpeechPortrait.load(run)


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


def sent(uploads: Path, content: bytes | np.ndarray, name: str = "audio.wav") -> str:
    """Write a recording where gradio does, in a folder of its own, and return its path."""
    file = uploads / "0123abcd" / name
    file.parent.mkdir()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        soundfile.write(file, content, 16_000)
    return str(file)


def test_the_portrait_stands_beside_the_prior_and_the_mean_faces(run: str, model: SpeechPortrait):
    means, speech = load_means(run), voice(4.0)
    faces = draw_faces(model, means, speech)
    assert [(face.title, face.note) for face in faces] == [
        ("Portrait", "drawn from the voice"),
        ("Prior", "mean face of everyone, for every voice"),
        ("Baseline", "mean face of women; it ignores the voice"),
        ("Baseline", "mean face of men; it ignores the voice"),
    ]
    portrait, feature = model.draw(speech)
    features = torch.stack([means[name] for name in ("neutral", "female", "male")])
    expected = [np.asarray(portrait), *to_pixels(model.portraits(features))]
    for face, pixels in zip(faces, expected, strict=True):
        assert np.abs(np.asarray(face.image).astype(int) - pixels).max() <= 1
    angles = cos_degrees(features, torch.from_numpy(feature).expand_as(features))
    assert faces[0].degrees is None
    np.testing.assert_allclose([face.degrees for face in faces[1:]], angles, atol=0.01)


@pytest.mark.parametrize(
    ("kind", "prior", "baselines"),
    [
        ("none", None, 3),
        ("female", "mean face of women, for every voice", 2),
        ("constant", "a random direction, the same for every voice", 3),
        ("gender", "chosen by the sex that this voice seems to have", 2),
    ],
)
def test_each_kind_of_prior_is_described(tmp_path: Path, kind: str, prior: str | None, baselines: int):
    run = write_untrained_run(tmp_path / "run", {"prior.kind": kind})
    model, means = SpeechPortrait.load(run), load_means(run)
    faces = draw_faces(model, means, voice(2.0))
    notes = {title: [face.note for face in faces if face.title == title] for title in ("Prior", "Baseline")}
    assert len(notes["Baseline"]) == baselines
    assert [note.endswith(prior or "") for note in notes["Prior"]] == ([True] if prior else [])


def test_without_labels_there_is_no_mean_face_by_sex(run: str, model: SpeechPortrait):
    faces = draw_faces(model, {"neutral": load_means(run)["neutral"]}, voice(2.0))
    assert [face.title for face in faces] == ["Portrait", "Prior"]


def test_an_exported_folder_gives_the_same_faces(run: str, model: SpeechPortrait, tmp_path: Path):
    means, dest = load_means(run), str(tmp_path / "exported")
    folder.write(dest, model.network, means, model.config, card="card", source={}, onnx=False)
    speech = voice(2.0)
    ours, theirs = (draw_faces(SpeechPortrait.load(uri), load_means(uri), speech) for uri in (run, dest))
    assert [face.note for face in ours] == [face.note for face in theirs]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(ours, theirs, strict=True))


def test_a_recording_is_drawn_with_the_limits_and_deleted(run: str, model: SpeechPortrait, uploads: Path):
    shown = answer(model, load_means(run), sent(uploads, voice(2.0)), uploads)
    assert shown.count("<img") == shown.count("data:image/png;base64,") == 4
    assert LIMITS.split("'")[0] in shown
    assert list(uploads.iterdir()) == []


SILENT, SHORT = np.zeros(32_000), np.random.default_rng(0).normal(0, 0.1, 1_600)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (SILENT, "the recording: silent: level -inf dBFS"),
        (SHORT, "the recording: 0.10 s of sound; at least 0.5 s needed"),
        (b"no sound", "the recording: cannot be decoded"),
        (b"", "the recording: an empty file"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "the recording: a web page, not a recording"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named_in_one_line_and_deleted(
    model: SpeechPortrait, uploads: Path, content: bytes | np.ndarray, says: str
):
    shown = answer(model, {}, sent(uploads, content), uploads)
    assert says in shown
    assert "\n" not in shown
    assert "<script" not in shown
    assert str(uploads) not in shown
    assert list(uploads.iterdir()) == []


def test_no_recording_and_an_unexpected_failure_have_a_line_too(
    model: SpeechPortrait, uploads: Path, caplog: pytest.LogCaptureFixture
):
    assert "no recording yet" in answer(model, {}, None, uploads)
    assert "has been deleted" in answer(model, {}, str(uploads / "0123/gone.wav"), uploads)
    wrong = {"neutral": torch.zeros(3)}  # of another model
    assert "could not be drawn; the terminal says why" in answer(model, wrong, sent(uploads, voice(2.0)), uploads)
    assert "Traceback" in caplog.text
    assert list(uploads.iterdir()) == []


def test_only_recordings_of_the_page_are_read_and_deleted(model: SpeechPortrait, uploads: Path, tmp_path: Path):
    other = tmp_path / "mine.wav"
    soundfile.write(other, voice(2.0), 16_000)
    for path in (str(other), f"{uploads}/../mine.wav"):
        with pytest.raises(ValueError, match="only recordings that the page has sent"):
            answer(model, {}, path, uploads)
    assert other.exists()


def test_titles_are_shown_as_text(model: SpeechPortrait, run: str):
    face = draw_faces(model, load_means(run), voice(2.0))[0]._replace(note='"><script>x</script>')
    assert "<script" not in faces_html([face])


def test_without_gradio_the_command_says_what_to_install(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert arspm_in_process("demo-page", run) == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {MISSING}"]
