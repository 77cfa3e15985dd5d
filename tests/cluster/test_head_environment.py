"""What the environment of a local head does in its processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from cluster.head_environment import head_environment

# A training step's memory: taken, filled and given back, in a thread, as Ray Train runs a training.
STEPS = """
import ctypes, resource, threading

PR_SET_THP_DISABLE = 41  # a huge page would be one fault, not 512
assert ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0

def steps():
    for _ in range(4):
        b"x" * 100_000_000

def measure():
    steps()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


def faults(environment: Mapping[str, str]) -> int:
    """Return how many pages the second half of the steps gets anew from the system."""
    return int(subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, check=True).stdout)


def test_a_process_keeps_the_memory_of_a_step_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert faults(os.environ) > 90_000
    assert faults(head_environment("http://127.0.0.1:1", {})) < 1_000


def test_the_users_own_settings_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    environment = head_environment("http://127.0.0.1:1", {})
    assert (environment["MALLOC_ARENA_MAX"], environment["GOMP_SPINCOUNT"]) == ("7", "0")
