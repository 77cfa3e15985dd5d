"""Who speaks in a corpus, against counts by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm.evaluation.speakers import describe


def test_counts_are_of_speakers_and_hours_of_all_clips(write_corpus: Any) -> None:
    """The people of the fixture: odd ones are male, every fifth has no sex, every third no age; two clips each."""
    corpus, _ = write_corpus({"train": [6, 26], "val": [4], "test": [3]})
    for split, sizes in {"train": [6, 26], "val": [4], "test": [3]}.items():
        for number, rows in enumerate(sizes):
            path = Path(corpus, split, "measures", f"shard-{number:05d}.parquet")
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"speech_seconds": pa.array([4.5] * rows, pa.float32())}), path)
    found = describe(corpus)
    train = found["train"]
    assert (train["clips"], train["speakers"]) == (32, 16)
    people = range(16)
    assert train["sex"] == {
        "female": sum(person % 5 > 0 and person % 2 == 0 for person in people),
        "male": sum(person % 5 > 0 and person % 2 == 1 for person in people),
        "unknown": 4,
    }
    ages = [20 + person for person in people if person % 3]
    assert train["age"] == {
        "young": sum(age < 35 for age in ages),
        "mid_age": sum(35 <= age <= 65 for age in ages),
        "elder": 0,
        "unknown": 6,
    }
    assert train["hours"] == pytest.approx(32 * 4.5 / 3600)
    assert (found["test"]["clips"], found["test"]["speakers"]) == (3, 2)


def test_a_corpus_without_labels_and_measures(write_corpus: Any) -> None:
    corpus, _ = write_corpus({"train": [4], "val": [2], "test": [2]}, labelled=False)
    found = describe(corpus)["train"]
    assert found["sex"] == {"female": 0, "male": 0, "unknown": 2}
    assert found["hours"] is None
