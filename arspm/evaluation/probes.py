"""Linear probes: which attributes of synthetic speakers can be predicted from pictures of them."""

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

# Whether the voice of a synthetic speaker carries the attribute.
CARRIED: Mapping[str, bool] = MappingProxyType(
    {schema.SEX: True, schema.AGE: True, schema.BODY_SIZE: True, schema.HAIR_COLOUR: False, schema.GLASSES: False}
)
MAX_SPEAKERS = 2000  # whose pairs are all compared; larger sets are sampled

# L2 penalty per standardised feature, so that its strength does not depend on the number of features. Of 0.001 to 10 on
# 500 drawn faces of 250 people, this value ordered new people's ages and body sizes best.
_PENALTY_PER_FEATURE = 0.1


class LinearProbe(NamedTuple):
    """A fitted probe. `scores`: features (rows, feature) -> (rows, classes), or (rows, 1) if `classes` is None."""

    classes: np.ndarray | None  # None: the attribute is a number
    scores: Callable[[np.ndarray], np.ndarray]


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
    """Fit a linear probe of each cause on real training faces; return its concordance on pictures of test speakers.

    A cause is an attribute of a synthetic speaker. train_features: (training rows, feature). pictures: name -> features
    (rows, feature). train_causes, causes: cause -> (training rows,) and (rows,). Numbers are floats, NaN if unknown;
    classes are bools or strings, None or "" if unknown. speakers: (rows,), the same for all pictures; a speaker's cause
    is that of the first row.

    Concordance is the probability that, of two speakers, the one with the larger value has the higher score
    (`concordance`); 0.5 is chance level. For more than two classes it is the mean over one-versus-rest. Scores are
    first averaged over a speaker's clips. The result is None for a cause that does not vary in training or in test.
    "carried" is None for a cause that `carried` does not name. Raises ValueError for integer causes, which could be
    numbers or classes.
    """
    _, first, member = np.unique(speakers, return_index=True, return_inverse=True)
    rows = []
    for cause, values in causes.items():
        truth, is_known = _values(cause, np.asarray(values)[first])
        chosen = np.flatnonzero(is_known)
        if len(chosen) > MAX_SPEAKERS:
            chosen = np.random.default_rng(seed).choice(chosen, MAX_SPEAKERS, replace=False)
        row: dict[str, Any] = {"cause": cause, "carried": carried.get(cause), "num_speakers": len(chosen)}
        probe = fit_probe(train_features, *_values(cause, np.asarray(train_causes[cause])))
        for name, features in pictures.items():
            row[name] = row[f"{name}_interval"] = None
            if probe is not None and len(chosen):
                by_clip = probe.scores(np.asarray(features, np.float32))
                scores = np.stack([np.bincount(member, each) / np.bincount(member) for each in by_clip.T], axis=1)
                row[name], row[f"{name}_interval"] = metrics.statistic_and_interval(
                    _concordance_of(probe, truth[chosen], scores[chosen]),
                    len(chosen),
                    num_resamples=num_resamples,
                    seed=seed,
                )
        rows.append(row)
    return rows


def fit_probe(features: np.ndarray, values: np.ndarray, known: np.ndarray) -> LinearProbe | None:
    """Fit a linear probe of a cause: ridge regression for numbers, (multinomial) logistic regression for classes.

    features: (rows, feature). values, known: (rows,). A class's score is the log odds of that class against the rest.
    Returns None if the known values do not vary.
    """
    if not known.any() or (values[known] == values[known][0]).all():
        return None
    x, y = np.asarray(features[known], np.float32), values[known]
    penalty = _PENALTY_PER_FEATURE * x.shape[1]
    if y.dtype.kind == "f":
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(x, y)
        return LinearProbe(None, lambda new: ridge.predict(new)[:, None])
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=2000)).fit(x, y)
    return LinearProbe(logistic.classes_, lambda new: logit(np.clip(logistic.predict_proba(new), 1e-12, 1 - 1e-12)))


def concordance(truth: np.ndarray, score: np.ndarray) -> metrics.Statistic:
    """Return the statistic: fraction of pairs of groups with different truths that the scores order correctly.

    truth, score: (groups,). Equal scores count half. For two classes this is the area under the ROC curve, for numbers
    Harrell's C.
    """
    differ = (truth[:, None] > truth[None]).astype(np.float64)
    correct = 0.5 * (score[:, None] >= score[None]) + 0.5 * (score[:, None] > score[None])
    return metrics.pair_ratio(differ * correct, differ)


def _concordance_of(probe: LinearProbe, truth: np.ndarray, scores: np.ndarray) -> metrics.Statistic:
    """Return a number's concordance, or the mean one-versus-rest concordance of the classes that vary in `truth`."""
    if probe.classes is None:
        return concordance(truth, scores[:, 0])
    columns = range(len(probe.classes) if len(probe.classes) > 2 else 1)  # of two classes, both give the same value
    by_class = [
        concordance(truth == probe.classes[column], scores[:, column])
        for column in columns
        if 0 < (truth == probe.classes[column]).sum() < len(truth)
    ]
    if not by_class:
        return lambda weights: np.full(len(weights), np.nan)
    return lambda weights: np.mean([statistic(weights) for statistic in by_class], axis=0)


def _values(cause: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a cause's values as floats, bools or strings, and whether each is known, (rows,) each."""
    if values.dtype.kind == "O":
        not_none = [value for value in values if value is not None]
        if all(isinstance(value, str) for value in not_none):
            values = np.array(["" if value is None else value for value in values], str)
        elif len(not_none) == len(values) and all(isinstance(value, bool | np.bool_) for value in not_none):
            values = values.astype(bool)
    if values.dtype.kind == "f":
        return values, np.isfinite(values)
    if values.dtype.kind in "bU":
        return values, values != "" if values.dtype.kind == "U" else np.ones(len(values), bool)
    raise ValueError(f"cause {cause!r}: expected floats, bools or strings, got {values.dtype}")
