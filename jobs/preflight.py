"""Refuse a corpus that cannot end in a report, before its first stage: from its rows and labels, nothing is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.data.shards import split_dataset
from arspm.media.datasets import read_dataset
from arspm.media.labels import Labels


def require_report(config: Config, trees: Mapping[str, pa.Table]) -> None:
    """Raise ValueError, in one line, if the rows and labels cannot give what training and evaluate need.

    trees: listings of the inputs, of `inventory.find_inputs`. Clips that are dropped later may still leave too few;
    preprocess and the first training stage then say so.
    """
    dataset = read_dataset(config.data, trees)
    if not dataset.rows.usable():
        return  # preprocess says why, and writes the table that `arspm drops` shows
    split_of, _ = split_dataset(config.data, dataset)
    _require_several_faces(config, split_of, dataset.rows.usable().table["video_id"].to_pylist())
    _require_sexes(config, split_of, dataset.labels)
    _require_speakers(config, split_of)


def _require_several_faces(config: Config, split_of: Mapping[str, str], videos: Sequence[str]) -> None:
    """Raise ValueError if VGGFace is trained here and has one face to be trained on. videos: of each usable row."""
    if not config.vggface.weights and sum(split_of[video] == "train" for video in videos) < 2:
        raise ValueError(
            "the train split has one clip, of which VGGFace cannot learn to tell faces apart; add clips, or give "
            "published weights by vggface.weights"
        )


def _require_sexes(config: Config, split_of: Mapping[str, str], labels: Mapping[str, Labels]) -> None:
    """Raise ValueError if a model of one sex, or the gender prior, needs labels that the speakers of a split lack.

    Where a network predicts missing labels, nobody knows yet.
    """
    needed: dict[str, set[str]] = {}
    if config.encoder_sex is not None and config.gender.label_confidence is None:
        needed = {split: {config.encoder_sex} for split in schema.SPLITS}
    if config.prior.kind == "gender" and not config.gender.weights:  # the classifier is trained here, on both sexes
        needed = {"train": set(schema.GENDERS)}
    for split, sexes in needed.items():
        known = {labels[video].gender for video, own in split_of.items() if own == split and video in labels}
        if missing := sorted(sexes - known):
            setting = "prior.kind=gender" if config.encoder_sex is None else config.encoder_sex_setting
            where = config.data.labels or "without labels.csv, the data"
            raise ValueError(
                f"{setting}: {where} labels no speaker of the {split} split {' or '.join(missing)}; add "
                "labels, let a network predict them (gender.weights), or change this setting"
            )


def _require_speakers(config: Config, split_of: Mapping[str, str]) -> None:
    """Raise ValueError if `oracle.speakers` lacks a speaker whose true causes the oracle or the probes read."""
    if not config.oracle.speakers:
        return
    table = tables.read_table(config.oracle.speakers, (schema.VIDEO_ID,))
    known = set(table[schema.VIDEO_ID].to_pylist())
    needed = [video for video, split in split_of.items() if split != "val"]
    if missing := [video for video in needed if video not in known]:
        raise ValueError(
            f"oracle.speakers: {config.oracle.speakers} has no row for {len(missing)} of {len(needed)} speakers, such "
            f"as {missing[0]}; is it the file of these clips?"
        )
