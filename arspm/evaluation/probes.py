"""Probes: what can be read off the pictures of people whose causes are known, and what of it a voice carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from arspm.corpus import schema
from arspm.evaluation import metrics

# What the voice of a made-up person carries, and what it cannot.
CARRIED: Mapping[str, bool] = MappingProxyType(
    {schema.SEX: True, schema.AGE: True, schema.BODY_SIZE: True, schema.HAIR_COLOUR: False, schema.GLASSES: False}
)
MAX_SPEAKERS = 2000  # whose pairs are all looked at: more are sampled

# Weight decay as a share of the variance of all features together, so that it is as strong whatever their number. On
# 500 drawn faces of 250 people, 0.001 to 10 tried, this orders new people's ages and body sizes best.
_STRENGTH = 0.1


class Reader(NamedTuple):
    """`read`: features (rows, feature) -> scores, (rows, classes), or (rows, 1) for a number, which has no classes."""

    classes: np.ndarray | None
    read: Callable[[np.ndarray], np.ndarray]


def probes(
    train_features: np.ndarray,
    train_causes: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray],
    causes: Mapping[str, np.ndarray],
    speakers: np.ndarray,
    *,
    carried: Mapping[str, bool] = CARRIED,
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How well a linear reader of each cause, fitted on real training faces, reads it off pictures of test speakers.

    train_features: (training rows, feature). pictures: name -> features (rows, feature). train_causes, causes: cause ->
    (training rows,) and (rows,): numbers as floats, NaN where unknown; classes as bools or words, None or "" where
    unknown. speakers: (rows,), the same for all pictures; a speaker's cause is that of the first row.

    The figure is the chance that of two speakers the one with more of the cause has the higher score (`concordance`),
    for several classes the mean of each against the rest; 0.5 is chance. Scores are first averaged over a speaker's
    clips. A cause that does not vary in training or in test has None. "carried" is None for a cause that the mapping
    does not name. Raises ValueError for causes given as integers, which could be either.
    """
    _, first, member = np.unique(speakers, return_index=True, return_inverse=True)
    rows = []
    for cause, values in causes.items():
        truth, known = _values(cause, np.asarray(values)[first])
        chosen = np.flatnonzero(known)
        if len(chosen) > MAX_SPEAKERS:
            chosen = np.random.default_rng(seed).choice(chosen, MAX_SPEAKERS, replace=False)
        row: dict[str, Any] = {"cause": cause, "carried": carried.get(cause), "num_speakers": len(chosen)}
        reader = fit_reader(train_features, *_values(cause, np.asarray(train_causes[cause])))
        for name, features in pictures.items():
            row[name] = row[f"{name}_interval"] = None
            if reader is not None and len(chosen):
                clips = reader.read(np.asarray(features, np.float32))
                scores = np.stack([np.bincount(member, each) / np.bincount(member) for each in clips.T], axis=1)
                row[name], row[f"{name}_interval"] = metrics.estimate(
                    _concordance_of(reader, truth[chosen], scores[chosen]),
                    len(chosen),
                    num_resamples=num_resamples,
                    seed=seed,
                )
        rows.append(row)
    return rows


def fit_reader(features: np.ndarray, values: np.ndarray, known: np.ndarray) -> Reader | None:
    """A linear reader of a cause: ridge regression of numbers, (multinomial) logistic regression of classes.

    features: (rows, feature). values, known: (rows,). A class's score is the log odds of that class against the rest.
    None where the known values do not vary.
    """
    if not known.any() or (values[known] == values[known][0]).all():
        return None
    x, y = np.asarray(features[known], np.float32), values[known]
    decay = _STRENGTH * x.shape[1]
    if y.dtype.kind == "f":
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=decay)).fit(x, y)
        return Reader(None, lambda new: ridge.predict(new)[:, None])
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1 / decay, max_iter=2000)).fit(x, y)
    return Reader(logistic.classes_, lambda new: logit(np.clip(logistic.predict_proba(new), 1e-12, 1 - 1e-12)))


def concordance(truth: np.ndarray, score: np.ndarray) -> metrics.Statistic:
    """The share of the pairs of groups with different truths that the scores order alike; equal scores count half.

    truth, score: (groups,). For two classes this is the area under the ROC curve, for numbers Harrell's C.
    """
    differ = (truth[:, None] > truth[None]).astype(np.float64)
    alike = 0.5 * (score[:, None] >= score[None]) + 0.5 * (score[:, None] > score[None])
    return metrics.pair_ratio(differ * alike, differ)


def _concordance_of(reader: Reader, truth: np.ndarray, scores: np.ndarray) -> metrics.Statistic:
    """The mean concordance of each class against the rest, of those that only some speakers are; or a number's."""
    if reader.classes is None:
        return concordance(truth, scores[:, 0])
    columns = range(len(reader.classes) if len(reader.classes) > 2 else 1)  # of two, each says the same
    each = [
        concordance(truth == reader.classes[column], scores[:, column])
        for column in columns
        if 0 < (truth == reader.classes[column]).sum() < len(truth)
    ]
    if not each:
        return lambda weights: np.full(len(weights), np.nan)
    return lambda weights: np.mean([one(weights) for one in each], axis=0)


def _values(cause: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cause's values as floats, bools or words, and which are known, (rows,) each."""
    if values.dtype.kind == "O":
        words = [value for value in values if value is not None]
        if all(isinstance(word, str) for word in words):
            values = np.array(["" if value is None else value for value in values], str)
        elif len(words) == len(values) and all(isinstance(word, bool | np.bool_) for word in words):
            values = values.astype(bool)
    if values.dtype.kind == "f":
        return values, np.isfinite(values)
    if values.dtype.kind in "bU":
        return values, values != "" if values.dtype.kind == "U" else np.ones(len(values), bool)
    raise ValueError(f"cause {cause!r}: needs floats, bools or words, got {values.dtype}")
