"""Choose a sweep's samples: from a prepared list, or with Optuna, which learns from earlier trials."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna

from arspm.runs.optuna_journal import distribution
from arspm.runs.sweeps import Record

Sample = dict[str, Any]
log = logging.getLogger(__name__)


class Search(Protocol):
    """Chooses the sample of each new trial. It observes every trial that ended, also in earlier sessions."""

    def suggest(self, number: int) -> Sample:
        """Return the sample of a new trial."""

    def observe(self, record: Record) -> None:
        """Learn from the record of a trial that ended, in this sweep or in another."""


class Listed:
    """Grid and random search: trial i gets sample i."""

    def __init__(self, samples: Sequence[Sample]):
        self._samples = samples

    def suggest(self, number: int) -> Sample:
        return dict(self._samples[number])

    def observe(self, record: Record) -> None:
        """Do nothing: the list is fixed."""


class Optuna:
    """Tree-structured Parzen estimator. `first`: samples of the first trials, such as the paper's values.

    Running trials count as bad (constant liar), so that concurrent trials differ. A trial that was stopped early counts
    with its best value. A trial's sample depends on the seed, its number and the observed records only; a resumed sweep
    therefore does not repeat its first samples.
    """

    def __init__(self, space: Mapping[str, Any], mode: str, seed: int, first: Sequence[Sample] = ()):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {name: distribution(domain) for name, domain in space.items()}
        self._first, self._seed = first, seed
        self._study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
        self._running: dict[int, optuna.trial.Trial] = {}

    def suggest(self, number: int) -> Sample:
        if number < len(self._first):
            self._study.enqueue_trial(dict(self._first[number]))
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = self._study.ask(self._distributions)
        self._running[number] = trial
        return dict(trial.params)

    def observe(self, record: Record) -> None:
        trial, value = self._running.pop(record["number"], None), record["best"]
        failed = value is None or record["state"] == "failed"
        if trial is not None:
            self._study.tell(trial, None if failed else value, optuna.trial.TrialState.FAIL if failed else None)
        elif not failed:
            params = {name: record["sample"].get(name) for name in self._distributions}
            try:
                self._study.add_trial(
                    optuna.trial.create_trial(params=params, distributions=self._distributions, value=value)
                )
            except ValueError:  # of another sweep, whose sample is outside this space
                log.warning("trial %d of the earlier sweep is outside this sweep's space: ignored", record["number"])
