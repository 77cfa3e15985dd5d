"""The stored listing of a run's input files: who reads it, and when the files are listed again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import storage
from arspm.config import Config, ConfigError, override
from arspm.runs import inventory, stages

NAMES = ("wav/id1/v/1.wav", "wav/id1/v/2.wav", "faces/id1/v/1.jpg", "faces/README")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "meta.csv").write_text("a")
    uris = {"csv": f"{tmp_path}/meta.csv", "clips": f"{tmp_path}/wav", "faces": f"{tmp_path}/faces"}
    return override(Config(), {f"data.{name}": value for name, value in (uris | {"format": "voxceleb"}).items()})


@pytest.fixture
def run(tmp_path: Path, config: Config) -> str:
    """A run with an inventory of the fingerprint "f"."""
    run = f"{tmp_path}/run"
    inventory.write_inventory(run, config.data, "f", inventory.find_inputs(config).trees)
    return run


def changed(config: Config, **changes: Any) -> Config:
    return override(config, {f"data.{name}": value for name, value in changes.items()})


def test_an_inventory_is_a_parquet_file_of_paths_and_sizes(run: str, config: Config, tmp_path: Path) -> None:
    table = pq.read_table(f"{run}/inventory/faces.parquet")
    assert table.to_pylist() == [{"path": "README", "bytes": 12}, {"path": "id1/v/1.jpg", "bytes": 17}]
    facts = table.schema.metadata
    assert (facts[b"uri"], facts[b"num_files"]) == (f"{tmp_path}/faces".encode(), b"2")
    assert int(facts[b"listed_at"]) > 1_700_000_000
    trees = inventory.read_inventory(run, config.data, "f")
    assert trees is not None
    assert trees == inventory.find_inputs(config).trees
    assert inventory.find_inputs(config, trees).hash == inventory.find_inputs(config).hash


def test_the_stored_listing_is_used_instead_of_the_files(run: str, config: Config, tmp_path: Path) -> None:
    before = inventory.find_inputs(config)
    (tmp_path / "wav/id1/v/3.wav").write_bytes(b"new")
    assert inventory.find_inputs(config).hash != before.hash  # what `arspm submit` does
    assert inventory.find_inputs(config, inventory.read_inventory(run, config.data, "f")).hash == before.hash
    (tmp_path / "meta.csv").write_text("b")  # tables are read in any case
    assert inventory.find_inputs(config, inventory.read_inventory(run, config.data, "f")).hash != before.hash


def test_another_submit_or_another_folder_has_no_inventory(run: str, config: Config, tmp_path: Path) -> None:
    assert inventory.read_inventory(run, config.data, "f") is not None
    assert inventory.read_inventory(run, config.data, "g") is None
    assert inventory.read_inventory(f"{tmp_path}/other", config.data, "f") is None
    assert inventory.read_inventory(run, changed(config, faces=f"{tmp_path}/wav").data, "f") is None
    assert inventory.read_inventory(run, changed(config, faces="").data, "f") is not None  # reads the clips alone
    storage.remove(f"{run}/inventory/faces.parquet")
    assert inventory.read_inventory(run, config.data, "f") is None


def test_an_old_inventory_is_not_used(run: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inventory.read_inventory(run, changed(config, inventory_minutes=0).data, "f") is None
    now = inventory.time.time()
    for minutes, is_fresh in ((59, True), (61, False), (-61, False)):
        monkeypatch.setattr(inventory.time, "time", lambda minutes=minutes: now + minutes * 60)
        assert (inventory.read_inventory(run, config.data, "f") is not None) is is_fresh
    monkeypatch.setattr(inventory.time, "time", lambda: now + 100 * 60)
    assert inventory.read_inventory(run, changed(config, inventory_minutes=120).data, "f") is not None


@pytest.mark.parametrize("damage", ["empty", "cut", "other columns", "fewer rows", "no metadata", "no time"])
def test_an_invalid_inventory_counts_as_none_and_is_logged(
    run: str, config: Config, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{run}/inventory/clips.parquet"
    data, table = storage.read_bytes(uri), pq.read_table(uri)
    tables = {
        "other columns": table.rename_columns(["path", "size"]),
        "fewer rows": table.slice(1),
        "no metadata": table.replace_schema_metadata(),
        "no time": table.replace_schema_metadata(table.schema.metadata | {b"listed_at": b"now"}),
    }
    if damage in tables:
        sink = io.BytesIO()
        pq.write_table(tables[damage], sink)
        data = sink.getvalue()
    storage.write_bytes(uri, {"empty": b"", "cut": data[: len(data) // 2]}.get(damage, data))
    assert inventory.read_inventory(run, config.data, "f") is None
    assert f"{uri}: not an inventory" in caplog.text


def test_the_hash_separates_paths_and_sizes(tmp_path: Path) -> None:
    listings = [[("a1.mp4", 2)], [("a.mp4", 12)], [("a1.mp4", 2), ("a.mp4", 1)], [("a1.mp4", 2), ("b.mp4", 1)]]
    (tmp_path / "a.csv").touch()
    (tmp_path / "clips").mkdir()
    config = override(Config(), {"data.csv": f"{tmp_path}/a.csv", "data.clips": f"{tmp_path}/clips"})
    hashes = set()
    for files in listings:
        paths, sizes = zip(*files, strict=True)
        trees = {"clips": pa.table([paths, sizes], storage.FILES)}
        hashes.add(inventory.find_inputs(config, trees).hash)
        trees = {"clips": pa.concat_tables([trees["clips"], pa.table([["b.txt"], [1]], storage.FILES)])}
        hashes.add(inventory.find_inputs(config, trees).hash)
    assert len(hashes) == len(listings)


def test_how_long_an_inventory_is_used_is_in_no_fingerprint(config: Config) -> None:
    assert stages.fingerprints(changed(config, inventory_minutes=5), "i") == stages.fingerprints(config, "i")


def test_an_invalid_filter_is_refused_with_the_inputs(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"^data\.filter: there is no column face_scor; there are "):
        inventory.find_inputs(changed(config, filter="face_scor > 0.5"))
