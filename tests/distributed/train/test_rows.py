"""The rows that a training stage is trained and validated on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.distributed import local
from arspm.distributed.train.launch import train_stage
from arspm.distributed.train.rows import NothingToLearn, gather_rows
from tests.predicted_genders import write_predictions

CONFIG = override(preset("smoke"), {"data.storage": "waveform"})


@pytest.mark.parametrize(
    ("train", "val", "lacks"), [((2,), (16,), "training split"), ((16,), (2,), "validation split")]
)
def test_a_gender_stage_without_labels_says_what_is_missing(
    write_corpus: Callable[..., Any], tmp_path: Path, train: tuple[int], val: tuple[int], lacks: str
) -> None:
    write_corpus({"train": train, "val": val})  # the first person's sex is not labelled
    with pytest.raises(NothingToLearn, match=lacks):
        gather_rows("gender", CONFIG, str(tmp_path))


def test_the_last_clip_of_every_fifth_person_validates_vggface(
    write_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    _, columns = write_corpus({"train": (9, 11)})  # ten people, two clips each
    rows = gather_rows("vggface", CONFIG, str(tmp_path))
    assert rows.val is not None
    held_out = rows.val.order.groups.rows
    trained = rows.train.order.groups.rows
    np.testing.assert_array_equal(held_out, [1, 11])  # persons 0 and 5
    assert sorted([*held_out, *trained]) == list(range(20))
    classes = rows.train.labels[schema.IDENTITY]
    names = columns["train"][schema.IDENTITY]
    assert rows.num_classes == 10
    assert len({(name, number) for name, number in zip(names, classes, strict=True)}) == 10


@pytest.mark.parametrize("kind", ["neutral", "gender", "female", "male"])
def test_a_model_of_one_sex_is_trained_and_validated_on_that_sex_only(
    write_corpus: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    _, columns = write_corpus({"train": (9, 11), "val": (8,)})
    rows = gather_rows("encoder", override(CONFIG, {"prior.kind": kind}), str(tmp_path))
    for split, reading in zip(("train", "val"), rows.readings, strict=True):
        labels = columns[split][schema.GENDER]
        assert set(labels) == {"female", "male", None}
        expected = [row for row, label in enumerate(labels) if kind not in schema.GENDERS or label == kind]
        assert reading.order.groups.rows.tolist() == expected


def test_a_model_of_one_sex_is_trained_on_clips_that_are_predicted_so_too(
    write_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    """Predictions replace missing labels only. The gender network itself learns from labels alone."""
    uri, columns = write_corpus({"train": (9, 11), "val": (14,)})
    for split in ("train", "val"):
        num_clips = len(columns[split][schema.GENDER])
        write_predictions(uri, split, ["male"] * num_clips, [0.9] * num_clips)
    config = override(CONFIG, {"prior.kind": "male", "gender.predict_missing": "true", "gender.min_confidence": "0.8"})
    for split, reading in zip(("train", "val"), gather_rows("encoder", config, str(tmp_path)).readings, strict=True):
        expected = [row for row, label in enumerate(columns[split][schema.GENDER]) if label != "female"]
        assert reading.order.groups.rows.tolist() == expected
    rows = gather_rows("gender", config, str(tmp_path))
    labels = rows.train.labels[schema.GENDER].tolist()
    assert [schema.GENDERS[each] if each >= 0 else None for each in labels] == columns["train"][schema.GENDER]
    write_corpus({"train": (2,), "val": (2,)})  # without a label
    for split in ("train", "val"):
        write_predictions(uri, split, ["male"] * 2, [0.7] * 2)
    with pytest.raises(
        ValueError, match=r"has no clip that labels\.csv labels male, nor one that is predicted male with"
    ):
        gather_rows("encoder", config, str(tmp_path))


@pytest.mark.parametrize("sex", schema.GENDERS)
def test_non_prior_of_one_sex_has_the_rows_of_the_prior_of_that_sex(
    write_corpus: Callable[..., Any], tmp_path: Path, sex: str
) -> None:
    write_corpus({"train": (9, 11), "val": (8,)})
    control = override(CONFIG, {"prior.kind": "none", "ingest.sex": sex})
    for stage in ("encoder", "decoder"):
        found = gather_rows(stage, control, str(tmp_path))
        expected = gather_rows(stage, override(CONFIG, {"prior.kind": sex}), str(tmp_path))
        for mine, theirs in zip(found.readings, expected.readings, strict=True):
            np.testing.assert_array_equal(mine.order.groups.rows, theirs.order.groups.rows)
    assert len(found.train.order.groups.rows) == 20  # every other stage uses all speakers


@pytest.mark.parametrize("stage", ["vggface", "gender", "decoder", "encoder"])
def test_a_filter_selects_training_rows_only(write_corpus: Callable[..., Any], tmp_path: Path, stage: str) -> None:
    _, columns = write_corpus({"train": (9, 11), "val": (8,)})
    text = "age > 22 and gender != 'nobody'"
    ages, genders = columns["train"][schema.AGE], columns["train"][schema.GENDER]
    kept = [row for row, age in enumerate(ages) if age is not None and age > 22 and genders[row]]
    assert 0 < len(kept) < 20
    rows = gather_rows(stage, override(CONFIG, {"data.filter": text}), str(tmp_path))
    used = rows.train.order.groups.rows.tolist()
    if stage == "vggface":
        used += rows.val.order.groups.rows.tolist() if rows.val else []
        assert rows.num_classes == len({columns["train"][schema.IDENTITY][row] for row in kept})
        assert set(rows.train.labels[schema.IDENTITY][kept]) == set(range(rows.num_classes))
    else:
        assert rows.val is not None
        num_labelled = sum(gender is not None for gender in columns["val"][schema.GENDER])
        assert rows.val.order.groups.num_rows == (num_labelled if stage == "gender" else 8)
    assert sorted(used) == kept
    assert rows.filtered["filter"]["kept"] == len(kept)
    assert rows.filtered["filter"]["removed"]["gender != 'nobody'"] == sum(gender is None for gender in genders)


def test_a_filter_that_leaves_one_sex_only_is_said_where_both_are_needed(
    write_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    write_corpus({"train": (9, 11), "val": (8,)})
    config = override(CONFIG, {"data.filter": "gender == 'female'", "prior.kind": "male"})
    with pytest.raises(NothingToLearn, match="training split"):
        gather_rows("gender", config, str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.filter leaves no training clip of the sex of prior\.kind=male"):
        gather_rows("encoder", config, str(tmp_path))
    config = override(CONFIG, {"data.filter": "gender == 'female'", "prior.kind": "none", "ingest.sex": "male"})
    with pytest.raises(ValueError, match=r"data\.filter leaves no training clip of the sex of ingest\.sex=male"):
        gather_rows("encoder", config, str(tmp_path))


def test_the_gender_classifier_reads_labelled_rows_only(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    """Two workers of which one has more unlabelled rows would otherwise weight labelled rows differently."""
    _, columns = write_corpus({"train": (9, 11), "val": (8,)})
    rows = gather_rows("gender", CONFIG, str(tmp_path))
    for split, reading in zip(("train", "val"), rows.readings, strict=True):
        labels = columns[split][schema.GENDER]
        assert None in labels
        used = reading.order.groups.rows
        assert used.tolist() == [row for row, label in enumerate(labels) if label]
        classes = reading.labels[schema.GENDER][used].tolist()
        assert classes == [schema.GENDERS.index(labels[row]) for row in used]


@pytest.mark.parametrize("lacks", ["train", "val", "test"])
def test_a_model_of_one_sex_that_could_not_be_measured_is_refused_before_any_training(
    write_corpus: Callable[..., Any], tmp_path: Path, lacks: str
) -> None:
    sizes = {split: (2,) if split == lacks else (8,) for split in schema.SPLITS}  # the first person's sex is unknown
    write_corpus(sizes, feature_dim=64)
    for kind in ("female", "male"):
        config = override(CONFIG, {"prior.kind": kind})
        with (
            local.in_process(),
            pytest.raises(ValueError, match=rf"/{lacks} has no clip that labels.csv labels {kind}"),
        ):
            train_stage("vggface", config, str(tmp_path), "f" * 64)
    assert not (tmp_path / "vggface").exists()
