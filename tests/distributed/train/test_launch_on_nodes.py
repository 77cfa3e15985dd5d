"""Training with workers on two nodes that have different addresses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from arspm.training import artifacts
from tests.cluster.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # several nodes
FINGERPRINT = "f" * 64
TIMINGS = ("clips_per_second", "data_wait", "epoch_seconds")


def train(nodes: Nodes, run: Path, config: Config) -> tuple[bytes, dict[str, Any], set[str]]:
    """Run the gender stage. Returns its weights, its history without timings, and the addresses of its workers."""
    stages.commit(str(run), "preprocess", fingerprint=FINGERPRINT, config=config, files={}, seconds=1.0, figures={})
    (run / "config.json").write_text(configuration.dump(config))
    command = ["env", f"RAY_ADDRESS={nodes.gcs_address}", sys.executable, "-m", "jobs.gender", "--run", str(run)]
    command += ["--config", str(run / "config.json")]
    program = nodes.popen(nodes.head, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = program.communicate(timeout=300)[0].decode()
    assert program.returncode == 0, output
    history = json.loads((run / "gender" / artifacts.HISTORY).read_text())
    for figures in history["epochs"]:
        for name in TIMINGS:
            del figures[name]
    hosts = {line.partition("(ip=")[2].partition(",")[0] for line in output.splitlines() if "world_rank=" in line}
    return (run / "gender" / artifacts.MODEL).read_bytes(), history, hosts


@pytest.mark.long
def test_two_nodes_train_the_same_weights_as_two_workers_of_one_node(
    nodes: Nodes, write_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    """Bit by bit: two workers sum two gradients, and a sum of two does not depend on their order."""
    write_corpus({"train": (12, 12), "val": (8,)})
    config = override(
        preset("smoke"),
        {"data.storage": "waveform", "resources.gender.num_workers": 2, "ingest.window_rows": 24},
    )
    nodes.add(num_cpus=0)
    results = []
    for number, cpus in ((1, 1.5), (2, 2.5)):  # room for both workers on a node, then for one
        nodes.add(num_cpus=4)
        run = tmp_path / f"on-{number}"
        run.mkdir()
        (run / "corpus").symlink_to(tmp_path / "corpus")
        results.append(train(nodes, run, override(config, {"resources.gender.cpus": cpus})))
        assert len(results[-1][2]) == number
    assert results[0][:2] == results[1][:2]
