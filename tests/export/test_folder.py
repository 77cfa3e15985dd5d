"""An exported model: the same portraits, refused folders, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arspm import SpeechPortrait, storage
from arspm.export import folder
from jobs.export import export
from tests.media.media_files import voice
from tests.untrained_run import write_networks, write_untrained_run

FILES = {"model.safetensors", "priors.safetensors", "config.json", "README.md", "export.json"}


@pytest.fixture
def run(tmp_path: Path) -> str:
    return write_untrained_run(tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prior.kind": "gender", "gender.min_confidence": 0.7},
        {"prior.kind": "constant", "seed": 3, "speech_encoder.fusion": "sum", "speech_encoder.prior_weight": "learned"},
        {"speech_encoder.architecture": "speech2face", "prior.kind": "none"},
    ],
    ids=["neutral", "gender", "constant", "speech2face"],
)
def test_an_export_draws_the_same_portraits_bit_by_bit(tmp_path: Path, changes: dict[str, object]):
    run, dest = write_untrained_run(tmp_path / "run", changes), str(tmp_path / "exported")
    export(run, dest, onnx=False)
    assert {path.name for path in Path(dest).iterdir()} == FILES
    trained, exported = SpeechPortrait.load(run), SpeechPortrait.load(dest)
    waveforms = torch.from_numpy(np.stack([trained.waveform(voice(3.0, seed=seed)) for seed in (1, 2, 3)]))
    assert torch.equal(exported.features(waveforms), trained.features(waveforms))
    features = trained.features(waveforms)
    assert torch.equal(exported.portraits(features), trained.portraits(features))
    assert not torch.equal(features[0], features[1])


def test_an_export_on_s3_is_read_from_there(s3: str, run: str):
    dest = f"{s3}/exported/one"
    export(run, dest, onnx=False)
    assert set(storage.files_below(dest)) == FILES
    samples = voice(3.0)
    np.testing.assert_array_equal(
        SpeechPortrait.load(dest).draw(samples).feature, SpeechPortrait.load(run).draw(samples).feature
    )


def test_the_list_of_files_is_complete_and_the_configuration_names_no_folder(tmp_path: Path, run: str):
    dest = tmp_path / "exported"
    export(run, str(dest), onnx=False)
    about = json.loads((dest / "export.json").read_text())
    assert about["files"] == {name: storage.describe(str(dest / name)) for name in FILES - {"export.json"}}
    assert about["source"]["encoder"] == "e" * 64
    config = json.loads((dest / "config.json").read_text())
    assert config["data"]["csv"] == "clips.csv"
    for file in dest.iterdir():
        assert b"secret" not in file.read_bytes()


def test_an_earlier_export_is_replaced_and_other_files_beside_it_stay(tmp_path: Path, run: str):
    dest = tmp_path / "exported"
    export(run, str(dest), onnx=False)
    before = SpeechPortrait.load(str(dest)).draw(voice(2.0)).feature
    (dest / ".gitattributes").write_text("*.safetensors filter=lfs")
    (dest / "encoder.onnx").write_text("of the earlier model")
    write_networks(tmp_path / "run", SpeechPortrait.load(run).config, seed=1)
    export(run, str(dest), onnx=False)
    assert not np.array_equal(SpeechPortrait.load(str(dest)).draw(voice(2.0)).feature, before)
    assert {path.name for path in dest.iterdir()} == FILES | {".gitattributes"}


@pytest.mark.parametrize("present", ["notes.txt", "README.md", "config.json", "data/clip.wav"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path, run: str, present: str):
    file = tmp_path / "taken" / present
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match="taken: not empty and no earlier export"):
        export(run, str(tmp_path / "taken"), onnx=False)
    assert [path for path in (tmp_path / "taken").rglob("*") if path.is_file()] == [file]


def test_an_interrupted_export_looks_incomplete_and_is_written_again(tmp_path: Path, run: str):
    dest = tmp_path / "exported"
    export(run, str(dest), onnx=False)
    (dest / "export.json").unlink()
    (dest / "config.json").unlink()
    with pytest.raises(ValueError, match="exported: an export that was interrupted; run `arspm export` again"):
        SpeechPortrait.load(str(dest))
    export(run, str(dest), onnx=False)
    assert SpeechPortrait.load(str(dest)).draw(voice(2.0)).image.size == (64, 64)


@pytest.mark.parametrize("name", ["model.safetensors", "priors.safetensors", "config.json"])
def test_a_damaged_file_is_named(tmp_path: Path, run: str, name: str):
    dest = tmp_path / "exported"
    export(run, str(dest), onnx=False)
    data = bytearray((dest / name).read_bytes())
    data[-2] ^= 1
    (dest / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: its size or hash is not what export.json says"):
        SpeechPortrait.load(str(dest))
    (dest / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing, though export.json lists it"):
        SpeechPortrait.load(str(dest))


@pytest.mark.parametrize("text", ["", "{}", '{"files": []}', '{"files": {"README.md": {}}}', "[" * 100_000])
def test_a_list_of_files_that_is_none_is_named(tmp_path: Path, text: str):
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(ValueError, match=r"export\.json: ") as raised:
        SpeechPortrait.load(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_nothing_is_written_for_a_run_that_is_not_consistent(tmp_path: Path, run: str):
    manifest = tmp_path / "run" / "decoder" / "_SUCCESS.json"
    manifest.write_text(manifest.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    with pytest.raises(ValueError, match="decoder was run after the encoder; `arspm submit` trains it again"):
        export(run, str(tmp_path / "exported"), onnx=False)
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_a_failed_check_leaves_the_earlier_export_as_it_was(tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch):
    dest = tmp_path / "exported"
    export(run, str(dest), onnx=False)
    before = {path.name: path.read_bytes() for path in dest.iterdir()}
    monkeypatch.setattr(folder.onnx_networks, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="differs from torch"):
        export(run, str(dest))
    assert {path.name: path.read_bytes() for path in dest.iterdir()} == before
