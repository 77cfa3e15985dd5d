"""`arspm generate`: portraits of files, folders, corpora and buckets; what cannot be drawn is reported."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from arspm import SpeechPortrait, storage
from arspm.bulk.recordings import PER_ITEM
from arspm.corpus import schema
from arspm.media.audio import from_int16
from arspm.runs import stages
from tests.jobs.conftest import arspm, arspm_in_process
from tests.media.media_files import voice
from tests.untrained_run import write_networks, write_untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_untrained_run(tmp_path_factory.mktemp("generate") / "run")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three usable recordings, two of them with one name, and one of each kind that cannot be used."""
    folder = tmp_path / "recordings"
    for number, name in enumerate(("ann/hello.wav", "bob/hello.wav", "bob/long.flac")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, voice(1.0 + 3 * number, seed=number), 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(32_000, np.float32), 16_000)
    (folder / "empty.wav").touch()
    (folder / "page.mp3").write_text("<!DOCTYPE html>")
    (folder / "labels.csv").write_text("video_id,gender\n")
    return folder


BAD = {
    "silent.wav": "silent: level -inf dBFS",
    "empty.wav": "an empty file",
    "page.mp3": "a web page, not a recording",
}


def features(out: str) -> dict[str, dict[str, Any]]:
    """Clip id -> row of the features."""
    rows = {}
    for name in storage.entries(f"{out}/features"):
        table = pq.read_table(pa.BufferReader(storage.read_bytes(f"{out}/features/{name}")))
        columns = schema.columns_of(table)
        for number, clip in enumerate(columns[schema.CLIP_ID].to_pylist()):
            rows[clip] = {
                name: values[number].as_py() if isinstance(values, pa.ChunkedArray) else values[number]
                for name, values in columns.items()
            }
    return rows


def test_a_folder_is_drawn_and_every_bad_file_is_reported(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = str(tmp_path / "out")
    assert arspm_in_process("generate", "--run", run, "--out", out, recordings) == 1
    printed, errors = capsys.readouterr()
    names = ["ann/hello", "bob/hello", "bob/long"]
    assert printed.splitlines() == [f"{out}/{name}.png" for name in names]
    for name, reason in BAD.items():
        assert f"error: {recordings}/{name}: {reason}" in errors.splitlines()
    assert "1 files that are no recordings are left out: .csv 1" in errors
    assert errors.splitlines()[-1] == f"3 portraits drawn, 3 failed; all reasons: {out}/failures.csv"
    with open(f"{out}/failures.csv") as file:
        assert {row["source"].rpartition("/")[2]: row["reason"] for row in csv.DictReader(file)} == BAD
    found, model = features(out), SpeechPortrait.load(run)
    assert [*found] == names
    for name in names:
        source = str(recordings / f"{name}.{'flac' if name.endswith('long') else 'wav'}")
        image, feature = model.draw(source)
        with Image.open(f"{out}/{found[name]['portrait']}") as portrait:
            assert np.abs(np.asarray(portrait, float) - np.asarray(image, float)).max() <= 1
            assert "identify no one" in portrait.info["Description"]
        np.testing.assert_allclose(found[name]["speech_feature"], feature, rtol=1e-4, atol=1e-5)
        assert found[name]["source"] == source
    with Image.open(f"{out}/contact-sheet.png") as sheet:
        assert sheet.size == (4 * 136 + 8, 152 + 24)  # four columns, though there are three portraits
    summary = json.loads(Path(out, "generated.json").read_text())
    assert (summary["complete"], summary["num_drawn"], summary["num_failed"]) == (True, 3, 3)


def test_the_second_command_into_a_folder_replaces_what_the_first_wrote(run: str, recordings: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert arspm_in_process("generate", "--run", run, "--out", out, recordings) == 1
    assert arspm_in_process("generate", "--run", run, "--out", out, recordings / "ann" / "hello.wav") == 0
    assert [*features(str(out))] == ["hello"]
    assert not (out / "failures.csv").exists()


def written(out: Path) -> dict[str, int]:
    """Path below a folder -> when it was written, for the portraits and the parts of the features."""
    paths = [*out.rglob("*.png"), *out.rglob("*.parquet")]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in paths if path.name != "contact-sheet.png"}


def test_the_same_command_draws_only_what_is_new_or_has_changed(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    command = ("generate", "--run", run, "--out", out, recordings)
    assert arspm_in_process(*command) == 1
    first, before = features(str(out)), written(out)
    everything = capsys.readouterr().out.splitlines()

    assert arspm_in_process(*command) == 1
    printed, errors = capsys.readouterr()
    assert written(out) == before
    assert printed.splitlines() == everything
    assert "3 portraits were drawn by an earlier command, and are kept" in errors.splitlines()
    assert errors.splitlines()[-1] == f"0 portraits drawn, 3 kept, 3 failed; all reasons: {out}/failures.csv"
    assert f"error: {recordings}/silent.wav: {BAD['silent.wav']}" in errors.splitlines()

    soundfile.write(recordings / "ann" / "hello.wav", voice(2.0, seed=9), 16_000)
    soundfile.write(recordings / "silent.wav", voice(2.0, seed=5), 16_000)
    (out / "bob" / "long.png").unlink()
    assert arspm_in_process(*command) == 1
    printed, errors = capsys.readouterr()
    assert "2 portraits are of recordings that have changed since; they are drawn again" in errors.splitlines()
    assert errors.splitlines()[-1].startswith("3 portraits drawn, 1 kept, 2 failed; ")
    after, names = features(str(out)), {"ann/hello", "bob/hello", "bob/long", "silent"}
    assert {*after} == names
    assert {*printed.splitlines()} == {f"{out}/{name}.png" for name in names}
    assert sum(len(pq.read_table(part)) for part in (out / "features").iterdir()) == 4
    assert written(out)["bob/hello.png"] == before["bob/hello.png"]
    for name in ("bob/hello", "bob/long"):
        np.testing.assert_allclose(after[name]["speech_feature"], first[name]["speech_feature"], rtol=1e-4, atol=1e-5)
    assert written(out)["ann/hello.png"] > before["ann/hello.png"]
    assert after["ann/hello"]["source_stamp"] != first["ann/hello"]["source_stamp"]


def test_another_model_draws_everything_again_and_its_export_nothing(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    other = write_untrained_run(tmp_path / "other")
    write_networks(tmp_path / "other", stages.finished_config(other, "encoder"), seed=1)
    assert arspm_in_process("export", other, tmp_path / "exported", "--no-onnx") == 0
    assert arspm_in_process("generate", "--run", run, "--out", out, recordings / "bob") == 0
    before = features(str(out))
    capsys.readouterr()
    assert arspm_in_process("generate", "--run", other, "--out", out, recordings / "bob") == 0
    errors = capsys.readouterr().err.splitlines()
    assert f"{out}: another model drew its portraits; all recordings are drawn again" in errors
    assert errors[-1] == "2 portraits drawn, 0 failed"
    after = features(str(out))
    assert {*after} == {*before} == {"hello", "long"}
    assert np.abs(after["long"]["speech_feature"] - before["long"]["speech_feature"]).max() > 1e-3
    assert arspm_in_process("generate", "--run", tmp_path / "exported", "--out", out, recordings / "bob") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "0 portraits drawn, 2 kept, 0 failed"


def test_a_row_group_is_kept_or_drawn_again_as_a_whole(
    run: str, write_corpus: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    corpus, told = write_corpus({"test": (5, 2)}, feature_dim=64)
    out = tmp_path / "out"
    assert arspm_in_process("generate", "--run", run, "--out", out, corpus) == 0
    first, groups = features(str(out)), len(written(out)) - 7
    assert groups > 2
    (out / "test" / f"{told['test'][schema.CLIP_ID][0]}.png").unlink()
    part = sorted((out / "features").iterdir())[-1]
    lost = len(pq.read_table(sorted((out / "features").iterdir())[0])) + len(pq.read_table(part))
    part.write_bytes(b"PAR1 and no more")
    capsys.readouterr()
    assert arspm_in_process("generate", "--run", run, "--out", out, corpus) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"{lost} portraits drawn, {7 - lost} kept, 0 failed"
    after = features(str(out))
    assert sum(len(pq.read_table(each)) for each in (out / "features").iterdir()) == 7
    for clip, row in first.items():
        np.testing.assert_allclose(after[clip]["speech_feature"], row["speech_feature"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_command_is_resumed_and_draws_nothing_twice(run: str, tmp_path: Path, wait_until: Callable[..., None]):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [f"{number:03d}" for number in range(5 * PER_ITEM)]
    for number, name in enumerate(names):
        soundfile.write(folder / f"{name}.wav", voice(1.0, seed=number), 16_000)
    command = [Path(sys.executable).with_name("arspm"), "generate", "--run", run, "--out", out, folder]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: first.poll() is not None or [*out.glob("features/part-*")], 120)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    before = written(out)
    kept = PER_ITEM * len([path for path in before if path.endswith(".parquet")])
    assert 0 < kept < len(names)
    assert not json.loads((out / "generated.json").read_text())["complete"]
    done = arspm(*command[1:])
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{out}/{name}.png" for name in names])
    assert done.stderr.splitlines()[-1] == f"{len(names) - kept} portraits drawn, {kept} kept, 0 failed"
    assert [*features(str(out))] == names
    assert sum(len(pq.read_table(part)) for part in (out / "features").iterdir()) == len(names)
    after = written(out)
    assert all(after[path] == before[path] for path in (f"{name}.png" for name in names[:kept]))
    assert len(after) == len(names) + 5
    assert json.loads((out / "generated.json").read_text())["complete"]


def test_portraits_may_lie_beside_their_recordings(run: str, recordings: Path):
    for _ in range(2):  # the second time, the first time's features are there
        assert arspm_in_process("generate", "--run", run, "--out", recordings / "bob", recordings / "bob") == 0
    assert {"hello.png", "hello.wav"} <= {path.name for path in (recordings / "bob").iterdir()}


def test_a_folder_of_somebody_elses_features_is_refused(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "out" / "features").mkdir(parents=True)
    (tmp_path / "out" / "features" / "mine.py").write_text("precious")
    assert arspm_in_process("generate", "--run", run, "--out", tmp_path / "out", recordings / "ann") == 1
    assert "out: its features would be replaced; give another folder for --out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["features", "mine.py"]


@pytest.mark.parametrize("speech", [schema.WAVEFORM, schema.SPECTROGRAM])
def test_a_corpus_gives_the_same_features_as_its_waveforms(
    run: str, write_corpus: Callable[..., Any], tmp_path: Path, speech: str
):
    corpus, told = write_corpus({"train": (6,), "test": (5, 2)}, speech=speech, feature_dim=64)
    out = str(tmp_path / "out")
    assert arspm_in_process("generate", "--run", run, "--out", out, corpus, "--split", "test") == 0
    found, model = features(out), SpeechPortrait.load(run)
    assert [*found] == told["test"][schema.CLIP_ID]
    assert {row["portrait"].rpartition("/")[2] for row in found.values()} == {f"{clip}.png" for clip in found}
    assert all(Path(out, row["portrait"]).is_file() for row in found.values())
    if speech == schema.WAVEFORM:
        wanted = model.features(from_int16(torch.from_numpy(told["test"][speech])))
        got = np.stack([row["speech_feature"] for row in found.values()])
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_broken_tables_and_hostile_ids_are_reported_and_the_rest_is_drawn(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kind = schema.speech_schema(schema.WAVEFORM)
    folder = tmp_path / "tables"
    folder.mkdir()
    cell = (np.random.default_rng(0).standard_normal(96_000) * 3000).astype("<i2").tobytes()
    ids = ["good", "../../escaped", "/absolute", "good", "", "new\nline"]
    rows = [{"clip_id": clip, "video_id": "v", "waveform": cell} for clip in ids]
    pq.write_table(pa.Table.from_pylist(rows, kind), folder / "a.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"clip_id": ["x"], "text": ["y"]}), folder / "other.parquet")
    out = tmp_path / "out"
    assert arspm_in_process("generate", "--run", run, "--out", out, folder) == 1
    printed, errors = capsys.readouterr()
    assert printed.splitlines() == [f"{out}/a/good.png"]
    assert not (tmp_path / "escaped.png").exists()
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 7
    assert f"error: {folder}/a.parquet: clip id '../../escaped': not usable as a file's name" in lines
    assert f"error: {folder}/a.parquet: clip id good: twice in a row group" in lines
    assert any(line.startswith(f"error: {folder}/broken.parquet: not an intact Parquet file") for line in lines)
    assert any(line.startswith(f"error: {folder}/other.parquet: no rows of speech") for line in lines)


def test_from_a_bucket_into_a_bucket(s3: str, run: str, recordings: Path):
    for path in recordings.rglob("*.*"):
        storage.upload(path, f"{s3}/generate/in/{path.relative_to(recordings)}")
    out = f"{s3}/generate/out"
    assert (
        arspm_in_process("generate", "--run", run, "--out", out, f"{s3}/generate/in", f"{s3}/no-such-folder/x.wav") == 1
    )
    portraits = [path for path in storage.files_below(out) if path.endswith("hello.png")]
    assert [path.rpartition("/")[0].rpartition("/")[2] for path in portraits] == ["ann", "bob"]
    assert len(features(out)) == 3
    failures = [*csv.DictReader(io.StringIO(storage.read_bytes(f"{out}/failures.csv").decode()))]
    assert len(failures) == 4
    image = Image.open(io.BytesIO(storage.read_bytes(f"{out}/contact-sheet.png")))
    assert image.format == "PNG"


def test_an_exported_model_draws_too_and_nothing_is_drawn_of_nothing(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    exported = tmp_path / "exported"
    assert arspm_in_process("export", run, exported, "--no-onnx") == 0
    assert "exported 4 files, " in capsys.readouterr().out
    assert arspm_in_process("generate", "--run", exported, "--out", tmp_path / "out", recordings / "ann") == 0
    capsys.readouterr()
    assert arspm_in_process("generate", "--run", exported, "--out", tmp_path / "none", tmp_path / "gone.wav") == 1
    assert f"error: {tmp_path}/gone.wav: no such file" in capsys.readouterr().err
    assert not (tmp_path / "none" / "contact-sheet.png").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--split", "tset"], "--split tset: there is no such split; there are train, val, test"),
        (["--device", "gpu"], "device gpu: torch cannot use it here"),
        (["--cluster", "--device", "cuda"], "--device: on a cluster, resources.infer.gpus of the model decides"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    run: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
):
    assert arspm_in_process("generate", "--run", run, "--out", tmp_path / "out", recordings, *more) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_help_of_export_has_examples_and_states_the_limits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    assert arspm_in_process("export", "--help") == 0
    text = capsys.readouterr().out
    assert re.search(r"^ arspm export runs/one exported/one\s*$", text, re.MULTILINE), "on a line of its own"
    assert "it identifies no one" in text


@pytest.mark.ray
def test_a_cluster_draws_what_one_process_draws(
    run: str, recordings: Path, tmp_path: Path, head: Any, write_corpus: Callable[..., Any]
):
    corpus, _ = write_corpus({"test": (5, 2)}, feature_dim=64)
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    inputs = [recordings, corpus]
    assert arspm_in_process("generate", "--run", run, "--out", here, *inputs) == 1
    done = arspm("generate", "--run", run, "--out", there, *inputs, "--ray-address", head.address)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"10 portraits drawn, 3 failed; all reasons: {there}/failures.csv" in done.stderr
    for name, reason in BAD.items():
        assert f"error: {recordings}/{name}: {reason}" in done.stderr
    wanted, found = features(here), features(there)
    assert [*found] == [*wanted]
    for clip, row in found.items():
        assert row["portrait"] == wanted[clip]["portrait"]
        np.testing.assert_allclose(row["speech_feature"], wanted[clip]["speech_feature"], rtol=1e-4, atol=1e-5)
        assert Path(there, row["portrait"]).is_file()
    assert Path(there, "contact-sheet.png").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_draws_only_what_is_missing(run: str, recordings: Path, tmp_path: Path, head: Any) -> None:
    """The folder is that of a command in this process that ended in the middle."""
    out = tmp_path / "out"
    assert arspm_in_process("generate", "--run", run, "--out", out, recordings / "ann") == 0
    summary = json.loads((out / "generated.json").read_text())
    storage.write_json(str(out / "generated.json"), summary | {"complete": False})
    (out / "hello.png").rename(out / "other.png")
    command = ("generate", "--run", run, "--out", out, recordings / "ann", "--ray-address", head.address)
    for line in ("1 portraits drawn, 0 failed", "0 portraits drawn, 1 kept, 0 failed"):
        done = arspm(*command)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, line), done.stdout + done.stderr
    assert [*features(str(out))] == ["hello"]
    assert (out / "hello.png").exists()
