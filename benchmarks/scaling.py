"""Compares the model of `benchmarks.step_model` with real workers, and predicts hours and cost on GPUs.

    python -m benchmarks.scaling

One, two and four processes train the demo's encoder with the product's own loop, over gloo, on this machine. The model
predicts their clips per second from steps of one process, from such steps while a second process computes, too, from
all-reduces and from the number of cores. `overlap` is 0, because on a CPU the exchange takes processor time as well.
The groups take turns.

Then `benchmarks.gpu_hours` predicts a training on GPUs. The options are its assumptions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arspm.config.presets import PRESETS
from benchmarks import results
from benchmarks.gpu_hours import LARGE_BATCH, STAGES, gpu_compute, measured, predictions
from benchmarks.step_model import Network, Traffic, exchange_seconds, fit_line, step_seconds

WORKERS = (1, 2, 4)  # of the check
ROUNDS = 9
CROWDED_ROWS = 8
ROWS = {1: [16, 8, 4], 2: [CROWDED_ROWS]}  # of the steps without exchange, by the number of processes


def predict_speeds(
    rounds: Sequence[Mapping[int, Any]], traffic: Traffic, cores: int, batch: int = 16
) -> list[dict[int, float]]:
    """Return clips per second by number of workers, for each round, from steps alone and from all-reduces."""
    predicted = []
    for found in rounds:
        compute = fit_line({float(rows): seconds for rows, seconds in found[1]["step"].items()})
        crowding = found[2]["step"][str(CROWDED_ROWS)] / compute.at(CROWDED_ROWS)
        speeds = {}
        for workers in found:
            exchange = 0.0
            if workers > 1:
                calls = fit_line({float(size): seconds for size, seconds in found[workers]["all_reduce"].items()})
                exchange = exchange_seconds(traffic, calls)
            speeds[workers] = batch / step_seconds(
                compute, batch / workers, workers, cores, exchange, crowding=crowding if workers > 1 else 1.0
            )
        predicted.append(speeds)
    return predicted


def measure_rounds(num_rounds: int) -> list[dict[int, Any]]:
    """Return what each group of workers measured, in each round after a first one."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(results.ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        groups = {
            size: [
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.workers", str(rank), str(size), f"{folder}/{size}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
                for rank in range(size)
            ]
            for size in WORKERS
        }
        processes = [process for group in groups.values() for process in group]
        found = []
        try:
            for number in range(num_rounds + 1):
                order = WORKERS if number % 2 else reversed(WORKERS)
                turns = {size: _turn(groups[size], ROWS.get(size, [])) for size in order}
                found.append({size: turns[size] for size in WORKERS})
            for process in processes:
                process.communicate()
        finally:
            for process in processes:
                process.kill()
        return found[1:]


def _turn(group: list[subprocess.Popen], rows: list[int]) -> dict[str, Any]:
    """Let a group measure; return its results."""
    for process in group:
        assert process.stdin is not None
        process.stdin.write(json.dumps(rows) + "\n")
        process.stdin.flush()
    assert group[0].stdout is not None
    line = group[0].stdout.readline()
    if not line:
        raise SystemExit("a worker of the check ended; its error is above")
    return json.loads(line)


def medians(rounds: Iterable[Mapping[int, Any]], workers: int, what: str) -> dict[str, results.Spread]:
    """Return the spread of a measurement over the rounds, for each number of rows or bytes."""
    found = [each[workers][what] for each in rounds]
    return {units: results.spread(each[units] for each in found) for units in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--measured", type=Path, default=results.ROOT / "docs/performance.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the check (default: {ROUNDS})")
    parser.add_argument("--network-gbit", type=float, default=100.0, help="of each GPU (default: 100)")
    parser.add_argument("--hop-us", type=float, default=20.0, help="microseconds of a hop (default: 20)")
    parser.add_argument("--overlap", type=float, default=0.5, help="of computing, that hides exchange (default: 0.5)")
    parser.add_argument("--storage-gb", type=float, default=1.0, help="GB/s of the bucket for each GPU (default: 1)")
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    from benchmarks import workers

    network = Network(arguments.network_gbit, arguments.hop_us / 1e6, arguments.overlap)
    paper = {stage: Traffic(**workers.traffic(PRESETS["paper"], stage)) for stage in STAGES}
    found = measured(json.loads(arguments.measured.read_text()))
    demo = Traffic(**workers.traffic(PRESETS[workers.PRESET], workers.STAGE))
    cores = len(os.sched_getaffinity(0))
    rounds = measure_rounds(arguments.rounds)
    predicted = predict_speeds(rounds, demo, cores)
    check = {}
    for size in WORKERS:
        own = [each[size]["clips_per_second"] for each in rounds]
        guesses = [each[size] for each in predicted]
        error = results.ratios(guesses, own)
        check[str(size)] = {"predicted": results.spread(guesses), "measured": results.spread(own), "ratio": error}
        print(
            f"{size} workers: predicted {check[str(size)]['predicted']['median']:.1f} clips/s, measured "
            f"{check[str(size)]['measured']['median']:.1f}, predicted / measured {error['median']:.2f}"
        )
    figures = {
        "options": {name: value for name, value in vars(arguments).items() if name not in ("json", "measured")},
        "step": medians(rounds, 1, "step"),
        "crowded_step": medians(rounds, 2, "step"),
        "all_reduce": {str(size): medians(rounds, size, "all_reduce") for size in WORKERS if size > 1},
        "traffic": {"demo encoder": demo._asdict(), **{name: each._asdict() for name, each in paper.items()}},
        "check": check,
        "measured": found._asdict(),
        "gpu_steps": {stage: gpu_compute(stage)._asdict() for stage in STAGES},
        "paper_batch": predictions(found, paper, network, arguments.storage_gb, lambda _: 16),
        "large_batch": predictions(found, paper, network, arguments.storage_gb, lambda gpus: LARGE_BATCH * gpus),
    }
    two = results.ratios(
        [each[2]["clips_per_second"] for each in rounds], [each[1]["clips_per_second"] for each in rounds]
    )
    results.write(arguments.json, figures, {"two workers / one": two})


if __name__ == "__main__":
    main()
