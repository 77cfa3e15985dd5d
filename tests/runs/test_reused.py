"""Files of finished stages that are not those of their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.config import Config
from arspm.runs import stages
from arspm.runs.reused import built_on, require_hashes, require_sizes

SHARD = "corpus/train/speech/shard-00000.parquet"
MODEL = "decoder/model.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run with a shard of 100 bytes and a network of 50."""
    for stage, path, data in (("preprocess", SHARD, b"a" * 100), ("decoder", MODEL, b"b" * 50)):
        files = {path: storage.write_bytes(f"{tmp_path}/{path}", data)}
        stages.commit(str(tmp_path), stage, fingerprint="f", config=Config(), files=files, seconds=1.0, figures={})
    return str(tmp_path)


ALL = ["preprocess", "decoder"]


def check(run: str, names: list[str] = ALL, **options: Any) -> Any:
    require_sizes(run, names, **{name: value for name, value in options.items() if name == "shards"})
    return require_hashes(run, names, **{"max_bytes": 1000, **options})


def test_intact_files_pass(run: str) -> None:
    hashed = check(run)
    assert (hashed.num_files, hashed.num_bytes, hashed.bytes_left) == (2, 150, 0)
    assert check(run, ["encoder"]).num_files == 0  # it is not done


def test_a_missing_file_is_refused_with_what_to_do(run: str) -> None:
    Path(run, MODEL).unlink()
    manifest = f"{run}/decoder/{stages.SUCCESS}"
    with pytest.raises(
        ValueError, match=f"^{run}/{MODEL}: missing, although {manifest} lists it; delete {manifest} and"
    ):
        require_sizes(run, ALL)
    require_sizes(run, ["preprocess"])


def test_a_file_of_another_size_is_refused(run: str) -> None:
    Path(run, SHARD).write_bytes(b"a" * 99)
    with pytest.raises(
        ValueError, match=rf"^{run}/{SHARD}: not the file that .* lists: it has 99 bytes instead of 100\."
    ):
        require_sizes(run, ALL)


@pytest.mark.parametrize("path", [SHARD, MODEL])
def test_a_file_of_the_same_size_with_other_content_is_refused(run: str, path: str) -> None:
    """Such as another run's shard of features, which has the same size."""
    Path(run, path).write_bytes(b"c" * Path(run, path).stat().st_size)
    require_sizes(run, ALL)
    with pytest.raises(
        ValueError, match=rf"^{run}/{path}: not the file that .*_SUCCESS\.json lists: its SHA-256 is another"
    ):
        check(run)


def test_files_under_the_manifest_of_another_run_are_refused(run: str, tmp_path: Path) -> None:
    """Two heads ran the decoder at once: the second wrote its network after the first had written its manifest."""
    storage.write_bytes(f"{run}/{MODEL}", b"x" * 50)
    with pytest.raises(ValueError, match="written by another run of stage decoder at the same time; delete both files"):
        check(run)


def test_a_limit_leaves_shards_first(run: str) -> None:
    hashed = check(run, max_bytes=149)
    assert (hashed.num_files, hashed.num_bytes, hashed.bytes_left) == (1, 50, 100)
    Path(run, SHARD).write_bytes(b"c" * 100)
    check(run, max_bytes=149)
    Path(run, MODEL).write_bytes(b"c" * 50)
    with pytest.raises(ValueError, match=f"^{run}/{MODEL}"):
        check(run, max_bytes=149)


def test_the_report_needs_no_shards(run: str) -> None:
    Path(run, SHARD).unlink()
    assert check(run, shards=False).num_files == 1
    with pytest.raises(ValueError, match="missing"):
        check(run)


def test_a_variant_is_checked_with_its_parents_files(run: str) -> None:
    variant = stages.variant_run(run, "male-0")
    path = "encoder/model.safetensors"
    files = {path: storage.write_bytes(f"{variant}/{path}", b"m")}
    stages.commit(variant, "encoder", fingerprint="f", config=Config(), files=files, seconds=1.0, figures={})
    assert check(variant, [*ALL, "encoder"]).num_files == 3
    Path(variant, path).write_bytes(b"n")
    with pytest.raises(ValueError, match=f"^{variant}/{path}"):
        check(variant, [*ALL, "encoder"])
    Path(run, MODEL).write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{run}/{MODEL}"):
        check(variant)


def test_what_stages_build_on() -> None:
    assert built_on(["features"]) == ["preprocess", "vggface"]
    assert built_on(["encoder", "evaluate"]) == [
        *("preprocess", "vggface", "gender", "features", "prior", "decoder", "oracle"),
    ]
    assert built_on([]) == []
    assert built_on(stages.STAGES) == []
