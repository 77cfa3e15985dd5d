"""Reading an item: a file that cannot be read has a reason, but a store that cannot be reached is no bad file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from arspm import storage
from arspm.bulk import item_files
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.storage import retries
from tests.media.media_files import voice
from tests.s3_servers import connected_to, s3_env


def item(*sources: object) -> dict[str, Any]:
    uris = [str(source) for source in sources]
    names = [str(number) for number in range(len(uris))]
    return {"number": 0, "table": "", "group": 0, "sources": uris, "names": names, "stamps": names}


def reasons(*sources: object) -> list[str]:
    return item_files.read(preset("smoke"), item(*sources))["reason"].to_pylist()


def test_each_bad_file_has_its_reason_and_the_others_are_read(tmp_path: Path):
    soundfile.write(tmp_path / "good.wav", voice(1.0), 16_000)
    (tmp_path / "text.wav").write_text("nothing to hear")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    files = [tmp_path / f"{name}.wav" for name in ("good", "text", "folder", "pipe", "gone")]
    table = item_files.read(preset("smoke"), item(*files, "https://host/x.wav"))
    found = table["reason"].to_pylist()
    assert found[0] == ""
    assert found[1].startswith("cannot be decoded: ")
    assert found[2:5] == ["a folder, not a file", "a pipe or a device, not a file", "no such file"]
    assert "not supported" in found[5]
    speech = schema.columns_of(table)[schema.WAVEFORM]
    assert [bool(np.any(each)) for each in speech] == [True, *[False] * 5]


def test_a_file_without_permission_has_that_reason(tmp_path: Path):
    soundfile.write(tmp_path / "private.wav", voice(1.0), 16_000)
    (tmp_path / "private.wav").chmod(0)
    assert reasons(tmp_path / "gone.wav") == ["no such file"]  # everything is imported
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        assert reasons(tmp_path / "private.wav") == ["no permission to read it"]
    finally:
        if is_root:
            os.seteuid(0)


def test_a_portrait_whose_name_is_not_possible_is_a_failure_of_its_own(tmp_path: Path):
    rows = {
        "name": ["good", "x" * 300, "file/inside"],
        "source": list("abc"),
        "clip_id": list("abc"),
        "source_stamp": list("abc"),
        "reason": [""] * 3,
    }
    arrays = {"speech_feature": np.ones((3, 4), np.float32), "pixels": np.zeros((3, 8, 8, 3), np.uint8)}
    (tmp_path / "file").touch()
    result = json.loads(item_files.write(str(tmp_path), item(), schema.table_of(rows | arrays))["result"])
    assert result["names"] == ["good"]
    [(first, too_long), (second, in_a_file)] = result["failures"]
    assert (first, second) == ("b", "c")
    assert too_long == "the portrait cannot have its name: File name too long"
    assert "a file is where a folder is needed" in in_a_file
    assert schema.columns_of(tables.read_table(f"{tmp_path}/features/part-000000.parquet"))["clip_id"].to_pylist() == [
        "a"
    ]


def test_a_contact_sheet_shows_each_portrait_in_its_place_whatever_its_name(tmp_path: Path):
    names = ["red", "ünïcode/声音/صوت", "long" * 40, "a b", "blue"]
    colours = [(255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255), (0, 0, 255)]
    for name, colour in zip(names, colours, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (224, 224), colour).save(tmp_path / f"{name}.png")
    item_files.write_contact_sheet(str(tmp_path), names)
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert [sheet.getpixel((136 * number + 72, 90)) for number in range(5)] == colours


def test_a_store_that_cannot_be_reached_ends_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(retries, "REQUEST_TRIES", 1)
    with connected_to(s3_env("127.0.0.1", 9)), pytest.raises(storage.StorageUnavailable):
        reasons("s3://bucket/voice.wav")
