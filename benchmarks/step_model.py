"""How long a training step of several workers takes: the model that `benchmarks.scaling` checks.

A step of one worker takes

    compute = (fixed + rows x per_row) x crowding x max(1, workers / cores)
    exchange = messages x latency + bytes / bandwidth, for the gradients' average and BatchNorm's statistics
    step = max(compute + max(0, exchange - overlap x compute), rows / rate of reading)

On CPUs, more workers than cores share the cores, and workers share the memory's bandwidth: `crowding` is how much
longer a step takes while another process computes. Both factors are 1 on GPUs, which have a worker each. `fixed` and
`per_row` are fitted to steps of one process, `latency` and `bandwidth` to all-reduces of several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """A time that grows linearly: `fixed` seconds, and `per_unit` seconds for each row or byte.

    `least`: below this number of units it stays the same.
    """

    fixed: float
    per_unit: float
    least: float = 0.0

    def at(self, units: float) -> float:
        """Return the seconds for this many rows or bytes."""
        return self.fixed + self.per_unit * max(units, self.least)


class Traffic(NamedTuple):
    """What the workers of a step exchange: bytes of gradients, in this many collective calls."""

    bytes: float
    messages: int


class Network(NamedTuple):
    """Between GPUs. `gbit`: of each GPU, in one direction. `latency`: seconds of one hop. `overlap`: see the module."""

    gbit: float
    latency: float
    overlap: float


def fit_line(points: Mapping[float, float], least: float = 0.0) -> Line:
    """Return the line through seconds by units that minimises the squares of the relative errors. None is negative."""
    units, seconds = np.array(list(points)), np.array(list(points.values()))
    table = np.stack([np.ones_like(seconds), units], axis=1) / seconds[:, None]
    fixed, per_unit = np.linalg.lstsq(table, np.ones_like(seconds), rcond=None)[0]
    if fixed < 0:
        fixed, per_unit = 0.0, float(np.mean(seconds / units))
    if per_unit < 0:
        fixed, per_unit = float(np.mean(seconds)), 0.0
    return Line(float(fixed), float(per_unit), least)


def exchange_seconds(traffic: Traffic, all_reduce: Line) -> float:
    """Return the seconds of a step's collective calls. all_reduce: seconds of one call by bytes."""
    return traffic.messages * all_reduce.fixed + traffic.bytes * all_reduce.per_unit


def ring(workers: int, network: Network) -> Line:
    """Return the seconds of an all-reduce on a ring of GPUs, by bytes; 0 for one GPU."""
    hops, bytes_per_second = 2 * (workers - 1), network.gbit * 1e9 / 8
    return Line(hops * network.latency, hops / workers / bytes_per_second)


def step_seconds(
    compute: Line,
    rows: float,
    workers: int,
    cores: float,
    exchange: float,
    overlap: float = 0.0,
    read_rate: float = math.inf,
    crowding: float = 1.0,
) -> float:
    """Return the seconds of a step of `rows` rows per worker; see the module's docstring.

    cores: on which the workers compute; math.inf on GPUs. read_rate: rows per second that reach each worker.
    """
    computing = compute.at(rows) * crowding * max(1.0, workers / cores)
    return max(computing + max(0.0, exchange - overlap * computing), rows / read_rate)
