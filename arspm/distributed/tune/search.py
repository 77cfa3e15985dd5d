"""Where a sweep's samples come from: a list made beforehand, or Optuna, which learns from the trials before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from arspm.runs.sweeps import Record

Sample = dict[str, Any]
log = logging.getLogger(__name__)


class Search(Protocol):
    """Gives each new trial its sample, and hears of trials that ended, in this sweep's earlier sessions too."""

    def suggest(self, number: int) -> Sample:
        """The sample of a trial that is new."""

    def hear(self, record: Record) -> None:
        """A trial ended, or, from another sweep, had ended."""


class Listed:
    """Grid and random search: trial i has sample i."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def suggest(self, number: int) -> Sample:
        return dict(self._samples[number])

    def hear(self, record: Record) -> None:
        """Nothing is learnt."""


class Optuna:
    """Tree-structured Parzen estimator. `first`: samples of the first trials, as the paper's values.

    Trials that run are taken as if they were bad (constant liar), so that those side by side differ. A trial that was
    stopped early counts with its best value. What is drawn for a trial follows from the seed, its number and what was
    heard: a sweep that goes on does not draw again what it began with.
    """

    def __init__(self, space: Mapping[str, Any], mode: str, seed: int, first: Sequence[Sample] = ()):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {name: _distribution(domain) for name, domain in space.items()}
        self._first, self._seed = first, seed
        self._study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
        self._asked: dict[int, optuna.trial.Trial] = {}

    def suggest(self, number: int) -> Sample:
        if number < len(self._first):
            self._study.enqueue_trial(dict(self._first[number]))
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = self._study.ask(self._distributions)
        self._asked[number] = trial
        return dict(trial.params)

    def hear(self, record: Record) -> None:
        trial, value = self._asked.pop(record["number"], None), record["best"]
        failed = value is None or record["state"] == "failed"
        if trial is not None:
            self._study.tell(trial, None if failed else value, optuna.trial.TrialState.FAIL if failed else None)
        elif not failed:
            params = {name: record["sample"].get(name) for name in self._distributions}
            try:
                self._study.add_trial(
                    optuna.trial.create_trial(params=params, distributions=self._distributions, value=value)
                )
            except ValueError:  # another sweep's, which this space cannot hold
                log.warning("trial %d of the sweep before is not of this space: left out", record["number"])


def _distribution(domain: Mapping[str, Any]) -> BaseDistribution:
    if domain["kind"] == "choice":
        return CategoricalDistribution(domain["values"])
    return FloatDistribution(domain["low"], domain["high"], log=domain["kind"] == "loguniform")
