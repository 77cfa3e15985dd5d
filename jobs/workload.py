"""The amount of work of each stage, in units whose number decides how long the stage takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from arspm.config import TRAINED_STAGES, Config
from arspm.corpus import schema, tables
from arspm.distributed.data.shards import split_dataset
from arspm.media.datasets import read_dataset
from arspm.runs import stages
from jobs.submission import trained_stages


class Clips(NamedTuple):
    """Clips of each split, and speakers (in AVSpeech's format: videos) of the test split."""

    train: int
    val: int
    test: int
    test_speakers: int

    @property
    def all(self) -> int:
        return self.train + self.val + self.test


def clips_of_corpus(run: str) -> Clips:
    """Return the clips of a run's finished corpus."""
    corpus = stages.corpus(run)
    splits = {split: tables.open_split(corpus, split) for split in schema.SPLITS}
    videos = tables.read_columns(splits["test"], "speech", (schema.VIDEO_ID,))[schema.VIDEO_ID]
    train, val, test = (splits[split].num_rows for split in ("train", "val", "test"))
    return Clips(train, val, test, len(videos.unique()))


def clips_of_inputs(config: Config, trees: Mapping[str, pa.Table]) -> Clips:
    """Return the clips that the rows of the inputs promise; some may be dropped. trees: listings of the inputs."""
    dataset = read_dataset(config.data, trees)
    split_of, _ = split_dataset(config.data, dataset)
    videos = dataset.rows.usable().table["video_id"].to_pylist()
    rows = Counter(split_of[video] for video in videos)
    speakers = Counter(split_of.values())
    return Clips(rows["train"], rows["val"], rows["test"], speakers["test"])


def units(config: Config, stage: str, clips: Clips) -> int:
    """Return a stage's number of units: clips, clips times epochs, or drawn faces. 1 where the time is fixed."""
    train = min(clips.train, config.ingest.subset or clips.train)
    if stage in TRAINED_STAGES:
        return train * getattr(config.training, stage).epochs if trained_stages(config, [stage]) else 0
    return {
        "preprocess": clips.all,
        "features": clips.all,
        "oracle": clips.test_speakers * config.oracle.num_draws if config.oracle.speakers else 0,
        "evaluate": min(clips.test, config.evaluate.num_clips),
    }.get(stage, 1)
