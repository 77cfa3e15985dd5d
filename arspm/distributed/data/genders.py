"""The genders family of the corpus: what the gender network predicts from the speech of every clip."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from arspm.config import Config
from arspm.corpus import genders, schema
from arspm.distributed.data.infer import ShardActor, make_family, speech_column
from arspm.distributed.data.shard_tables import write_family
from arspm.model.gender_classifier import GenderClassifier
from arspm.runs import stages
from arspm.training import artifacts
from arspm.training.batch import to_batch


def predict_genders(config: Config, run: str, sha256: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the genders family of every split with the run's gender network. Returns files and figures.

    `sha256`: hash of the network's file. A shard of the same clips that this network has predicted is used again. Each
    clip has its own prediction, also where the clips of a video or a speaker disagree: AVSpeech's videos may show
    several people, and do not say who is who.
    """
    settings = [stages.FORMAT, sha256, config.gender.width]
    files, num_clips, num_reused = make_family(genders.FAMILY, _GenderPredictor, settings, config, run)
    return files, {"num_predicted": num_clips, "num_reused": num_reused}


class _GenderPredictor(ShardActor):
    """An actor that writes a shard of predictions for each shard of speech."""

    @functools.cached_property
    def _classifier(self) -> GenderClassifier:
        classifier = artifacts.load_gender_classifier(self._run, self._config)
        assert classifier is not None, "it was written before"
        return classifier.to(self._device)

    @staticmethod
    def wanted(config: Config) -> Mapping[str, Sequence[str]]:
        return {"speech": (speech_column(config),)}

    def __call__(self, rows: pa.Table) -> pa.Table:
        ids: list[str] = []
        names: list[str] = []
        confidences: list[float] = []
        for part in self.batches(rows):
            batch = to_batch({**part, schema.CLIP_ID: part[schema.CLIP_ID].to_pylist()}, self._device)
            with torch.no_grad():
                confidence, number = self._classifier.predict(batch.spectrogram)
            ids += batch.clip_ids
            names += [schema.GENDERS[each] for each in number.tolist()]
            confidences += confidence.tolist()
        if broken := [clip for clip, confidence in zip(ids, confidences, strict=True) if not np.isfinite(confidence)]:
            raise ValueError(
                f"the gender network's output for clip {broken[0]} is not a number; train it again, or give another "
                "network by gender.weights"
            )
        kind = schema.genders_schema()
        return pa.table([ids, names, pa.array(confidences, pa.float32())], schema=kind)

    write = staticmethod(functools.partial(write_family, genders.FAMILY))
