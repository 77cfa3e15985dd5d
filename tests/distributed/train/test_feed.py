"""The paths from the corpus to a worker: the same batches on all of them, and which one is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arspm.config import Config, override
from arspm.corpus import schema
from arspm.distributed.data import node_cache
from arspm.distributed.data.readings import Plan
from arspm.distributed.train.feed import PATHS, array_batches, choose_path, open_feed
from arspm.distributed.train.rows import gather_rows
from arspm.runs import stages
from arspm.training.batch import to_batch
from arspm.training.checkpoint import TrainingState
from arspm.training.fit import WorkerContext
from tests.distributed.conftest import commit_corpus

CPU = torch.device("cpu")


def batches(path: str, stage: str, config: Config, run: str, share: Any) -> list[dict[str, Any]]:
    config = override(config, {"ingest.path": path})
    rows = gather_rows(stage, config, run)
    feed = open_feed(stage, config, rows, WorkerContext(), share=share)
    found = []
    for batch in feed(TrainingState(epoch=0, step_in_epoch=1)):
        arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        found.append({name: np.array(value) for name, value in arrays.items()})
    return found


def require_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype, name
            assert np.array_equal(one[name], other[name]), name


@pytest.mark.parametrize("stage", ["vggface", "gender", "encoder"])
def test_all_paths_in_one_process_give_the_same_batches(decoded_run: tuple[str, Config], stage: str) -> None:
    run, config = decoded_run
    expected = batches("stream", stage, config, run, None)
    for path in PATHS[1:]:
        require_same(batches(path, stage, config, run, None), expected)


@pytest.mark.ray
def test_a_stream_of_ray_data_gives_the_same_batches(driver: None, decoded_run: tuple[str, Config]) -> None:
    run, config = decoded_run
    expected = batches("cache", "encoder", config, run, None)
    require_same(batches("stream", "encoder", config, run, lambda make: make()), expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_the_rows_of_an_array_as_the_order_says(decoded_run: tuple[str, Config], world_size: int) -> None:
    """Together, the workers' batches of a step hold the rows that one worker's batch has."""
    run, config = decoded_run
    rows = gather_rows("encoder", config, run)
    arrays = [node_cache.read_arrays(reading) for reading in rows.readings]
    plan = Plan(rows.readings, 2)
    whole = list(array_batches(rows.readings, plan, arrays))
    parts = [list(array_batches(rows.readings, plan, arrays, rank, world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        ids = [clip for part in parts for clip in part[step][schema.CLIP_ID]]
        assert sorted(ids) == sorted(batch[schema.CLIP_ID])
        waves = np.concatenate([part[step][schema.WAVEFORM] for part in parts])
        order, other = np.argsort(ids), np.argsort(batch[schema.CLIP_ID])
        np.testing.assert_array_equal(waves[order], batch[schema.WAVEFORM][other])


def test_the_path_is_chosen_by_size(decoded_run: tuple[str, Config], tmp_path: Path) -> None:
    run, config = decoded_run
    readings = gather_rows("encoder", config, run).readings
    size = sum(map(node_cache.num_bytes, readings)) / 2**30
    assert choose_path(config, readings, CPU) == "cache"
    assert choose_path(override(config, {"ingest.cache_gib": size * 0.99}), readings, CPU) == "stream"
    assert choose_path(override(config, {"ingest.cache_gib": size * 1.01}), readings, CPU) == "cache"
    small = override(config, {"ingest.path": "cache", "ingest.cache_gib": size / 2})
    with pytest.raises(ValueError, match=r"ingest.path=cache: the decoded rows take .* more than ingest.cache_gib="):
        choose_path(small, readings, CPU)
    for path in ("stream", "resident"):
        assert choose_path(override(config, {"ingest.path": path}), readings, CPU) == path


def test_rows_that_no_manifest_names_are_not_kept(decoded_run: tuple[str, Config]) -> None:
    """Nothing would tell that they were written again."""
    run, config = decoded_run
    Path(stages.folder(run, "features"), stages.SUCCESS).unlink()
    assert choose_path(config, gather_rows("encoder", config, run).readings, CPU) == "stream"
    assert choose_path(config, gather_rows("gender", config, run).readings, CPU) == "cache"


def test_features_that_are_written_again_are_read_again(
    decoded_run: tuple[str, Config], write_corpus: Callable[..., Any]
) -> None:
    run, config = decoded_run
    before = batches("cache", "encoder", config, run, None)
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64, seed=1)
    commit_corpus(run, config)
    after = batches("cache", "encoder", config, run, None)
    require_same(after, batches("stream", "encoder", config, run, None))
    assert not np.array_equal(before[0][schema.FACE_FEATURE], after[0][schema.FACE_FEATURE])


def test_a_resident_batch_is_on_the_device(decoded_run: tuple[str, Config]) -> None:
    run, config = decoded_run
    config = override(config, {"ingest.path": "resident"})
    feed = open_feed("encoder", config, gather_rows("encoder", config, run), WorkerContext(), share=None)
    batch = next(iter(feed(TrainingState())))
    assert isinstance(batch[schema.WAVEFORM], torch.Tensor)
    converted = to_batch(batch, CPU)
    assert converted.spectrogram.shape[0] == len(converted.clip_ids)
