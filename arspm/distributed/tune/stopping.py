"""End Tune's loop when the sweep's ledger has a reason: a target is reached, or trials fail one after another."""

from __future__ import annotations

from typing import Any

from ray import tune

from arspm.distributed.tune.ledger import Ledger


class StopWithLedger(tune.Stopper):
    """Stops all trials when the ledger has a reason. They stay unfinished, so a later session resumes them."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: the scheduler decides on single trials."""
        return False

    def stop_all(self) -> bool:
        return bool(self._ledger.reason)
