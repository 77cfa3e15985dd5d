"""What is said of a process that Ray's memory monitor killed, and which lost nodes excuse a failure."""

from __future__ import annotations

import pytest
import ray.exceptions
import ray.train

from arspm.distributed.data.ingest import original_errors
from arspm.distributed.memory import KilledForMemory, killed_for_memory
from arspm.distributed.train import failures

# The beginning of what Ray 2.60 says; tests/faults/test_memory.py has it kill real tasks.
OF_RAY = """1 worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 10.1.0.2, ID: a1f08e) \
was 29.96GB used / 31.50GB limit (0.951)
OOM kill reason: Memory usage 32168779776B exceeded threshold of 32128368640B (95.0% of 33822867456B limit)
Object store memory usage: [- objects spillable: 1
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/
"""


@pytest.mark.parametrize(
    ("setting", "fewer"), [("preprocess", "num_tasks"), ("read", "num_tasks"), ("encoder", "num_workers")]
)
def test_a_process_that_was_killed_for_memory_is_one_line(setting: str, fewer: str) -> None:
    error = killed_for_memory(ray.exceptions.OutOfMemoryError(OF_RAY), setting)
    assert str(error) == (
        "a process was killed for memory: 29.96 of 31.50 GiB were used on node 10.1.0.2; reserve what it needs with "
        f"resources.{setting}.memory_gib, so that fewer share a node, or lower resources.{setting}.{fewer}"
    )
    assert killed_for_memory(ray.exceptions.WorkerCrashedError(), setting) is None
    assert killed_for_memory(MemoryError("in our own code"), setting) is None


def test_a_text_that_a_later_ray_writes_otherwise_still_names_the_setting() -> None:
    error = killed_for_memory(ray.exceptions.OutOfMemoryError("Task was killed."), "infer")
    assert str(error).startswith(
        "a process was killed for memory: a node was full; reserve what it needs with resources.infer"
    )


def test_ray_datas_results_end_with_that_line() -> None:
    def results():
        yield 1
        raise ray.exceptions.OutOfMemoryError(OF_RAY)

    found = original_errors(results(), "preprocess")
    assert next(found) == 1
    with pytest.raises(KilledForMemory, match=r"29\.96 of 31\.50 GiB"):
        next(found)


@pytest.mark.parametrize(
    ("text", "excused"),
    [
        ("The actor died.\n\tip: 10.0.0.1\nIts node was terminated", True),
        ("its node has died. Node Id: 0123abcd, Ip: 10.9.9.9", True),
        ("The actor died.\n\tip: 10.0.0.12\n", False),
        ("The actor died.\n\tip: 210.0.0.1\n", False),
        ("The worker process exited", False),
    ],
)
def test_only_a_node_that_a_lost_process_was_on_excuses_a_failure(text: str, excused: bool) -> None:
    peers = {0: RuntimeError("gloo: connection closed by peer"), 1: ray.exceptions.RayActorError(error_msg=text)}
    lost = failures.lost(ray.train.WorkerGroupError("a worker failed", peers), "encoder")
    assert not lost.for_memory
    assert failures.names_any(lost.failures, {"0123abcd": "10.0.0.1"}) is excused
    assert not failures.names_any(lost.failures, {})


@pytest.mark.parametrize(
    "error",
    [
        ray.train.WorkerGroupError("a worker failed", {0: ray.exceptions.OutOfMemoryError(OF_RAY)}),
        ray.train.ControllerError(ray.exceptions.OutOfMemoryError(OF_RAY)),  # while the group starts
    ],
)
def test_a_training_worker_that_was_killed_for_memory_is_a_loss(error: Exception) -> None:
    lost = failures.lost(error, "encoder")
    assert lost.for_memory
    assert lost.reason.startswith("a process was killed for memory: 29.96 of 31.50 GiB were used on node 10.1.0.2")


def test_another_error_of_the_controller_ends_the_training() -> None:
    with pytest.raises(failures.TrainingFailed, match="no such bucket"):
        failures.lost(ray.train.ControllerError(OSError("no such bucket")), "encoder")
