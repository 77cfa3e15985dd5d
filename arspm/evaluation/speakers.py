"""Who speaks in a corpus: clips, speakers by sex and age, and hours of sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from arspm import storage
from arspm.corpus import schema, tables
from arspm.evaluation.judges import AGE_BINS, age_bins

UNKNOWN = "unknown"
_LABELS = (schema.VIDEO_ID, schema.GENDER, schema.AGE, schema.IDENTITY)
_MEASURES, _SECONDS = "measures", "speech_seconds"


def describe(corpus: str) -> dict[str, dict[str, Any]]:
    """Return what each split of a corpus contains, by its labels, which may be missing.

    `clips`, `speakers`, `sex` and `age` (numbers of speakers by sex and by age bin, "unknown" without a label; the age
    is the mean over a speaker's clips) and `hours` of the sound that is used, None for a corpus without measures.
    """
    found = {}
    shards = tables.shard_names(corpus)
    for name in filter(shards.get, schema.SPLITS):
        split = tables.open_split(corpus, name)
        labels = tables.read_columns(split, "faces", _LABELS)
        names, row_of_speaker = np.unique(tables.speakers(labels), return_inverse=True)
        hours = None
        if storage.exists(split.path(_MEASURES, 0)):
            hours = (pc.sum(tables.read_columns(split, _MEASURES, [_SECONDS])[_SECONDS]).as_py() or 0.0) / 3600
        found[name] = {
            "clips": len(labels),
            "speakers": len(names),
            "sex": _by_sex(labels[schema.GENDER].to_pylist(), row_of_speaker, len(names)),
            "age": _by_age(labels[schema.AGE].to_numpy(), row_of_speaker, len(names)),
            "hours": hours,
        }
    return found


def _by_sex(labels: list[str | None], row_of_speaker: np.ndarray, num_speakers: int) -> dict[str, int]:
    sex = dict(zip(row_of_speaker[::-1].tolist(), labels[::-1], strict=True))  # that of a speaker's first clip
    known = [sex[speaker] or UNKNOWN for speaker in range(num_speakers)]
    return {name: known.count(name) for name in (*schema.GENDERS, UNKNOWN)}


def _by_age(years: np.ndarray, row_of_speaker: np.ndarray, num_speakers: int) -> dict[str, int]:
    years = np.asarray(years, np.float64)
    labelled = ~np.isnan(years)
    sums = np.bincount(row_of_speaker[labelled], years[labelled], num_speakers)
    counts = np.bincount(row_of_speaker[labelled], minlength=num_speakers)
    bins = age_bins(np.divide(sums, counts, out=np.full(num_speakers, np.nan), where=counts > 0)).tolist()
    known = {name: bins.count(number) for number, name in enumerate(AGE_BINS)}
    return {**known, UNKNOWN: num_speakers - sum(known.values())}
