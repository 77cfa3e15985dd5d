"""Judges, which predict sex and age from pictures (reading Q), and Tables 5 and 6 of their accuracy (reading O)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from arspm.corpus import schema
from arspm.evaluation import metrics
from arspm.evaluation.onnx_faces import OnnxFaceModel
from arspm.media.csv_tables import quoted, read_rows

AGE_BINS = ("young", "mid_age", "elder")  # under 35, 35 to 65, over 65; the position is the class number
NO_CLASS = -1  # class number of a picture without a label or without a prediction

_PICTURES = "pictures"


class Pictures(NamedTuple):
    """Pictures of one kind, one row per clip. `name`: "real", "face-to-face", or a model's name."""

    name: str
    clip_ids: Sequence[str]
    features: np.ndarray  # from VGGFace, (rows, feature)
    jpegs: Sequence[bytes]  # square RGB


class Judged(NamedTuple):
    """A judge's predictions for each picture, (rows,) each; NO_CLASS where it has none."""

    gender: np.ndarray  # classes of schema.GENDERS
    age_bin: np.ndarray  # classes of AGE_BINS


@runtime_checkable
class Judge(Protocol):
    """Predicts sex and age from pictures. `description`: one line for the report; read it after judging."""

    @property
    def description(self) -> str: ...

    def __call__(self, pictures: Pictures, /) -> Judged: ...


def age_bins(ages: np.ndarray) -> np.ndarray:
    """Return the age bin of Table 6 for each age in years, (rows,); NO_CLASS for NaN."""
    years = np.asarray(ages, np.float64)
    return np.where(np.isnan(years), NO_CLASS, (years >= 35).astype(int) + (years > 65))


def make_judge(
    setting: str,
    *,
    features: np.ndarray | None = None,
    genders: np.ndarray | None = None,
    ages: np.ndarray | None = None,
) -> Judge | None:
    """Return the judge of a setting: "classifier", or the local path of a .csv of predictions or an .onnx model.

    Only the classifier uses the labelled training faces: features (rows, feature), genders (rows,) as classes or
    NO_CLASS, ages (rows,) in years or NaN. Returns None if the labels are too few to train a classifier. Raises
    ValueError for any other setting, and the errors of `CsvJudge` and `OnnxJudge`.
    """
    if setting == "classifier":
        return _classifier(features, genders, ages)
    if setting.lower().endswith(".csv"):
        return CsvJudge(setting)
    if setting.lower().endswith(".onnx"):
        return OnnxJudge(setting)
    raise ValueError(f"judge {setting!r}: expected 'classifier', or the path of a .csv or .onnx file")


# --- Tables 5 and 6


def table5(
    judged: Mapping[str, Judged], genders: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return Table 5: the fraction of pictures whose predicted sex is the speaker's, with intervals.

    judged: name of the pictures -> predictions. genders: (rows,), the labels' classes; NO_CLASS rows are left out.
    speakers: (rows,), the groups of the bootstrap. A picture without a prediction counts as wrong, and in "unknown".
    Pictures without any prediction have no row.
    """
    predictions = {name: each.gender for name, each in judged.items()}
    return _table(predictions, np.asarray(genders), speakers, schema.GENDERS, num_resamples=num_resamples, seed=seed)


def table6(
    judged: Mapping[str, Judged], ages: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return Table 6: the fraction of pictures whose predicted age bin is the speaker's, and the size of each bin.

    ages: (rows,) in years; NaN rows are left out. Everything else is as in `table5`.
    """
    truth = age_bins(ages)
    predictions = {name: each.age_bin for name, each in judged.items()}
    counts = {f"num_{name}": int((truth == number).sum()) for number, name in enumerate(AGE_BINS)}
    table = _table(predictions, truth, speakers, AGE_BINS, num_resamples=num_resamples, seed=seed)
    return [row | counts for row in table]


def _table(
    predictions: Mapping[str, np.ndarray],
    truth: np.ndarray,
    speakers: np.ndarray,
    classes: Sequence[str],
    **resampling: int,
) -> list[dict[str, Any]]:
    labelled = truth != NO_CLASS
    table = []
    for name, predicted_all in predictions.items():
        predicted, actual = predicted_all[labelled], truth[labelled]
        if (predicted == NO_CLASS).all():
            continue
        correct = (predicted == actual).astype(float)
        mean, interval = metrics.mean_and_interval(correct, speakers[labelled], **resampling)
        row: dict[str, Any] = {"pictures": name, "n": len(correct), "accuracy": mean, "accuracy_interval": interval}
        row |= {
            class_name: float(correct[actual == number].mean()) if (actual == number).any() else None
            for number, class_name in enumerate(classes)
        }
        table.append(row | {"unknown": int((predicted == NO_CLASS).sum())})
    return table


# --- classifier trained on labelled faces


def fit_judge(features: np.ndarray, classes: np.ndarray) -> Pipeline:
    """Fit a logistic regression on VGGFace features of labelled training faces, with balanced classes (reading Q).

    features: (rows, feature). classes: (rows,) of schema.GENDERS or of AGE_BINS. The L2 penalty is proportional to the
    number of features, so that its strength does not depend on it; C is 0.01 for VGGFace's 4096 features.
    """
    regression = LogisticRegression(C=40.96 / features.shape[1], max_iter=1000, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression).fit(features, classes)


class ClassifierJudge:
    """Classifiers of VGGFace features, fitted on labelled training faces. None: predicts NO_CLASS."""

    def __init__(self, gender: Pipeline | None, age_bin: Pipeline | None, description: str) -> None:
        self.gender, self.age_bin, self.description = gender, age_bin, description

    def __call__(self, pictures: Pictures, /) -> Judged:
        features = np.asarray(pictures.features, np.float32)
        missing = np.full(len(features), NO_CLASS)
        classifiers = (self.gender, self.age_bin)
        return Judged(*(missing if each is None else each.predict(features) for each in classifiers))


def _classifier(
    features: np.ndarray | None, genders: np.ndarray | None, ages: np.ndarray | None
) -> ClassifierJudge | None:
    fitted: dict[str, Pipeline] = {}
    trained_on = []
    labels = {"sex": genders, "age": None if ages is None else age_bins(ages)}
    for attribute, classes in labels.items():
        if features is None or classes is None:
            continue
        labelled = classes != NO_CLASS
        if len(np.unique(classes[labelled])) > 1:
            fitted[attribute] = fit_judge(np.asarray(features[labelled], np.float32), classes[labelled])
            trained_on.append(f"{attribute} from {labelled.sum()} training faces")
    if not fitted:
        return None
    description = "logistic regression on VGGFace features: " + ", ".join(trained_on)
    return ClassifierJudge(fitted.get("sex"), fitted.get("age"), description)


# --- predictions from a CSV file


class CsvJudge:
    """Predictions of an external judge, from a CSV with the columns clip_id, pictures, gender and age.

    pictures: the kind of picture, one of `Pictures.name`. gender: female, male, f or m (any case), or empty. age: 0 to
    120 years, or empty. Other columns, and predictions of other clips and kinds, are ignored. A picture that is not in
    the file has no prediction; the description counts them. Raises ValueError with one line per problem, and
    FileNotFoundError if the file is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.path.basename(path)
        self.predictions = _read_predictions(path)
        self.missing: list[str] = []

    @property
    def description(self) -> str:
        missing = f"; predictions missing for {', '.join(self.missing)}" if self.missing else ""
        return f"predictions of {self.name}{missing}"

    def __call__(self, pictures: Pictures, /) -> Judged:
        no_prediction = (NO_CLASS, np.nan)
        rows = [self.predictions.get((clip, pictures.name), no_prediction) for clip in pictures.clip_ids]
        if num_missing := rows.count(no_prediction):
            self.missing.append(f"{num_missing} of {len(rows)} {pictures.name} pictures")
        gender, age = np.array(rows, np.float64).reshape(-1, 2).T
        return Judged(gender.astype(int), age_bins(age))


def _read_predictions(path: str | os.PathLike[str]) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (clip id, kind of picture) -> (class of the sex or NO_CLASS, age in years or NaN)."""
    key = (schema.CLIP_ID, _PICTURES)
    try:
        rows = read_rows(path, "predictions", _prediction_columns, key, strict=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no predictions at {path}") from error
    return {
        (row.cells[schema.CLIP_ID], row.cells[_PICTURES]): (
            NO_CLASS if row.gender is None else schema.GENDERS.index(row.gender),
            np.nan if row.age is None else row.age,
        )
        for row in rows
    }


def _prediction_columns(header: list[str]) -> list[str]:
    required = [schema.CLIP_ID, _PICTURES, schema.GENDER, schema.AGE]
    names = [cell.lower() for cell in header]
    if len(set(names)) < len(names) or not set(required) <= set(names):
        raise ValueError(f"the header must name {','.join(required)}, not {quoted(','.join(names))}")
    return names


# --- ONNX model


class OnnxJudge:
    """A user's ONNX model with the outputs "gender" (batch, 2), scores in the order of schema.GENDERS, "age", or both.

    Ages are in years. Input and errors are those of `OnnxFaceModel`. Outputs that are not finite are no predictions.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.model = OnnxFaceModel(path, {schema.GENDER: len(schema.GENDERS), schema.AGE: 1})
        self.description = f"{os.path.basename(path)}, which predicts {' and '.join(sorted(self.model.outputs)[::-1])}"

    def __call__(self, pictures: Pictures, /) -> Judged:
        outputs = self.model(pictures.jpegs)
        gender, age_bin = (np.full(len(pictures.jpegs), NO_CLASS) for _ in range(2))
        if schema.GENDER in outputs:
            scores = outputs[schema.GENDER]
            gender = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), NO_CLASS)
        if schema.AGE in outputs:
            years = outputs[schema.AGE][:, 0]
            age_bin = age_bins(np.where(np.isfinite(years), years, np.nan))
        return Judged(gender, age_bin)
