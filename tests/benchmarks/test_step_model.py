"""The model of a step of several workers, and the prediction of hours and cost, on the figures that were measured."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest

from arspm.config.presets import PRESETS
from benchmarks import gpu_hours, results, workers
from benchmarks.__main__ import JSON
from benchmarks.gpu_hours import CLIPS, GPUS, H100_USD, STAGES, Measured, predict
from benchmarks.scaling import predict_speeds
from benchmarks.step_model import Line, Network, Traffic, exchange_seconds, fit_line, ring, step_seconds

NETWORK = Network(gbit=100.0, latency=20e-6, overlap=0.5)


@pytest.fixture(scope="module")
def found() -> Measured:
    return gpu_hours.measured(json.loads(JSON.read_text()))


@pytest.fixture(scope="module")
def traffic() -> dict[str, Traffic]:
    return {stage: Traffic(**workers.traffic(PRESETS["paper"], stage)) for stage in STAGES}


def run(found: Measured, traffic: dict[str, Traffic], clips: int, gpus: int, batch: int, **network: float) -> Any:
    return predict(clips, gpus, batch, found, traffic, NETWORK._replace(**network), 1.0)


# --- the model


def test_a_line_is_found_again() -> None:
    line = fit_line({float(units): 0.5 + 0.25 * units for units in (1, 4, 16)})
    assert line.fixed == pytest.approx(0.5)
    assert line.per_unit == pytest.approx(0.25)
    assert line.at(8) == pytest.approx(2.5)
    assert line._replace(least=4.0).at(1) == pytest.approx(1.5)


def test_no_part_of_a_line_is_negative() -> None:
    for points in ({1.0: 1.0, 2.0: 4.0}, {1.0: 4.0, 2.0: 1.0}):
        line = fit_line(points)
        assert line.fixed >= 0
        assert line.per_unit >= 0


def test_a_step_adds_up() -> None:
    """Ten rows of 2 ms and 5 ms more are 25 ms; five workers on two cores take 2.5 times as long."""
    compute = Line(0.005, 0.002)
    assert step_seconds(compute, 10, 1, 2, 0.0) == pytest.approx(0.025)
    assert step_seconds(compute, 10, 2, 2, 0.01) == pytest.approx(0.035)
    assert step_seconds(compute, 10, 5, 2, 0.01) == pytest.approx(0.0725)
    assert step_seconds(compute, 10, 5, math.inf, 0.01, overlap=0.5) == pytest.approx(0.025)  # hidden
    assert step_seconds(compute, 10, 5, math.inf, 0.02, overlap=0.5) == pytest.approx(0.0325)
    assert step_seconds(compute, 10, 1, 2, 0.0, read_rate=100.0) == pytest.approx(0.1)


def test_a_ring_moves_twice_the_bytes_less_its_own_part() -> None:
    """12.5 GB/s: 100 MB among two GPUs move once over the network, and among many almost twice."""
    assert ring(1, NETWORK).at(100e6) == 0.0
    assert ring(2, NETWORK).at(100e6) == pytest.approx(2 * 20e-6 + 0.008)
    assert ring(64, NETWORK).at(100e6) == pytest.approx(126 * 20e-6 + 0.016 * 63 / 64)
    assert exchange_seconds(Traffic(100e6, 3), Line(1e-3, 1e-9)) == pytest.approx(0.103)


def test_the_traffic_is_that_of_the_networks(traffic: dict[str, Traffic]) -> None:
    """docs/sizes.md has the parameters. The encoder's five convolutions and its CBAM have BatchNorm."""
    assert traffic["encoder"].bytes == 4 * 22_963_844
    assert traffic["decoder"].bytes == 4 * 69_135_375
    assert traffic["encoder"].messages == 2 * 6 + 5 + 1


@pytest.mark.parametrize(("crowded", "several"), [(0.08, 0.084), (0.088, 0.092)])
def test_the_check_uses_steps_without_exchange_and_all_reduces_only(crowded: float, several: float) -> None:
    """With 10 ms a row, 1 ms a call and 1 ns a byte: 160 ms; 80 + 4 ms; 40 ms on half a core each, + 4 ms.

    If a step takes 1.1 times as long beside another process: 88 + 4 ms, and 2 x 44 + 4 ms.
    """
    step = {"16": 0.16, "8": 0.08, "4": 0.04}
    calls = {str(size): 1e-3 + 1e-9 * size for size in (4096, 1 << 20)}
    measured = {
        1: {"step": step, "all_reduce": {}, "clips_per_second": 0.0},
        2: {"step": {"8": crowded}, "all_reduce": calls, "clips_per_second": 0.0},
        4: {"step": {}, "all_reduce": calls, "clips_per_second": 0.0},
    }
    [speeds] = predict_speeds([measured], Traffic(2e6, 2), cores=2)
    assert speeds == pytest.approx({1: 16 / 0.16, 2: 16 / several, 4: 16 / several})


# --- the prediction


def test_the_measured_gpu_times_are_those_of_the_figures_page() -> None:
    page = (results.ROOT / "docs" / "figures.md").read_text()
    names = {"encoder": "speech encoder", "decoder": "face decoder"}
    for stage, steps in gpu_hours.STEP_MS.items():
        for rows, ms in steps.items():
            assert re.search(rf"\| {names[stage]} \| {rows} \|[^|]*\| {ms} \(", page), (stage, rows)
    assert "| waveform | 16 | 4 | 1,353 | 1,980 |" in page
    assert "| waveform | 64 | 8 | 2,848 | 4,507 |" in page
    assert gpu_hours.LOOP_RATES == {16: (1353, 1980), 64: (2848, 4507)}


def test_one_gpu_with_the_papers_batch_is_worked_out_by_hand(found: Measured, traffic: dict[str, Traffic]) -> None:
    """290,000 clips: 278,400 for training and 5,800 for validation, 17,400 and 363 steps, 50 epochs."""
    row = run(found, traffic, 290_000, 1, 16)
    loop = 16 / 1353 - 16 / 1980
    for stage, ms in (("encoder", 8.6), ("decoder", 27.8)):
        seconds = 50 * (17_400 + 363) * (ms / 1000 + loop)
        assert seconds <= 3600 * row["hours"][stage] <= seconds + 600  # filling memory or the cache
    hours = row["hours"]
    assert hours["all"] == pytest.approx(sum(hours[name] for name in ("prepare", *STAGES)))
    assert row["usd"]["gpus"] == pytest.approx(H100_USD * (hours["encoder"] + hours["decoder"]))
    assert row["usd"]["all"] == pytest.approx(sum(row["usd"][name] for name in ("prepare", "gpus", "head")))
    assert row["usd"]["head"] == pytest.approx(0.384 * hours["all"])


def test_more_clips_take_longer_and_cost_more(found: Measured, traffic: dict[str, Traffic]) -> None:
    for gpus in GPUS:
        rows = [run(found, traffic, clips, gpus, 64 * gpus) for clips in CLIPS]
        for fewer, more in itertools.pairwise(rows):
            assert fewer["hours"]["all"] < more["hours"]["all"]
            assert fewer["usd"]["all"] < more["usd"]["all"]


def test_more_gpus_with_as_many_clips_each_train_faster_and_a_batch_of_16_does_not(
    found: Measured, traffic: dict[str, Traffic]
) -> None:
    large = [run(found, traffic, 290_000, gpus, 64 * gpus)["hours"]["encoder"] for gpus in GPUS]
    assert large == sorted(large, reverse=True)
    one, two, *_ = (run(found, traffic, 290_000, gpus, 16)["hours"]["encoder"] for gpus in (1, 2, 4, 8, 16))
    assert two >= one


def test_a_batch_cannot_be_divided_among_more_gpus_than_rows(found: Measured, traffic: dict[str, Traffic]) -> None:
    assert run(found, traffic, 290_000, 16, 16) is not None
    assert run(found, traffic, 290_000, 32, 16) is None


def test_a_slower_network_takes_longer(found: Measured, traffic: dict[str, Traffic]) -> None:
    hours = [run(found, traffic, 290_000, 8, 512, gbit=gbit)["hours"]["decoder"] for gbit in (3200.0, 100.0, 10.0)]
    assert hours == sorted(hours)
    assert hours[2] > 1.5 * hours[0]


def test_the_path_is_the_fastest_that_has_room(found: Measured) -> None:
    """208 kB a row: 48 GiB of GPU memory hold 246,000 rows, 100 GiB of disk 516,000."""
    assert found.row_bytes == 2 * 96_000 + 4 * 4096
    for rows, path in ((240_000, "resident"), (260_000, "cache"), (510_000, "cache"), (520_000, "stream")):
        assert gpu_hours.read_rates(found, rows, 1.0)[0] == path
