"""The pictures that evaluate writes: Figure 2, and real face, Face-to-Face and portrait of the same clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.data import infer
from arspm.distributed.predictions import Networks, Predictions
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.runs import stages
from arspm.training import artifacts


def write_prior_pictures(run: str, networks: Networks, files: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Write the decoder's portraits of the mean of n faces (Figure 2).

    Adds to `files` and returns the entries of each prior.
    """
    entries: dict[str, list[dict[str, Any]]] = {}
    for name, by_count in artifacts.load_priors_by_count(run).items():
        jpegs = infer.to_jpegs(networks.draw(np.stack([mean.numpy() for mean in by_count.values()])))
        for count, jpeg in zip(by_count, jpegs, strict=True):
            path = f"evaluate/pictures/prior-{name}-{count}.jpg"
            files[path] = storage.write_bytes(storage.join(run, path), jpeg)
            entries.setdefault(name, []).append({"n": count, "picture": path})
    return entries


def write_portraits(
    config: Config, run: str, test: Predictions, networks: Networks, files: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write real face, Face-to-Face and portrait of one clip of each of the first test speakers, as JPEG files.

    Adds to `files` and returns one entry per clip.
    """
    split = tables.open_split(stages.corpus(run), "test")
    videos = test.table[schema.VIDEO_ID].to_pylist()
    rows = np.array([videos.index(video) for video in dict.fromkeys(videos)][: config.evaluate.num_portraits])
    real = tables.read_rows(split, {"faces": (schema.FACE_JPEG,)}, rows)[schema.FACE_JPEG].to_pylist()
    size = networks.draw(test.columns[schema.FACE_FEATURE][rows[:1]]).shape[-1]
    entries = []
    for number, row in enumerate(rows.tolist()):
        pictures: Mapping[str, bytes] = {
            "real": encode_jpeg(decode_jpeg(real[number], size)),
            "face_to_face": test.table[schema.FACE_TO_FACE_JPEG][row].as_py(),
            "portrait": test.table[schema.PORTRAIT_JPEG][row].as_py(),
        }
        entry: dict[str, Any] = {"clip_id": test.table[schema.CLIP_ID][row].as_py()}
        for name, jpeg in pictures.items():
            path = f"evaluate/pictures/{number:03d}-{name}.jpg"
            files[path] = storage.write_bytes(storage.join(run, path), jpeg)
            entry[name] = path
        entries.append(entry)
    return entries
