"""The rule by which `make bench` fails, and what it reads of the last commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.results import dropped, ratios, spread


def section(values: dict[str, list[float]], **machine: Any) -> results.Section:
    return {
        "machine": {"cores": 2, "gpu": None} | machine,
        "ratios": {name: spread(each) for name, each in values.items()},
    }


def test_the_spread_is_the_range_between_the_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found["low"], found["median"], found["high"]) == (2.0, 3.0, 4.0)
    assert found["values"] == [5.0, 1.0, 2.0, 3.0, 4.0]
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0, "values": [7.0]}


def test_a_ratio_is_that_of_two_values_of_the_same_repeat() -> None:
    """The machine is slower in the second repeat. The ratio is the same in all, and so has no spread."""
    found = ratios([200.0, 20.0, 100.0], [100.0, 10.0, 50.0])
    assert (found["low"], found["median"], found["high"]) == (2.0, 2.0, 2.0)


OLD = section({"a / b": [0.9, 1.0, 1.0, 1.0, 1.1]})  # lower quartile 1.0, so the limit is 0.85
WIDE = section({"a / b": [0.5, 0.8, 1.0, 1.2, 2.0]})  # lower quartile 0.8, so the limit is 0.68


@pytest.mark.parametrize(
    ("old", "median", "drops"),
    [(OLD, 0.86, False), (OLD, 0.84, True), (OLD, 3.0, False), (WIDE, 0.69, False), (WIDE, 0.67, True)],
)
def test_a_ratio_dropped_if_it_is_more_than_15_percent_below_its_spread(
    old: results.Section, median: float, drops: bool
) -> None:
    lines = dropped("reading", old, section({"a / b": [median - 0.01, median, median + 0.01]}))
    assert bool(lines) == drops
    if drops:
        [line] = lines
        assert line.startswith(f"reading: a / b dropped to {median}, below")


def test_a_ratio_that_is_no_longer_measured_is_named_and_a_new_one_is_not() -> None:
    [line] = dropped("reading", OLD, section({"c / d": [1.0]}))
    assert line.startswith("reading: a / b is no longer measured; it was 1 (1 to 1)")


def test_other_machines_are_not_compared() -> None:
    slow = {"a / b": [0.1]}
    assert dropped("reading", OLD, section(slow))
    for other in ({"cores": 64}, {"gpu": "NVIDIA H100"}):
        assert dropped("reading", OLD, section(slow, **other)) == []
        assert results.other_machine(OLD, section(slow, **other)) != ""
    assert results.other_machine(OLD, section(slow)) == ""


def test_the_last_commit_counts_and_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    monkeypatch.setattr(results, "ROOT", tmp_path)
    file = tmp_path / "docs" / "performance.json"
    assert results.committed(file) == {}  # neither a repository nor a file
    file.parent.mkdir()
    file.write_text(json.dumps({"reading": 1}))
    assert results.committed(file) == {"reading": 1}
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    file.write_text(json.dumps({"reading": 2}))
    assert results.committed(file) == {"reading": 1}


def test_a_section_says_what_was_measured_on() -> None:
    about = results.about("python -m benchmarks.reading FOLDER")
    assert about["machine"]["cores"] >= 1
    assert 0 < about["machine"]["memory_gib"] < 100_000
    assert set(about["machine"]) >= {"processor", "gpu", "python", "torch", "ray", "load"}
