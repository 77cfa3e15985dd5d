"""Canary for a new Ray: each use of its private code, by itself. A failing test's name says which use broke."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
from ray.data import DataContext
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from arspm.distributed import gpus, ray_private
from arspm.distributed.train.launch import TRAIN_SETTINGS
from arspm.distributed.tune.tuning import TUNE_SETTINGS

ROOT = Path(__file__).parents[2]


def test_ray_data_calls_the_throttling_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.execution import backpressure_policy, streaming_executor_state

    context = DataContext()
    ray_private.throttle_scheduler(context)
    topology = {"read": 1, "map": 2}  # operator -> state; a policy is called once per operator
    policies = backpressure_policy.get_backpressure_policies(context, topology, SimpleNamespace())  # type: ignore[arg-type]
    defaults = backpressure_policy.ENABLED_BACKPRESSURE_POLICIES
    assert [type(policy) for policy in policies[:-1]] == defaults
    throttle, pauses = policies[-1], []
    monkeypatch.setattr(ray_private.time, "sleep", pauses.append)
    for operator in topology:
        assert throttle.max_task_output_bytes_to_read(operator) is None  # type: ignore[arg-type]
        assert throttle.can_add_input(operator)  # type: ignore[arg-type]
    assert pauses == [ray_private.PAUSE_SECONDS], "once per iteration of the loop"
    assert ".max_task_output_bytes_to_read(" in inspect.getsource(streaming_executor_state), "the loop asks policies"


def test_the_throttled_context_can_be_sent_to_other_processes() -> None:
    context = DataContext()
    ray_private.throttle_scheduler(context)
    code = "import ray, sys; ray.cloudpickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", code], input=ray.cloudpickle.dumps(context), cwd=ROOT, check=True)


def test_a_worker_without_its_gpu_ends_the_training_before_nccl_starts() -> None:
    """Train's own classes around it: they call `on_start` with the workers, and do not retry its error."""
    from ray.train.v2._internal.callbacks import backend_setup
    from ray.train.v2._internal.execution.failure_handling import default
    from ray.train.v2._internal.execution.worker_group import ExecutionGroup

    def check() -> None:
        raise gpus.NoGpu("torch sees no GPU on node a (10.0.0.1): driver 525, needs 580")

    def execute(function: Any, *arguments: Any, **named: Any) -> list[Any]:
        called.append(function)
        return [function(*arguments, **named)]

    called: list[Any] = []
    sent = ray.cloudpickle.dumps(ray_private.torch_config("nccl", check))
    config = ray.cloudpickle.loads(sent)  # as it reaches Train's controller
    assert config.backend == "nccl"
    with pytest.raises(gpus.NoGpu, match="driver 525, needs 580"):
        backend_setup.BackendSetupCallback(config).after_execution_group_start(SimpleNamespace(execute=execute))  # type: ignore[arg-type]
    assert len(called) == 1, "nothing ran before the check"
    passes = ray.cloudpickle.loads(ray.cloudpickle.dumps(ray_private.torch_config("nccl", lambda: None)))
    with pytest.raises(AttributeError, match="execute_single"):  # Train's own start follows, which needs real workers
        backend_setup.BackendSetupCallback(passes).after_execution_group_start(SimpleNamespace(execute=execute))  # type: ignore[arg-type]
    assert inspect.signature(ExecutionGroup.execute).parameters.keys() == {"self", "fn", "fn_args", "fn_kwargs"}

    policy = default.DefaultFailurePolicy(ray.train.FailureConfig(max_failures=0))
    error = ray.train.ControllerError(gpus.NoGpu("no GPU"))
    assert policy.make_decision(training_failed_error=error) == default.FailureDecision.RAISE


def test_death_reasons_that_are_a_notice_have_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.core.generated.common_pb2 import NodeDeathInfo

    reasons = dict(NodeDeathInfo.Reason.items())
    dead = {"Alive": False, "NodeManagerAddress": "10.0.0.1"}
    nodes = [{"NodeID": name, "DeathReason": number, **dead} for name, number in reasons.items()]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"NodeID": "alive", "Alive": True, "DeathReason": 0}])
    warned = {"EXPECTED_TERMINATION": "10.0.0.1", "AUTOSCALER_DRAIN_PREEMPTED": "10.0.0.1"}
    assert ray_private.nodes_lost_with_notice() == warned


@pytest.mark.ray
def test_nodes_of_a_cluster_have_a_death_reason_and_the_head_has_its_resource(driver: None) -> None:
    [node] = ray.nodes()
    assert {"NodeID", "Alive", "DeathReason", "NodeManagerAddress"} <= node.keys()
    assert ray_private.nodes_lost_with_notice() == {}
    assert ray_private.head_node().keys() <= node["Resources"].keys()


def test_the_head_node_has_the_name_that_ray_gives_it() -> None:
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    assert ray_private.head_node().keys() == {HEAD_NODE_RESOURCE_NAME}


def snapshot_of_train(folder: Path, names: list[str]) -> Path:
    """Write the list of checkpoints as Ray Train itself writes it."""
    from ray.train._internal.session import _TrainingResult
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
    from ray.train.v2._internal.execution.context import StorageContext

    folder.mkdir(exist_ok=True)
    context = StorageContext(str(folder.parent), folder.name)
    manager = CheckpointManager(ray.train.CheckpointConfig(), context)
    for index, name in enumerate(names):
        checkpoint = ray.train.Checkpoint(context.build_checkpoint_path_from_name(name))
        result = _TrainingResult(checkpoint=checkpoint, metrics={"step": index})
        manager._checkpoint_results.append(result)
        manager._checkpoint_to_report_index[checkpoint] = index
        manager._latest_checkpoint_result = result
    manager._write_state_to_storage()
    return folder / ray_private.SNAPSHOT


def test_the_checkpoints_that_train_lists_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "training"
    assert ray_private.listed_checkpoints(str(folder)) is None
    snapshot = snapshot_of_train(folder, ["checkpoint_1", "checkpoint_2"])
    assert ray_private.listed_checkpoints(str(folder)) == {"checkpoint_1", "checkpoint_2"}
    content = json.loads(snapshot.read_text())
    snapshot.write_text(json.dumps(content | {"ray_version": "1.0.0"}))
    assert ray_private.listed_checkpoints(str(folder)) is None
    assert not caplog.records
    for broken in (json.dumps(content)[:-20], "[]", json.dumps(content | {"checkpoint_results": [{}]})):
        snapshot.write_text(broken)
        assert ray_private.listed_checkpoints(str(folder)) is None
        assert f"{snapshot} is incomplete" in caplog.text
        caplog.clear()


def test_train_forgets_its_checkpoints_with_the_list(tmp_path: Path) -> None:
    snapshot = snapshot_of_train(tmp_path / "training", ["checkpoint_1"])
    ray_private.remove_checkpoint_list(str(snapshot.parent))
    assert not snapshot.exists()
    snapshot_of_train(tmp_path / "training", [])
    assert ray_private.listed_checkpoints(str(snapshot.parent)) == set()


def test_a_checkpoint_uploaded_by_us_is_where_train_expects_it(tmp_path: Path) -> None:
    """`worker._upload` returns a checkpoint at a URI: Train takes its name from the path."""
    from ray.train.v2._internal.execution.context import StorageContext

    context = StorageContext(str(tmp_path), "train-abc")
    checkpoint = ray.train.Checkpoint(f"{tmp_path}/train-abc/checkpoint_1")
    assert checkpoint.path == context.build_checkpoint_path_from_name("checkpoint_1")
    assert checkpoint.filesystem == context.storage_filesystem
    assert context.extract_checkpoint_dir_name_from_path(checkpoint.path) == "checkpoint_1"


@pytest.mark.parametrize(("value", "decision"), [(2.0, TrialScheduler.STOP), (0.5, TrialScheduler.CONTINUE)])
def test_asha_compares_with_the_replayed_trial(value: float, decision: str) -> None:
    asha = ASHAScheduler(time_attr="epoch", metric="loss", mode="min", max_t=9, grace_period=1, reduction_factor=3)
    ray_private.replay_results(asha, "before-0", [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.9}])
    trial: Any = SimpleNamespace(trial_id="now")
    controller: Any = None
    asha.on_trial_add(controller, trial)
    assert asha.on_trial_result(controller, trial, {"epoch": 1, "loss": value}) == decision


def test_ray_start_opens_no_ray_client_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` is run up to the command itself, which is then asked whether it would start the server."""
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    started: list[list[str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, *_, **__: started.append(command))
    assert scripts.get_ray_client_dependency_error() is None, "the server would start otherwise"
    monkeypatch.setattr(scripts, "get_ray_client_dependency_error", scripts.get_ray_client_dependency_error)
    commands: list[list[str]] = []
    monkeypatch.setattr(scripts, "main", lambda: commands.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["-m", "start", "--head"])
    before = signal.getsignal(signal.SIGINT)
    try:
        ray_private.main()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert commands == [["ray", "start", "--head"]]
    assert scripts.get_ray_client_dependency_error() is not None
    start = inspect.getsource(scripts.start.callback)
    assert "has_ray_client = get_ray_client_dependency_error() is None" in start
    for process_type in (ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_DASHBOARD):
        services.start_ray_process(["python", "program"], process_type, fate_share=True)
    assert started[0] == ["python", "program"]
    assert started[1][:2] == started[0]
    assert set(started[1][2].removeprefix("--modules-to-load=").split(",")) == ray_private.dashboard_modules()
    api_server = inspect.getsource(services.start_api_server)
    assert "start_ray_process(\n            command,\n            ray_constants.PROCESS_TYPE_DASHBOARD," in api_server


def test_the_dashboard_has_all_modules_but_the_one_that_reports_usage() -> None:
    from ray.dashboard.modules.usage_stats.usage_stats_head import UsageStatsHead

    modules = ray_private.dashboard_modules()
    assert UsageStatsHead.__name__ not in modules
    assert {"JobHead", "NodeHead", "StateHead", "TrainHead"} <= modules


def test_the_program_is_ray_s_command_line() -> None:
    command = [sys.executable, "-m", "arspm.distributed.ray_private", "start", "--help"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "Start Ray processes manually" in output
    assert "--head" in output


@pytest.mark.parametrize("name", [*TRAIN_SETTINGS, *TUNE_SETTINGS])
def test_ray_still_reads_this_environment_variable(name: str) -> None:
    package = Path(ray.__file__).parent
    folders = [package / part for part in ("train", "tune", "air")]
    assert any(f'"{name}"' in path.read_text() for folder in folders for path in folder.rglob("*.py"))


def test_importing_it_does_not_import_ray() -> None:
    code = "import sys, arspm.distributed.ray_private; assert not {'ray', 'torch', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_no_other_file_mentions_private_modules_of_ray() -> None:
    private = re.compile(r"\bray\._|\._internal\b|\._private\b|_raylet|ray\.core\.generated|ray\.scripts")
    logger = '"ray._private.runtime_env.packaging"'  # cluster/client.py silences it; a wrong name would do no harm
    files = [path for part in ("arspm", "jobs", "cluster", "tune_spaces") for path in (ROOT / part).rglob("*.py")]
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)) for path in files if private.search(path.read_text().replace(logger, ""))}
    assert found == {"arspm/distributed/ray_private.py"}


@pytest.mark.parametrize(("num_executions", "readers"), [(1, 48), (64, 0)])
def test_one_execution_gets_the_cpus_that_an_execution_for_each_of_64_workers_would_not(
    num_executions: int, readers: int
) -> None:
    """Ray divides each node's free CPUs by the number of executions, in whole CPUs. Workers use 4 of 16 CPUs a node."""
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

    resources = {"CPU": 16.0, "memory": 2.0**36, "object_store_memory": 2.0**35}
    nodes = [{"Alive": True, "NodeID": f"{number:02d}", "Resources": dict(resources)} for number in range(4)]
    actor = coordinator._AutoscalingCoordinatorActor(
        send_resources_request=lambda *_, **__: None, get_cluster_nodes=lambda: nodes
    )
    high = coordinator.ResourceRequestPriority.HIGH
    actor.request_resources("train", [{"CPU": 4.0}] * 4, 1e9, priority=high)
    for number in range(num_executions):
        actor.request_resources(f"data-{number}", [], 1e9, request_remaining=["CPU"])
    actor._tick()
    for number in range(num_executions):
        reserved = actor.get_reserved_resources(f"data-{number}")
        assert sum(bundle.get("CPU", 0) for bundle in reserved.values()) == readers
