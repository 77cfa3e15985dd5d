"""A run that uses another run's corpus where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm import storage
from arspm.config import Config, ConfigError, dump, override
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.runs import adopted, reused, stages
from jobs import dry_run
from jobs.commands.settings import resolve_config
from tests.conftest import Bucket
from tests.jobs.conftest import arspm_in_process as run_here
from tests.jobs.conftest import clips  # noqa: F401
from tests.s3_servers import connected_to

CONFIG = override(preset("smoke"), {"data.storage": "waveform", "data.csv": "/gone/x.csv", "data.clips": "/gone/clips"})
NOTHING: dict[str, str | None] = dict.fromkeys(("format", "csv", "clips", "faces", "labels"))


@pytest.fixture
def source(write_corpus: Callable[..., Any], tmp_path: Path) -> str:
    """A run whose preprocess stage is done; its clips are no longer there."""
    corpus, _ = write_corpus({"train": (13, 4), "val": (6,), "test": (6,)})
    manifest = json.loads(Path(corpus, tables.MANIFEST).read_text())
    Path(corpus, tables.MANIFEST).write_text(json.dumps(manifest | {"storage": "waveform"}))
    files = {
        f"corpus/{path}": storage.describe(f"{corpus}/{path}")
        for path in storage.files_below(corpus)
        if "/features/" not in path
    }
    stages.commit(
        str(tmp_path),
        "preprocess",
        fingerprint="p" * 64,
        config=CONFIG,
        files=files,
        seconds=5.0,
        figures={"num_clips": 29, "num_rows": 29, "num_dropped": 0},
    )
    return str(tmp_path)


def config_of(run: str, **changes: str) -> Config:
    fields = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve_config("smoke", None, NOTHING, fields, adopted.read_adopted(run))


def test_the_clips_are_read_where_they_are(source: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = str(tmp_path_factory.mktemp("other") / "two")
    before = storage.files_below(source)
    assert run_here("adopt", f"{source}/corpus", "--run", run) == 0
    assert storage.files_below(source) == before
    assert sum(storage.files_below(run).values()) < 20_000, "nothing was copied"
    wanted = {"speech": (schema.CLIP_ID, schema.WAVEFORM), "faces": (schema.FACE_JPEG,)}
    for name in schema.SPLITS:
        own, other = (tables.open_split(stages.corpus(uri), name) for uri in (run, source))
        rows = np.arange(own.num_rows)
        found, expected = (tables.read_rows(split, wanted, rows) for split in (own, other))
        assert found[schema.CLIP_ID] == expected[schema.CLIP_ID]
        np.testing.assert_array_equal(found[schema.WAVEFORM], expected[schema.WAVEFORM])
        assert own.path("features", 0) == f"{run}/corpus/{name}/features/shard-00000.parquet", "its own"
    done = stages.success(run, "preprocess")
    assert done is not None
    assert (done.fingerprint, done.figures["adopted"], done.seconds) == ("p" * 64, source, 5.0), "the time of that run"


def test_a_submission_reuses_it_and_refuses_other_settings(source: str, tmp_path: Path) -> None:
    run = f"{source}/two"
    adopted.adopt(source, run)
    config = config_of(run, training__encoder__epochs="3")
    assert (config.data.csv, config.data.storage) == ("/gone/x.csv", "waveform")
    trees, fingerprints = adopted.inputs_of(config, run)
    assert trees == {}
    assert fingerprints["preprocess"] == "p" * 64
    assert stages.done(run, "preprocess", fingerprints["preprocess"]) is not None
    assert fingerprints["vggface"] == stages.fingerprint(config, "vggface", {"preprocess": "p" * 64})
    lines = dry_run.describe(config, run, None).splitlines()
    assert lines[0].endswith("17 training, 6 validation and 6 test clips")
    assert lines[1].split() == ["preprocess", "already", "done,", "reused"]
    with pytest.raises(ConfigError, match=r"made with other settings: face.margin 0.5? ?.*use another --run"):
        adopted.inputs_of(config_of(run, face__margin="0.5"), run)
    with pytest.raises(ConfigError, match="--csv: the run uses the corpus of"):
        resolve_config("smoke", None, NOTHING | {"csv": "x.csv"}, {}, adopted.read_adopted(run))
    assert adopted.inputs_of(config_of(run, data__filter="face_score > 0.5"), run)[0] == {}, "read by later stages"


def test_damage_is_found_when_adopted_and_later(source: str) -> None:
    run, shard = f"{source}/two", Path(source, "corpus", "val", "speech", "shard-00000.parquet")
    adopted.adopt(source, run)
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"val/speech/shard-00000.parquet: .*its SHA-256 is another"):
        reused.require_hashes(run, ["preprocess"], max_bytes=1e12)
    with pytest.raises(ValueError, match="its SHA-256 is another"):
        adopted.adopt(source, f"{source}/three")
    shard.unlink()
    with pytest.raises(ValueError, match="missing"):
        reused.require_sizes(run, ["preprocess"])
    assert storage.entries(f"{source}/three") == [], "nothing is written"
    manifest = Path(source, "preprocess", stages.SUCCESS)
    manifest.write_text(manifest.read_text().replace("p" * 64, "q" * 64))
    with pytest.raises(ValueError, match="is no longer there or was made again"):
        reused.require_sizes(run, ["preprocess"])


def test_what_cannot_be_adopted(source: str) -> None:
    run = f"{source}/two"
    adopted.adopt(source, run)
    for corpus, target, says in (
        (source, run, "has a corpus already"),
        (run, f"{source}/three", "its corpus is that of"),
        (f"{source}/nowhere", f"{source}/three", "not the corpus of a run whose stage preprocess is done"),
        (source, stages.variant_run(f"{source}/three", "x"), "a variant has that of its run"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            adopted.adopt(corpus, target)
    manifest = Path(source, "preprocess", stages.SUCCESS)
    manifest.write_text(manifest.read_text().replace('"storage": "waveform"', '"storage": "spectrogram"'))
    with pytest.raises(ValueError, match=r"made with data\.storage=waveform, not spectrogram"):
        adopted.adopt(source, f"{source}/three")


def test_a_corpus_in_a_bucket(source: str, seaweed_bucket: Bucket) -> None:
    with connected_to(seaweed_bucket.env):
        there = f"{seaweed_bucket.uri}/adopted/one"
        for path in storage.files_below(source):
            storage.upload(f"{source}/{path}", f"{there}/{path}")
        run = f"{seaweed_bucket.uri}/adopted/two"
        assert run_here("adopt", f"{there}/corpus", "--run", run) == 0
        split = tables.open_split(stages.corpus(run), "train")
        assert split.path("faces", 1) == f"{there}/corpus/train/faces/shard-00001.parquet"
        assert len(tables.read_columns(split, "faces", (schema.CLIP_ID,))) == 17


@pytest.mark.slow
def test_stages_after_it_run_and_leave_the_other_run_alone(clips: Path, tmp_path: Path) -> None:  # noqa: F811
    """With real clips, in one process."""
    one, two, file = f"{tmp_path}/one", f"{tmp_path}/two", tmp_path / "config.json"
    file.write_text(
        dump(resolve_config("smoke", None, NOTHING | {"csv": f"{clips}/avspeech.csv", "clips": f"{clips}/clips"}, {}))
    )
    run_stages(one, file, "preprocess", "vggface")
    before = storage.files_below(one)
    adopted.adopt(one, two)
    file.write_text(dump(config_of(two)))
    run_stages(two, file, "vggface", "features")
    assert storage.files_below(one) == before
    first, second = (stages.success(run, "vggface") for run in (one, two))
    assert first is not None
    assert second is not None
    model = "vggface/model.safetensors"
    assert first.files[model] == second.files[model], "the same rows give the same network"
    for name in schema.SPLITS:
        assert storage.exists(tables.open_split(stages.corpus(two), name).path("features", 0))


def run_stages(run: str, config: Path, *names: str) -> None:
    for name in names:
        command = [sys.executable, "-m", f"jobs.{name}", "--local", "--run", run, "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
