"""The sex of each clip: the label, or where it is missing a prediction that is sure enough."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arspm.corpus import schema, tables
from arspm.corpus.genders import read_genders
from tests.predicted_genders import write_predictions


@pytest.fixture
def corpus(write_corpus: Callable[..., Any]) -> tuple[str, list[str | None]]:
    """A corpus whose training clips are all predicted to be of the other sex than their label, and the labels.

    Clips without a label are predicted male. The confidence rises from 0.5 to 0.98 over the 24 clips.
    """
    uri, told = write_corpus({"train": (11, 13), "val": (4,)})
    labels = told["train"][schema.GENDER]
    assert set(labels) == {"female", "male", None}
    names = ["female" if label == "male" else "male" for label in labels]
    write_predictions(uri, "train", names, np.linspace(0.5, 0.98, 24))
    return uri, labels


def test_labels_alone_count_by_default(corpus: tuple[str, list[str | None]]) -> None:
    uri, labels = corpus
    found = read_genders(tables.open_split(uri, "train"), None)
    assert found.names == labels
    assert not found.predicted.any()
    assert found.counts == {
        "labelled": 24 - labels.count(None),
        "predicted": 0,
        "unknown": labels.count(None),
    }
    assert read_genders(tables.open_split(uri, "val"), None).names  # needs no predictions


@pytest.mark.parametrize("min_confidence", [0.5, 0.75, 0.9, 0.99])
def test_predictions_replace_missing_labels_only(corpus: tuple[str, list[str | None]], min_confidence: float) -> None:
    uri, labels = corpus
    found = read_genders(tables.open_split(uri, "train"), min_confidence)
    sure = np.linspace(0.5, 0.98, 24).astype(np.float32) >= min_confidence
    expected = [label or ("male" if sure[row] else None) for row, label in enumerate(labels)]
    assert found.names == expected
    assert found.predicted.tolist() == [label is None and bool(sure[row]) for row, label in enumerate(labels)]
    assert found.of("male").tolist() == [name == "male" for name in expected]
    counts = found.counts
    assert sum(counts.values()) == 24
    assert (counts["predicted"], counts["unknown"]) == (found.predicted.sum(), expected.count(None))
    assert (counts["predicted"] > 0) == (min_confidence < 0.98)


def test_a_subset_has_the_first_rows(corpus: tuple[str, list[str | None]]) -> None:
    uri, labels = corpus
    found = read_genders(tables.open_split(uri, "train", 14), 0.5)
    assert found.names == [label or "male" for label in labels[:14]]
    assert found.take(np.array([13, 0])).names == [found.names[13], found.names[0]]


def test_a_confidence_at_the_minimum_counts(write_corpus: Callable[..., Any]) -> None:
    """The column is float32, and 0.9 is not a float32."""
    uri, _ = write_corpus({"train": (2,)})
    write_predictions(uri, "train", ["female", "male"], [0.9, 0.8999])
    assert read_genders(tables.open_split(uri, "train"), 0.9).names == ["female", None]


def test_predictions_of_other_clips_or_classes_are_refused(write_corpus: Callable[..., Any], tmp_path: Any) -> None:
    uri, _ = write_corpus({"train": (3,), "val": (3,)})
    with pytest.raises(FileNotFoundError, match=r"train/genders/shard-00000\.parquet"):
        read_genders(tables.open_split(uri, "train"), 0.5)
    write_predictions(uri, "train", ["child"] * 3, [0.9] * 3)
    with pytest.raises(
        ValueError, match=r"train: genders has values in predicted_gender or gender_confidence that are"
    ):
        read_genders(tables.open_split(uri, "train"), 0.5)
    shutil.rmtree(tmp_path / "corpus/train/genders")
    write_predictions(uri, "val", ["female"] * 3, [0.9] * 3)
    (tmp_path / "corpus/val/genders").rename(tmp_path / "corpus/train/genders")
    with pytest.raises(ValueError, match=r"train: genders has other clip ids than faces; delete the _SUCCESS\.json"):
        read_genders(tables.open_split(uri, "train"), 0.5)
