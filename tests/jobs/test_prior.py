"""The prior stage: mean features of the training split (eq. 3), and its figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from arspm import storage
from arspm.config import override
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.training import artifacts
from arspm.training.prior import choose_rows
from jobs.prior import prior
from tests.predicted_genders import write_predictions


def test_priors_are_means_of_training_faces_only(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    _, told = write_corpus({"train": (15, 17), "val": (4,), "test": (4,)}, feature_dim=6)
    config = override(preset("smoke"), {"prior.num_faces": 24, "seed": 3})
    files, figures = prior(config, str(tmp_path), "f" * 64)
    labels, features = told["train"][schema.GENDER], told["train"][schema.FACE_FEATURE].astype(np.float64)
    means, by_count = artifacts.load_priors(str(tmp_path)), artifacts.load_priors_by_count(str(tmp_path))
    assert set(means) == {"neutral", "female", "male"}
    chosen = {sex: [row for row, label in enumerate(labels) if label == sex] for sex in schema.GENDERS}
    fewest = min(len(rows) for rows in chosen.values())
    assert fewest > 10
    assert figures["priors"]["neutral"]["n"] == 2 * min(12, fewest)
    for sex, rows in chosen.items():
        assert len(rows) <= 24  # so all of them
        np.testing.assert_allclose(means[sex].numpy(), features[rows].mean(axis=0), rtol=1e-5, atol=1e-6)
    for name, choice in choose_rows(labels, 24, 3).items():
        said = figures["priors"][name]
        rows = choice.rows
        assert (said["n"], said["gender_balanced"]) == (len(rows), name == "neutral")
        assert said["num_predicted"] == 0
        assert said["clips"] == tables.ids_hash([told["train"][schema.CLIP_ID][row] for row in rows])
        assert list(by_count[name]) == [10, len(rows)]
        for count, mean in by_count[name].items():
            np.testing.assert_allclose(mean.numpy(), features[rows[:count]].mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(means[name].numpy(), by_count[name][len(rows)].numpy())
        (point,) = said["convergence"]
        apart = np.abs(features[rows[:10]].mean(axis=0) - features[rows].mean(axis=0)).sum()
        assert (point["n"], round(point["l1"], 5)) == (10, round(apart, 5))
    assert files == {path: storage.describe(storage.join(str(tmp_path), path)) for path in files}


def test_predictions_replace_missing_labels_in_the_priors(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    """Clips without a label count as what is predicted, if it is sure enough; clips with a label as labelled."""
    uri, told = write_corpus({"train": (15, 17), "val": (4,), "test": (4,)}, feature_dim=6)
    labels, features = told["train"][schema.GENDER], told["train"][schema.FACE_FEATURE].astype(np.float64)
    missing = [row for row, label in enumerate(labels) if label is None]
    assert len(missing) == 8
    confidences = np.where(np.isin(np.arange(32), missing[:5]), 0.9, 0.6)
    for split, levels in (("train", confidences), ("val", [0.9] * 4), ("test", [0.6] * 4)):
        write_predictions(uri, split, ["female"] * len(levels), levels)
    changes = {"gender.weights": "elsewhere", "gender.min_confidence": 0.8}
    _, figures = prior(override(preset("smoke"), changes), str(tmp_path), "f" * 64)
    rows = [row for row, label in enumerate(labels) if label == "female" or row in missing[:5]]
    means = artifacts.load_priors(str(tmp_path))
    np.testing.assert_allclose(means["female"].numpy(), features[rows].mean(axis=0), rtol=1e-5, atol=1e-6)
    men = [row for row, label in enumerate(labels) if label == "male"]
    np.testing.assert_allclose(means["male"].numpy(), features[men].mean(axis=0), rtol=1e-5, atol=1e-6)
    said = figures["priors"]
    assert {sex: said[sex]["num_predicted"] for sex in schema.GENDERS} == {"female": 5, "male": 0}
    assert figures["labels"] == {
        "train": {"labelled": 24, "predicted": 5, "unknown": 3},
        "val": {"labelled": 2, "predicted": 2, "unknown": 0},
        "test": {"labelled": 2, "predicted": 0, "unknown": 2},
    }


def test_a_filter_selects_the_faces_of_the_priors(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    _, told = write_corpus({"train": (15, 17), "val": (4,), "test": (4,)}, feature_dim=6)
    prior(override(preset("smoke"), {"data.filter": "age > 22"}), str(tmp_path), "f" * 64)
    rows = [row for row, age in enumerate(told["train"][schema.AGE]) if age is not None and age > 22]
    female = [row for row in rows if told["train"][schema.GENDER][row] == "female"]
    assert 1 < len(female) < sum(label == "female" for label in told["train"][schema.GENDER])
    expected = told["train"][schema.FACE_FEATURE].astype(np.float64)[female].mean(axis=0)
    np.testing.assert_allclose(artifacts.load_priors(str(tmp_path))["female"].numpy(), expected, rtol=1e-5, atol=1e-6)
