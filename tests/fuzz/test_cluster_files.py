"""Files of a cluster: the launcher's YAML, the local head's state, and progress lines in a job's log."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import yaml

from cluster import events, record
from cluster.cost import cost_table, text
from cluster.errors import ClusterError
from cluster.head import Head, current
from tests.cluster.cluster_files import LAUNCHER
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, JSON, Mutation, odd_tree

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

GOOD = LAUNCHER.read_bytes()


def yaml_field(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change a field: another value, no value, another name, or a duplicate."""
    try:
        return yaml.safe_dump(odd_tree(rng, yaml.safe_load(data))).encode()
    except Exception as error:
        raise ValueError(error) from None  # too damaged for this mutation


def yaml_line(rng: Random, data: bytes, _: bytes) -> bytes:
    """Repeat, move or change a line, or add a tag, an anchor or an alias."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    key, _, value = lines[at].partition(b":")
    odd = (
        b"!!python/object/apply:os.system ['true']",
        b"!!int ''",
        b"!!float x",
        b"!!timestamp x",
        b"!!bool x",
        b"&a x",
    )
    odd += (
        b"*a",
        b"!!set {a}",
        b"!!binary x",
        b"-1",
        b".nan",
        b".inf",
        b"1e400",
        b"9" * 5000,
        b"2026-99-99",
        b"|",
        b"<<: 1",
    )
    lines[at] = rng.choice((lines[at], key + b": " + rng.choice(odd), key.upper() + b":" + value, b"  " + lines[at]))
    lines.insert(rng.choice((at, rng.randrange(len(lines)))), lines[at])
    return b"\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (*BYTES, *[yaml_field] * 20, *[yaml_line] * 10)


def costs(path: Path) -> None:
    """Estimate a sweep's cost on the cluster of the mutated file."""
    try:
        rows = cost_table(path, trial_seconds=60.0, num_trials=7, cpus=4, gpus=0.5)
    except ClusterError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from None
        raise ValueError(str(error)) from None
    for row in rows:
        assert math.isfinite(row.usd)
        assert (row.usd > 0) == (row.nodes > 0) == (not row.reason)
        assert all(isinstance(each, str) and each.isprintable() for each in row[:3])
    assert max(map(len, text(rows).splitlines())) < 1000


def test_clusters() -> None:
    tally = try_inputs(costs, Mutated((GOOD,), MUTATIONS, num_inputs(200)), name=LAUNCHER.name)
    assert min(tally["refused"], tally["accepted"]) > tally.total() // 20


def test_yaml_that_grows_or_runs_is_refused() -> None:
    laughs = b"a0: &a0 [x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
    )
    merges = b"a0: &a0 {x: 1}\n"
    merges += b"".join(b"a%d: &a%d {<<: [%s]}\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12))
    bombs = [laughs + GOOD, merges + GOOD, GOOD + b"\nx: &x [*x]\n", b"&x [*x]"]
    bombs += [b"!!python/object/apply:os.system ['touch ran']", GOOD + b"\nx: !!python/name:os.system\n"]
    bombs += [
        b"[" * 100_000,
        b"{a: " * 30_000,
        b"- " * 60_000,
        b"? " * 60_000,
        b"x" * 10_000_000,
        b"",
        b"\0",
        b"%YAML 9.9\n---\n",
    ]
    bombs += [GOOD.decode().encode("utf-16"), GOOD + b"# \xff", GOOD + b"---\n" + GOOD, b"null", b"[]", b"{}", b"1: 2"]
    lines = [line for line in GOOD.splitlines(keepends=True) if line[:1].isalpha()]
    bombs += [GOOD + lines[0].partition(b":")[0] + b": {}\n"]  # a duplicate key
    assert try_inputs(costs, bombs, name=LAUNCHER.name)["refused"] == len(bombs)


def test_estimates_use_the_current_folder_s_cluster_or_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever installed the package has no ray_cluster.yaml."""
    needs = {"trial_seconds": 60.0, "num_trials": 7, "cpus": 4, "gpus": 0.5}
    usual = cost_table(**needs)
    monkeypatch.chdir(tmp_path)
    assert cost_table(**needs) == usual
    smaller = LAUNCHER.read_text().replace("    max_workers: 8", "    max_workers: 1")
    smaller = smaller.replace("    max_workers: 4", "    max_workers: 1")
    (tmp_path / LAUNCHER.name).write_text(smaller)
    assert max(row.nodes for row in cost_table(**needs)) < max(row.nodes for row in usual)


# --- JSON


def head_state(path: Path, processes: Path) -> None:
    """Read the head's state, which checks in `processes` (/proc) whether the process exists."""
    home = path.parent / "home"  # `current` restricts the permissions of this folder
    home.mkdir(exist_ok=True)
    os.environ["ARSPM_HOME"] = str(home)
    shutil.copy(path, record.path_of(".json"))
    found = current()
    assert found is None  # no such process


def test_the_state_of_a_head() -> None:
    head = Head("http://127.0.0.1:8265", "127.0.0.1:6379", 2**22 + 1, "id", "/tmp/x", "/tmp/x/s", 1.5, "user")
    seeds = (json.dumps(asdict(head)).encode(),)
    deep = b"[" * 100_000 + b"]" * 100_000
    for inputs in (Mutated(seeds, JSON, num_inputs(125)), [deep, b"null", b"[]", b"{}", b""]):
        tally = try_inputs(head_state, inputs, name="head.json", processes=Path("/proc"))
        assert tally["accepted"] == tally.total()


def progress(path: Path) -> None:
    for line in path.read_bytes().decode(errors="replace").splitlines():
        event = events.parse_line("encoder", line)
        if isinstance(event, events.StageProgress):
            assert math.isfinite(event.current)
            assert math.isfinite(event.total or 0)


def test_progress_in_a_log() -> None:
    record = json.dumps({"current": 3, "total": 10, "unit": "steps", "message": "x", "eta_seconds": 2.5})
    seeds = (f"{events.MARKER}{record}".encode(), f"(Worker pid=12) {events.MARKER}{record}\nloss 3".encode())
    values = [
        f'{events.MARKER}{{"current": {value}, "total": {value}}}' for value in ("NaN", "1e999", "9" * 400, '"inf"')
    ]
    values += [f"{events.MARKER}{'[' * 100_000}"]
    for inputs in (Mutated(seeds, (*BYTES, progress_field), num_inputs(125)), [value.encode() for value in values]):
        tally = try_inputs(progress, inputs, name="log")
        assert tally["accepted"] == tally.total()


def progress_field(rng: Random, data: bytes, _: bytes) -> bytes:
    before, mark, record = data.partition(events.MARKER.encode())
    return before + mark + json.dumps(odd_tree(rng, json.loads(record))).encode()
