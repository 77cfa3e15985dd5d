"""Judges of a picture's sex and age (reading Q), and Tables 5 and 6 from what they say (reading O)."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from arspm.corpus import schema
from arspm.evaluation import metrics
from arspm.evaluation.onnx_faces import OnnxFaces
from arspm.media.clip_rows import NUMBER, plain, shown

AGE_BINS = ("young", "mid_age", "elder")  # under 35, 35 to 65, over 65; the position is the class number
UNKNOWN = -1

_PICTURES = "pictures"
_SHOWN_PROBLEMS = 20


class Pictures(NamedTuple):
    """Pictures of one kind, a row a clip: "real", "face-to-face", or a model's name."""

    name: str
    clip_ids: Sequence[str]
    features: np.ndarray  # VGGFace's, (rows, feature)
    jpegs: Sequence[bytes]  # square RGB


class Judged(NamedTuple):
    """What a judge says of each picture, (rows,) each; UNKNOWN where it says nothing."""

    gender: np.ndarray  # classes of schema.GENDERS
    age_bin: np.ndarray  # classes of AGE_BINS


@runtime_checkable
class Judge(Protocol):
    """Anything that judges pictures. `description`: what it is, for the report, once it has judged."""

    @property
    def description(self) -> str: ...

    def __call__(self, pictures: Pictures, /) -> Judged: ...


def age_bins(ages: np.ndarray) -> np.ndarray:
    """The bin of each age in years, (rows,), as in Table 6; UNKNOWN for NaN."""
    years = np.asarray(ages, np.float64)
    return np.where(np.isnan(years), UNKNOWN, (years >= 35).astype(int) + (years > 65))


def make_judge(
    setting: str,
    *,
    features: np.ndarray | None = None,
    genders: np.ndarray | None = None,
    ages: np.ndarray | None = None,
) -> Judge | None:
    """The judge that a setting names: "classifier", or the local path of a .csv of predictions or of an .onnx model.

    features (rows, feature), genders (rows,) classes or UNKNOWN and ages (rows,) years or NaN are those of labelled
    training faces, for the classifier alone; None where the labels do not suffice to learn anything. Raises ValueError
    for any other setting, and as `CsvJudge` and `OnnxJudge` do.
    """
    if setting == "classifier":
        return _classifier(features, genders, ages)
    if setting.lower().endswith(".csv"):
        return CsvJudge(setting)
    if setting.lower().endswith(".onnx"):
        return OnnxJudge(setting)
    raise ValueError(f"judge {setting!r}: expected 'classifier', or the path of a .csv or .onnx file")


# --- the tables


def table5(
    judged: Mapping[str, Judged], genders: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Table 5: the share of pictures judged to be of the speaker's sex, with intervals.

    judged: name of the pictures -> what the judge says of them. genders: (rows,) the labels' classes, UNKNOWN rows are
    left out. speakers: (rows,), the groups of the bootstrap. A picture of which the judge says nothing counts as wrong,
    and in "unknown"; pictures of none of which it says anything have no row.
    """
    said = {name: each.gender for name, each in judged.items()}
    return _table(said, np.asarray(genders), speakers, schema.GENDERS, num_resamples=num_resamples, seed=seed)


def table6(
    judged: Mapping[str, Judged], ages: np.ndarray, speakers: np.ndarray, *, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Table 6: the share of pictures judged to be in the speaker's age bin, with how many are in each bin.

    ages: (rows,) years, NaN rows are left out. The rest is as in `table5`.
    """
    truth = age_bins(ages)
    said = {name: each.age_bin for name, each in judged.items()}
    counts = {f"num_{name}": int((truth == number).sum()) for number, name in enumerate(AGE_BINS)}
    table = _table(said, truth, speakers, AGE_BINS, num_resamples=num_resamples, seed=seed)
    return [row | counts for row in table]


def _table(
    said: Mapping[str, np.ndarray],
    truth: np.ndarray,
    speakers: np.ndarray,
    classes: Sequence[str],
    **chance: int,
) -> list[dict[str, Any]]:
    labelled = truth != UNKNOWN
    table = []
    for name, answers in said.items():
        answer, own = answers[labelled], truth[labelled]
        if (answer == UNKNOWN).all():
            continue
        right = (answer == own).astype(float)
        mean, interval = metrics.mean_and_interval(right, speakers[labelled], **chance)
        row: dict[str, Any] = {"pictures": name, "n": len(right), "accuracy": mean, "accuracy_interval": interval}
        row |= {
            kind: float(right[own == number].mean()) if (own == number).any() else None
            for number, kind in enumerate(classes)
        }
        table.append(row | {"unknown": int((answer == UNKNOWN).sum())})
    return table


# --- a classifier


def fit_judge(features: np.ndarray, classes: np.ndarray) -> Pipeline:
    """Logistic regression on VGGFace features of labelled training faces, each class weighing alike (reading Q).

    features: (rows, feature). classes: (rows,) of schema.GENDERS or of AGE_BINS. The weight decay grows with the number
    of features and so is as strong whatever that is; C is 0.01 for VGGFace's 4096.
    """
    regression = LogisticRegression(C=40.96 / features.shape[1], max_iter=1000, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression).fit(features, classes)


class ClassifierJudge:
    """Classifiers fitted on labelled training faces; a cause that has none stays unknown. Needs features alone."""

    def __init__(self, gender: Pipeline | None, age_bin: Pipeline | None, description: str) -> None:
        self.gender, self.age_bin, self.description = gender, age_bin, description

    def __call__(self, pictures: Pictures, /) -> Judged:
        features = np.asarray(pictures.features, np.float32)
        unknown = np.full(len(features), UNKNOWN)
        fitted = (self.gender, self.age_bin)
        return Judged(*(unknown if each is None else each.predict(features) for each in fitted))


def _classifier(
    features: np.ndarray | None, genders: np.ndarray | None, ages: np.ndarray | None
) -> ClassifierJudge | None:
    fitted: dict[str, Pipeline] = {}
    told = []
    labels = {"sex": genders, "age": None if ages is None else age_bins(ages)}
    for cause, classes in labels.items():
        if features is None or classes is None:
            continue
        known = classes != UNKNOWN
        if len(np.unique(classes[known])) > 1:
            fitted[cause] = fit_judge(np.asarray(features[known], np.float32), classes[known])
            told.append(f"{cause} from {known.sum()} training faces")
    if not fitted:
        return None
    description = "logistic regression on VGGFace features: " + ", ".join(told)
    return ClassifierJudge(fitted.get("sex"), fitted.get("age"), description)


# --- predictions in a CSV


class CsvJudge:
    """What somebody's judge said, from a CSV: clip_id, pictures, gender, age; other columns do not count.

    pictures: the kind, as `Pictures.name` has it. gender: female, male, f or m (any case). age: 0 to 120 years. Either
    may be empty. Predictions of other clips and kinds are no error; a picture without one is unknown, and the
    description counts those. Raises ValueError with a line for each problem, FileNotFoundError without the file.
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
        nothing = (UNKNOWN, np.nan)
        found = [self.predictions.get((clip, pictures.name), nothing) for clip in pictures.clip_ids]
        if missing := found.count(nothing):
            self.missing.append(f"{missing} of {len(found)} {pictures.name} pictures")
        gender, age = np.array(found, np.float64).reshape(-1, 2).T
        return Judged(gender.astype(int), age_bins(age))


def _read_predictions(path: str | os.PathLike[str]) -> dict[tuple[str, str], tuple[int, float]]:
    """(clip id, kind) -> the class of the sex, or UNKNOWN, and the age in years, or NaN."""
    columns = [schema.CLIP_ID, _PICTURES, schema.GENDER, schema.AGE]
    words = {word: number for number, sex in enumerate(schema.GENDERS) for word in (sex, sex[0])}
    found: dict[tuple[str, str], tuple[int, float]] = {}
    problems = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [cell.strip().lower() for cell in next(lines, [])]
            if len(set(header)) < len(header) or not set(columns) <= set(header):
                raise ValueError(f"{path}: the header must name {','.join(columns)}, not {shown(','.join(header))}")
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(header):
                    problems.append(f"line {lines.line_num}: {len(cells)} columns, the header has {len(header)}")
                    continue
                row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                key = (row[schema.CLIP_ID], row[_PICTURES])
                gender, age = row[schema.GENDER], row[schema.AGE]
                if not all(key):
                    problems.append(f"line {lines.line_num}: no clip_id, or no word on which pictures")
                elif key in found:
                    problems.append(f"line {lines.line_num}: {plain(key[0])} of {plain(key[1])} a second time")
                if gender and gender.lower() not in words:
                    problems.append(f"line {lines.line_num}: gender {shown(gender)} is not female, male, f or m")
                if age and not (NUMBER.fullmatch(age) and 0 <= float(age) <= 120):
                    problems.append(f"line {lines.line_num}: age {shown(age)} is not a number of years")
                    age = ""
                found[key] = (words.get(gender.lower(), UNKNOWN), float(age) if age else np.nan)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no predictions at {path}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from error
    if problems:
        told = [f"{path}: {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
        more = len(problems) - len(told)
        raise ValueError("\n".join([*told, *([f"{path}: and {more} more problems"] if more else [])]))
    return found


# --- a model of one's own


class OnnxJudge:
    """A model of one's own: "gender" (batch, 2), scores in the order of schema.GENDERS, "age" in years, or one of them.

    Its input and its errors are those of `OnnxFaces`. What is not finite is unknown.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.model = OnnxFaces(path, {schema.GENDER: len(schema.GENDERS), schema.AGE: 1})
        self.description = f"{os.path.basename(path)}, which gives {' and '.join(sorted(self.model.outputs)[::-1])}"

    def __call__(self, pictures: Pictures, /) -> Judged:
        found = self.model(pictures.jpegs)
        gender, age_bin = (np.full(len(pictures.jpegs), UNKNOWN) for _ in range(2))
        if schema.GENDER in found:
            scores = found[schema.GENDER]
            gender = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), UNKNOWN)
        if schema.AGE in found:
            years = found[schema.AGE][:, 0]
            age_bin = age_bins(np.where(np.isfinite(years), years, np.nan))
        return Judged(gender, age_bin)
