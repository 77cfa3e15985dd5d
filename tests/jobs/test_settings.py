"""The configuration of `arspm submit`: its paths, and the files found beside the data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from arspm import storage
from arspm.config import Config, ConfigError, uri_fields
from jobs.commands.options import parse_changes
from jobs.commands.settings import resolve_config


def settings(data: Mapping[str, str | None], *sets: str) -> Config:
    return resolve_config("smoke", None, data, parse_changes(sets))


def test_labels_are_found_beside_the_data_of_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    for place in (tmp_path, tmp_path / "people"):
        (place / "labels.csv").write_text("video_id\n")
    found = settings({"format": "folder", "clips": "people"}).data
    assert (found.format, found.csv, found.clips, found.labels) == (
        "folder",
        "",
        f"{tmp_path}/people",
        f"{tmp_path}/people/labels.csv",
    )
    given = {"format": "voxceleb", "csv": "vox1_meta.csv", "clips": "wav", "faces": "unzippedFaces", "labels": None}
    found = settings(given).data
    assert (found.csv, found.clips, found.faces, found.labels) == tuple(
        f"{tmp_path}/{name}" for name in ("vox1_meta.csv", "wav", "unzippedFaces", "labels.csv")
    )


def test_every_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Jobs run in another folder than the command that submits them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    Path("labels.csv").write_text("video_id\n")
    given = {"csv": f"file://{tmp_path}/clips.csv", "clips": "~/clips"}
    sets = ["vggface.weights=w.pth", "face.detector=yunet.onnx", "evaluate.judge=s3://b/judge.onnx"]
    found = uri_fields(settings(given, *sets))
    assert found == {
        "data.csv": f"{tmp_path}/clips.csv",
        "data.clips": "/home/me/clips",
        "data.labels": f"{tmp_path}/labels.csv",
        "vggface.weights": f"{tmp_path}/w.pth",
        "face.detector": f"{tmp_path}/yunet.onnx",
        "evaluate.judge": "s3://b/judge.onnx",
    }
    named = settings(given)
    assert (named.face.detector, named.evaluate.judge) == ("hog", "classifier")


def test_true_causes_of_synthetic_speakers_are_found_beside_the_csv(tmp_path: Path):
    (tmp_path / "speakers.parquet").touch()
    data: dict[str, str | None] = {"csv": f"{tmp_path}/avspeech.csv", "clips": f"{tmp_path}/clips"}
    assert settings(data).oracle.speakers == f"{tmp_path}/speakers.parquet"
    assert settings(data, "oracle.speakers=/other").oracle.speakers == "/other"
    assert settings({"format": "folder", "clips": str(tmp_path)}).oracle.speakers == ""


def test_labels_and_true_causes_are_found_in_a_bucket_too(s3: str):
    data: dict[str, str | None] = {"csv": f"{s3}/beside/avspeech.csv", "clips": f"{s3}/beside/clips"}
    found = settings(data)
    assert (found.data.labels, found.oracle.speakers) == ("", "")
    for name in ("labels.csv", "speakers.parquet", "people/labels.csv"):
        storage.write_bytes(f"{s3}/beside/{name}", b"x")
    found = settings(data, "data.val_fraction=0.3")
    assert (found.data.labels, found.oracle.speakers, found.data.val_fraction) == (
        f"{s3}/beside/labels.csv",
        f"{s3}/beside/speakers.parquet",
        0.3,
    )
    found = settings({"format": "folder", "clips": f"{s3}/beside/people"})
    assert (found.data.labels, found.oracle.speakers) == (f"{s3}/beside/people/labels.csv", "")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            {"format": "voxceleb", "clips": "wav", "faces": "faces"},
            "no clips given; pass --format voxceleb --csv CSV --clips FOLDER [--faces FOLDER]",
        ),
        (
            {"format": "folder", "clips": "c", "csv": "x.csv"},
            "data.csv: not used by format folder, which takes --format folder --clips FOLDER",
        ),
        (
            {"csv": "x.csv", "clips": "c", "faces": "f"},
            "data.faces: not used by format avspeech, which takes --csv CSV --clips FOLDER",
        ),
        ({"format": "vox"}, "data.format: Input should be 'avspeech', 'voxceleb' or 'folder'"),
    ],
)
def test_inputs_that_do_not_match_the_format_are_refused(data: dict[str, str | None], says: str):
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}") as caught:
        settings(data)
    assert "\n" not in str(caught.value)
