"""Inference over shards: what it reads, and that tasks that read for the actors change no byte."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import torch

from arspm import config as configuration
from arspm.config import Config, Tasks, override
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.distributed import local
from arspm.distributed.data import genders, infer, shard_tables
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import artifacts, checkpoint

SIZES = {"train": (13, 7), "val": (4,), "test": (6, 5)}
NUM_GROUPS = {"train": 6, "val": 1, "test": 4}  # of four rows
INFER, HELP = Tasks(num_tasks=2, cpus=0.5), Tasks(num_tasks=1, cpus=0.1)


@pytest.fixture(params=[schema.WAVEFORM, schema.SPECTROGRAM])
def run(write_corpus: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Config]:
    """A run with untrained networks, whose batches of five rows do not end where row groups end."""
    config = override(
        preset("smoke"),
        {"data.storage": request.param, "evaluate.batch_size": 5, "prior.kind": "gender", "evaluate.num_clips": 9},
    )
    write_corpus(SIZES, speech=request.param, feature_dim=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "vggface": speech_portrait.vggface(config, 5),
            "gender": speech_portrait.gender_classifier(config),
            "decoder": speech_portrait.face_decoder(config),
            "encoder": speech_portrait.speech_encoder(config),
        }
        priors = {name: torch.randn(64) for name in ("neutral", *schema.GENDERS)}
    for name, network in networks.items():
        (tmp_path / name).mkdir()
        checkpoint.write_weights(tmp_path / name / artifacts.MODEL, network.state_dict())
    (tmp_path / "prior").mkdir()
    checkpoint.write_weights(tmp_path / "prior" / artifacts.PRIORS, priors)
    return str(tmp_path), config


def test_each_row_group_is_read_once(run: tuple[str, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, config = run
    read: list[tuple[str, ...]] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **options: (
            read.append(tuple(columns)) or original(self, group, columns=columns, **options)
        ),
    )
    speech = config.data.storage
    with local.in_process():
        table, _ = infer.predict(config, uri)
        assert len(table) == 9  # a part of the second shard, of which its last row group has none
        expected = {
            (schema.CLIP_ID, schema.VIDEO_ID, speech): 3,
            (schema.CLIP_ID, schema.FACE_FEATURE): 3,
            (schema.CLIP_ID, schema.GENDER, schema.AGE, schema.IDENTITY): 3,
        }
        assert {columns: read.count(columns) for columns in read} == expected
        read.clear()
        infer.make_features(config, uri)
        assert read == [(schema.CLIP_ID, schema.FACE_JPEG)] * sum(NUM_GROUPS.values())
        read.clear()
        genders.predict_genders(config, uri, "0" * 64)
        assert read == [(schema.CLIP_ID, speech)] * sum(NUM_GROUPS.values())


ACTORS = [infer._FeatureMaker, infer._Predictor, genders._GenderPredictor]


@pytest.mark.parametrize("actor", ACTORS)
def test_helpers_do_not_load_torch(actor: type[infer.ShardActor], tmp_path: Path) -> None:
    splits: dict[str, tables.Split] = {}
    read = functools.partial(shard_tables.read_shard, splits, actor.wanted(preset("smoke")), 64)
    functions = (local._reading(read), local._writing(functools.partial(actor.write, splits, "run")))
    (pickled := tmp_path / "functions").write_bytes(ray.cloudpickle.dumps(functions))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); print({'torch', 'pyarrow'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code, pickled], capture_output=True, text=True)
    assert result.stdout.strip() == "{'pyarrow'}", result.stderr


@pytest.mark.ray
@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("helpers", [HELP, None], ids=["with helpers", "actors alone"])
def test_files_are_those_of_one_process(
    driver: None, run: tuple[str, Config], actor: type[infer.ShardActor], helpers: Tasks | None
) -> None:
    """To the last bit, with the same results in the same order, whoever reads."""
    uri, config = run
    splits = {name: tables.open_split(stages.corpus(uri), name) for name in schema.SPLITS}
    items = [
        {"split": name, "shard": shard, "key": f"{name}{shard}"}
        for name, split in splits.items()
        for shard in range(len(split.shards))
    ]

    def results() -> list[dict[str, Any]]:
        made = local.map_tables_with_actors(
            actor,
            (configuration.dump(config), uri),
            items,
            INFER,
            read=functools.partial(shard_tables.read_shard, splits, actor.wanted(config), config.image_size),
            write=functools.partial(actor.write, splits, uri),
            table_bytes=10**6,
            helpers=helpers,
        )
        return list(made)

    with local.in_process():
        expected = results()
    files = {row["path"]: Path(uri, row["path"]).read_bytes() for row in expected}
    for path in files:
        Path(uri, path).unlink()
    assert results() == expected
    assert [row["rows"] for row in expected] == [size for sizes in SIZES.values() for size in sizes]
    assert {path: Path(uri, path).read_bytes() for path in files} == files


@pytest.mark.ray
def test_tables_go_through_the_actors_as_they_are(driver: None) -> None:
    """Of 150 MB, more than Ray Data's usual block, and with nulls; read and written in other processes."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 1000, 1000), dtype=np.uint8)

    def copies(number: int) -> int:
        return 37 if number == 3 else 1

    def read(item: dict[str, Any]) -> pa.Table:
        number = item["number"]
        names = pa.array(["a", None, "c", None] * copies(number))
        columns = {"rows": np.tile(rows + number, (copies(number), 1, 1)), "names": names}
        return schema.table_of(columns | {"readers": [os.getpid()] * len(names)})

    class Actor:
        def __init__(self, text: str):
            self._text = text

        def __call__(self, table: pa.Table) -> pa.Table:
            assert not schema.columns_of(table)["rows"].flags.writeable, "a view of the object store"
            return table.append_column("actors", [[os.getpid()] * len(table)]).append_column(
                "texts", [[self._text] * len(table)]
            )

    def write(item: dict[str, Any], table: pa.Table) -> dict[str, Any]:
        columns = schema.columns_of(table)
        expected = np.tile(rows + item["number"], (copies(item["number"]), 1, 1))
        [reader], [actor] = set(columns["readers"].to_pylist()), set(columns["actors"].to_pylist())
        return {
            "number": item["number"],
            "same": np.array_equal(columns["rows"], expected),
            "names": columns["names"].to_pylist()[-4:],
            "text": columns["texts"].to_pylist()[-1],
            "alone": actor in (reader, os.getpid()),
        }

    found = local.map_tables_with_actors(
        Actor,
        ("arguments",),
        [{"number": number} for number in range(6)],
        INFER,
        read=read,
        write=write,
        table_bytes=150 * 10**6,
        helpers=HELP,
    )
    same = {"same": True, "names": ["a", None, "c", None], "text": "arguments", "alone": False}
    assert list(found) == [{"number": number, **same} for number in range(6)]


@pytest.mark.ray
@pytest.mark.parametrize("helpers", [HELP, None], ids=["with helpers", "actors alone"])
def test_a_damaged_shard_is_named(driver: None, run: tuple[str, Config], helpers: Tasks | None) -> None:
    uri, config = run
    splits = {"val": tables.open_split(stages.corpus(uri), "val")}
    Path(splits["val"].path("faces", 0)).write_bytes(b"PAR1")
    made = local.map_tables_with_actors(
        infer._FeatureMaker,
        (configuration.dump(config), uri),
        [{"split": "val", "shard": 0, "key": ""}],
        INFER,
        read=functools.partial(shard_tables.read_shard, splits, infer._FeatureMaker.wanted(config), config.image_size),
        write=functools.partial(infer._FeatureMaker.write, splits, uri),
        table_bytes=10**6,
        helpers=helpers,
    )
    with pytest.raises(ValueError, match=r"val/faces/shard-00000\.parquet: not an intact Parquet file"):
        list(made)
