"""The sex of each clip's speaker: its label or, where a run asks for it, what the gender network predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from arspm.corpus import schema, tables

FAMILY = "genders"
UNKNOWN = -1  # class of a clip without a label and without a prediction that counts


class Genders(NamedTuple):
    """The sex of the speaker of each clip, (rows,) each.

    classes: int64, indices into schema.GENDERS, or UNKNOWN. predicted: bool, whether the class is a prediction; where
    it is not, the class is that of the label, or UNKNOWN.
    """

    classes: np.ndarray
    predicted: np.ndarray

    @property
    def names(self) -> list[str | None]:
        return [None if number == UNKNOWN else schema.GENDERS[number] for number in self.classes.tolist()]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of clips with a label, with a prediction in its place, and with neither."""
        unknown, predicted = int((self.classes == UNKNOWN).sum()), int(self.predicted.sum())
        return {"labelled": len(self.classes) - unknown - predicted, "predicted": predicted, "unknown": unknown}

    def of(self, sex: str) -> np.ndarray:
        """Return which clips have a speaker of this sex, bool (rows,)."""
        return self.classes == schema.GENDERS.index(sex)

    def take(self, rows: np.ndarray) -> Genders:
        return Genders(self.classes[rows], self.predicted[rows])


def read_genders(split: tables.Split, min_confidence: float | None) -> Genders:
    """Return the sex of each clip of a split. Everything that depends on the sex of speakers uses this function.

    It is the label of labels.csv. A clip without a label has the prediction if its confidence is at least
    `min_confidence`. With None, which is `gender.label_confidence` of a run that uses no predictions, labels alone
    count. Predictions are of clips and not of videos, because several people may speak in a video.

    Raises FileNotFoundError if predictions count and there are none, ValueError if they are of other clips or
    invalid.
    """
    faces = tables.read_columns(split, "faces", (schema.CLIP_ID, schema.GENDER))
    classes = classes_of(faces[schema.GENDER].to_pylist())
    if min_confidence is None:
        return Genders(classes, np.zeros(len(classes), bool))
    heard = tables.read_columns(split, FAMILY, (schema.CLIP_ID, schema.PREDICTED_GENDER, schema.GENDER_CONFIDENCE))
    names, confidences = heard[schema.PREDICTED_GENDER].to_pylist(), heard[schema.GENDER_CONFIDENCE]
    problem = ""
    if heard[schema.CLIP_ID].to_pylist() != faces[schema.CLIP_ID].to_pylist():
        problem = "other clip ids than faces"
    elif not set(names) <= set(schema.GENDERS) or not pa.types.is_float32(confidences.type) or confidences.null_count:
        problem = f"values in {schema.PREDICTED_GENDER} or {schema.GENDER_CONFIDENCE} that are no predictions"
    if problem:
        raise ValueError(
            f"{split.uri}: {FAMILY} has {problem}; delete the _SUCCESS.json of stage gender, then submit again"
        )
    predicted = (classes == UNKNOWN) & (confidences.to_numpy() >= np.float32(min_confidence))
    return Genders(np.where(predicted, classes_of(names), classes), predicted)


def classes_of(labels: Sequence[str | None]) -> np.ndarray:
    """Return the class of each label, int64 (rows,), UNKNOWN for None."""
    return np.array([schema.GENDERS.index(label) if label else UNKNOWN for label in labels], np.int64)
