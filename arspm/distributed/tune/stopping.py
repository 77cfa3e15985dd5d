"""Stop trials: one on the user's request, or all when a target is reached or trials fail one after another."""

from __future__ import annotations

from typing import Any

from ray import tune

from arspm.distributed.tune.ledger import Ledger


class StopWithLedger(tune.Stopper):
    """Stops a trial that the user has stopped, at its next report, and all trials when the ledger has a reason.

    When all are stopped, they stay unfinished, so a later session resumes them.
    """

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether the user has stopped the trial. Otherwise the scheduler decides."""
        return self._ledger.is_to_stop(result["config"]["number"])

    def stop_all(self) -> bool:
        return bool(self._ledger.reason)
