"""All ways of reading that `benchmarks.reading` compares give the same rows, so that their rates can be compared."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.reading import RAY_WAYS, STORE_BYTES, Epochs, Measured, epochs_of, measure, measure_fill, ratios_of
from benchmarks.ways import BASE, OURS, PEERS, WAYS
from tests.benchmarks.rows_of_ways import CLIPS, EPOCHS, write

INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("webdataset", "litdata")}
IN_PROCESS = [name for name in WAYS if name not in RAY_WAYS and INSTALLED.get(name.split(",")[0].lower(), True)]


def rows_of(folder: Path, *names: str) -> dict[str, dict[str, int]]:
    """Return the rows that each way gives: digest -> count."""
    command = [sys.executable, "-m", "tests.benchmarks.rows_of_ways", str(folder), *names]
    environment = os.environ | {"PYTHONPATH": str(results.ROOT)}
    done = subprocess.run(command, cwd=results.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"way"')]
    return {line["way"]: line["rows"] for line in lines}


def test_every_way_gives_every_row_once_in_each_epoch(tmp_path: Path) -> None:
    found = rows_of(tmp_path, *IN_PROCESS)
    assert set(found) == set(IN_PROCESS)
    assert len(found[BASE]) == CLIPS
    assert set(found[BASE].values()) == {EPOCHS}
    for name, rows in found.items():
        assert rows == found[BASE], name


@pytest.mark.ray
def test_a_stream_gives_every_row_once_in_each_epoch_and_plain_ray_data_the_speech(tmp_path: Path) -> None:
    found = rows_of(tmp_path, BASE, *sorted(RAY_WAYS))
    assert found["stream"] == found[BASE]
    speech = found["plain Ray Data"]  # without the features, so with other digests
    assert len(speech) == CLIPS
    assert set(speech.values()) == {EPOCHS}


def test_a_measurement_counts_the_rows_of_its_epochs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_CACHE", str(tmp_path / "cache"))
    reading = write(tmp_path)
    seconds = iter(range(100))  # a clock that advances by a second whenever it is read
    monkeypatch.setattr("benchmarks.reading.time.perf_counter", lambda: float(next(seconds)))
    found = measure("cache", reading, Epochs(before=2, measured=3, after=1))
    # Three starts and three first batches are six seconds: the clock is read at the fourth start, not at an end.
    assert found == Measured(rate=3 * CLIPS / 6, first=1.0, last_first=1.0)


def test_a_stream_is_measured_over_many_windows_after_its_memory_was_used_and_reads_on_after_them() -> None:
    size = STORE_BYTES // 8
    assert epochs_of("cache", 4, size) == Epochs(1, 4, 0)
    assert epochs_of("stream", 4, size) == Epochs(before=12, measured=16, after=4)
    assert 12 * size > STORE_BYTES  # new memory of Ray's object store is slow


def test_filling_the_cache_leaves_nothing(tmp_path: Path) -> None:
    assert measure_fill(write(tmp_path), tmp_path / "filled") > 0
    assert not (tmp_path / "filled").exists()


def test_our_ways_are_compared_with_pyarrow_and_the_cache_with_every_peer() -> None:
    found = {name: [Measured(10.0 * (index + 1), 0.0, 0.0)] for index, name in enumerate(WAYS)}
    ratios = ratios_of("waveform", found)
    assert set(ratios) == {f"waveform: {name} / {BASE}" for name in OURS} | {
        f"waveform: cache / {name}" for name in PEERS
    }
    rates = {name: own[0].rate for name, own in found.items()}
    assert ratios[f"waveform: cache / {BASE}"]["median"] == pytest.approx(rates["cache"] / rates[BASE], rel=1e-3)
