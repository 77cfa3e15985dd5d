"""Every use of Ray that its public API does not cover. No other file of the product touches private Ray code.

These functions are checked against the Ray versions that pyproject.toml allows. When a new Ray breaks one,
tests/distributed/test_ray_private.py fails and names it; its docstring says what to do. Ray is imported inside the
functions, so that importing this module stays cheap.

`python -m arspm.distributed.ray_private start ...` is `ray start` without the Ray Client server, for the local head.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.train.torch import TorchConfig
    from ray.tune import Callback
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import TrialScheduler

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02  # per iteration of Ray Data's scheduling loop
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of the checkpoints of a training


def throttle_scheduler(context: DataContext) -> None:
    """Make Ray Data's scheduling loop sleep 20 ms per iteration, in every execution that uses this context.

    Needs: Ray Data's backpressure policies, which the loop calls in every iteration.
    Why: the loop of Ray 2.60 spins and holds the GIL while output waits for its consumer, which is always the case
    ahead of training. In a worker on two cores, training then ran at less than half of its speed. No public setting
    slows the loop down.
    If it breaks: look for the new interface in ray/data/_internal/execution/backpressure_policy. If the loop no longer
    spins (tests/distributed/data/test_ingest.py passes without this call), delete this function.
    """
    from ray.data._internal.execution.backpressure_policy import (
        ENABLED_BACKPRESSURE_POLICIES,
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    )

    policies = [*ENABLED_BACKPRESSURE_POLICIES, _throttle_policy()]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)


@functools.cache
def _throttle_policy() -> type:
    """Return the policy's class. It is defined here because its base class is expensive to import."""
    from ray.data._internal.execution.backpressure_policy import BackpressurePolicy

    class ThrottleScheduler(BackpressurePolicy):
        """Sleep 20 ms per scheduling loop: otherwise Ray Data's loop spins and holds the GIL. Limits nothing."""

        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            if op is next(iter(self._topology)):  # called once per operator: sleep for the first one only
                time.sleep(PAUSE_SECONDS)
            return None

    return ThrottleScheduler


def nodes_lost_with_notice() -> dict[str, str]:
    """Return the nodes that left with a warning since the cluster started: stopped by SIGTERM, or drained.

    The keys are their ids, the values their IP addresses.

    Needs: the numbers of `NodeDeathInfo.Reason`, to read the `DeathReason` that `ray.nodes()` returns.
    Why: `ray.nodes()` is public, but no public name stands for these numbers.
    If it breaks: find the enumeration in ray/core/generated (src/ray/protobuf/common.proto in Ray's repository).
    """
    import ray
    from ray.core.generated.common_pb2 import NodeDeathInfo  # type: ignore[attr-defined]

    reasons = (NodeDeathInfo.EXPECTED_TERMINATION, NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if not node["Alive"] and node["DeathReason"] in reasons
    }


def torch_config(backend: str, check: Callable[[], None]) -> TorchConfig:
    """Return Ray Train's torch configuration, with a check that every worker makes before its process group.

    An error of the check ends the training; Train does not retry it.

    Needs: a backend's `on_start` to get a group of workers whose `execute` calls a function on each of them.
    Why: the function that a worker runs starts after its process group. Without a GPU, NCCL fails there, with a text
    that names neither the node nor the reason, and that looks like a lost connection.
    If it breaks: see BackendSetupCallback in ray/train/v2/_internal/callbacks/backend_setup.py.
    """
    from ray.train.torch import TorchConfig

    class CheckedBackend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(check)
            super().on_start(worker_group, backend_config)

    class CheckedConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return CheckedBackend

    return CheckedConfig(backend=backend)


def listed_checkpoints(folder: str) -> set[str] | None:
    """Return the names of the checkpoints that Ray Train lists in a training's folder.

    None if there is no list, or none that the installed Ray can use: Train refuses the list of another Ray version, and
    it writes the list in place, so a full disk or a lost machine can leave half of it.

    Needs: the name and three keys of Train's snapshot file.
    Why: `ray.train.Result.from_path` reads the same file, but through pyarrow, without this system's retries, and it
    reads nothing from an incomplete one.
    If it breaks: compare with `_CheckpointManagerState` in ray/train/v2/_internal/execution/checkpoint.
    """
    import ray

    from arspm import storage

    uri = storage.join(folder, SNAPSHOT)
    try:
        snapshot = storage.read_json(uri)
        names = {each["checkpoint_dir_name"] for each in snapshot["checkpoint_results"]}
        return names if snapshot["ray_version"] == ray.__version__ else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        log.warning("%s is incomplete: ignoring it", uri)
        return None


def remove_checkpoint_list(folder: str) -> None:
    """Remove Ray Train's list of checkpoints from a training's folder, so that Train does not resume from it.

    Needs: the name of Train's snapshot file.
    Why: Train resumes from the list whenever it exists, and has no public call that resets it.
    If it breaks: see `listed_checkpoints`.
    """
    from arspm import storage

    storage.remove(storage.join(folder, SNAPSHOT))


def replay_results(scheduler: TrialScheduler, trial_id: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Show ASHA the results of a trial that ended in an earlier session of a sweep.

    Needs: ASHA's `on_trial_add` and `on_trial_result` to read nothing of a trial but its `trial_id`.
    Why: these methods are public, but they expect a Tune trial and its controller, which exist only while Tune runs.
    `Tuner.restore` would bring both back, by unpickling files.
    If it breaks: give the stub trial the attribute that the error names.
    """
    stub: Any = SimpleNamespace(trial_id=trial_id)
    controller: Any = None
    scheduler.on_trial_add(controller, stub)
    for result in results:
        scheduler.on_trial_result(controller, stub, dict(result))


def mlflow_callback(is_failed: Callable[[Trial], bool], **options: Any) -> Callback:
    """Return Tune's callback for MLflow, which ends each trial's run as FINISHED, FAILED or, if interrupted, KILLED.

    is_failed: whether a trial that has ended has failed. options: of `MLflowLoggerCallback`.
    Needs: `_trial_runs`, the ids of MLflow's runs by trial, and `mlflow_util.end_run`.
    Why: the callback marks a trial FINISHED that reports its error and returns, leaves an interrupted one RUNNING for
    ever, and fails on a trial that never started.
    If it breaks: find the run by its tag `trial_name`, and end it with mlflow's own client.
    """
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class MlflowRuns(MLflowLoggerCallback):
        def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
            if trial in self._trial_runs:
                super().log_trial_end(trial, failed or is_failed(trial))
                del self._trial_runs[trial]

        def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
            for run_id in self._trial_runs.values():
                self.mlflow_util.end_run(run_id=run_id, status="KILLED")

    return MlflowRuns(**options)


def wandb_callback(is_failed: Callable[[Trial], bool], **options: Any) -> Callback:
    """Return Tune's callback for Weights & Biases, whose runs of failed and interrupted trials end as failed.

    is_failed, options: see `mlflow_callback`.
    Needs: the queue from the callback to a trial's logging actor, whose class is `_logger_actor_cls`; that the actor
    passes each result to `_handle_result` and ends with `self._wandb.finish()`.
    Why: that call has no exit code, so every run ends as finished. The callback also waits half an hour at the end for
    the actors of interrupted trials, which nobody told to end.
    If it breaks: look how `_WandbLoggingActor.run` ends, and give its `finish` the exit code.
    """
    from ray.air.integrations import wandb as integration

    exit_code = "arspm_exit_code"

    class Actor(integration._WandbLoggingActor):
        def _handle_result(self, result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
            if exit_code not in result:
                return super()._handle_result(result)
            finish = functools.partial(self._wandb.finish, exit_code=result[exit_code])
            ended: Any = SimpleNamespace(config=self._wandb.config, log=lambda *_, **__: None, finish=finish)
            self._wandb = ended
            return {}, {}

    class WandbRuns(integration.WandbLoggerCallback):
        _logger_actor_cls = Actor

        def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
            if trial in self._trial_queues:
                if failed or is_failed(trial):
                    self._trial_queues[trial].put((integration._QueueItem.RESULT, {exit_code: 1}))
                super().log_trial_end(trial, failed)

        def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
            for trial in list(self._trial_queues):  # of interrupted trials; a run that has ended ignores this
                self.log_trial_end(trial, failed=True)
            super().on_experiment_end(trials, **info)

    return WandbRuns(**options)


def head_node() -> dict[str, float]:
    """Return a resource request that only the cluster's head node can satisfy.

    Needs: the name of the resource that Ray gives its head node.
    Why: the node's id is public, but Tune's placement groups take resources only.
    If it breaks: look for HEAD_NODE_RESOURCE_NAME in ray/_common/constants.py.
    """
    return {"node:__internal_head__": 0.001}


def dashboard_modules() -> set[str]:
    """Return the names of the dashboard's modules, without the one that reports usage.

    Needs: Ray's own list of modules, and the module's name.
    Why: with RAY_USAGE_STATS_ENABLED=0 this module of Ray 2.60 still sends one report, that reports are disabled, and
    before that it asks the metadata services of three clouds where it runs. No setting turns the module off.
    If it breaks: see how DashboardHead in ray/dashboard/head.py chooses its modules.
    """
    from ray.dashboard.subprocesses.module import SubprocessModule
    from ray.dashboard.utils import DashboardHeadModule, get_all_modules

    found = [*get_all_modules(DashboardHeadModule), *get_all_modules(SubprocessModule)]
    return {each.__name__ for each in found} - {"UsageStatsHead"}


def main() -> None:
    """Run the `ray` command line, whose `start --head` then starts neither the Ray Client server nor usage reports.

    Needs: the function by which ray.scripts.scripts decides whether to start that server; the function that starts
    Ray's processes, and the dashboard's option for the modules to load.
    Why: `ray start` has no option that turns the server off, and passes none on to the dashboard.
    If it breaks: see how `start` in ray/scripts/scripts.py computes `ray_client_server_port`, and how
    `start_api_server` in ray/_private/services.py starts the dashboard.
    """
    # A program started in the background inherits an ignored SIGINT. The head's jobs would inherit it too, and SIGINT
    # is the signal that stops them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    start_process = services.start_ray_process

    def start(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            command = [*command, f"--modules-to-load={','.join(sorted(dashboard_modules()))}"]
        return start_process(command, process_type, *arguments, **options)

    services.start_ray_process = start
    scripts.get_ray_client_dependency_error = lambda: ImportError("turned off")
    sys.argv[0] = "ray"
    scripts.main()


if __name__ == "__main__":
    main()
