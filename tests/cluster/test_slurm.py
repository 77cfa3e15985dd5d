"""The Slurm script, with stand-ins for Slurm, Ray and the chain: order, token, certificates, signals, clean-up."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import interface

REPO = Path(__file__).parents[2]
SBATCH = REPO / "cluster/slurm/arspm.sbatch"

# Programs that replace Slurm's, Ray's and the chain's. `ray` and `arspm` record their arguments. The chain's work
# starts when the workers have been started, however slow this machine is.
STAND_INS = {
    "srun": "while [[ $1 == --* ]]; do case $1 in --cpu-bind=*) shift ;; *) shift 2 ;; esac; done\n"
    'SLURM_CPUS_ON_NODE=4 exec "$@"',
    "scontrol": "printf '%s\\n' one two three",
    "ray": 'echo "ray $* $(stat -c %a "$RAY_AUTH_TOKEN_PATH" "$RAY_TLS_SERVER_KEY" | tr "\\n" " ")" '
    '"$NCCL_SOCKET_IFNAME $GLOO_SOCKET_IFNAME" >>"$TRACE"\n'
    '[[ $* == *--head* ]] && touch "$TRACE.up"\nexec sleep 60',
    "arspm": '[[ $1 == status ]] && exec test -e "$TRACE.up"\necho "arspm $*" >>"$TRACE"\n'
    'for _ in {1..300}; do grep -q -e --address= "$TRACE" && break; sleep 0.1; done\n'
    'exec python -c "import sys, time; time.sleep($SECONDS_OF_WORK); sys.exit(3)"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
}


def allocation(tmp_path: Path, seconds_of_work: float, **variables: str) -> subprocess.Popen[str]:
    """Start the script. Its nodes' interface is the loopback, because every machine has that one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o700)
    (tmp_path / "home/.arspm-slurm-7.failed").mkdir(parents=True)  # of an earlier try
    own = {
        "HOME": str(tmp_path / "home"),
        "TRACE": str(tmp_path / "trace"),
        "ARSPM_BIN": str(tools),
        "PYTHONPATH": str(REPO),
        "SECONDS_OF_WORK": str(seconds_of_work),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two,three",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURMD_NODENAME": "one",
        "ARSPM_INTERFACE": "lo",
    }
    # If the test suite runs in the background, it ignores SIGINT, and so would the script.
    command = ["env", "--default-signal=INT", "bash", SBATCH, "--run", "a b"]
    return subprocess.Popen(command, env={**os.environ, **own, **variables}, stderr=subprocess.PIPE, text=True)


def trace(tmp_path: Path) -> list[str]:
    path = tmp_path / "trace"
    return path.read_text().splitlines() if path.is_file() else []


def test_an_allocation_starts_a_head_and_workers_and_returns_the_chains_status(tmp_path: Path) -> None:
    with allocation(tmp_path, seconds_of_work=1, GLOO_SOCKET_IFNAME="mine") as script:
        assert script.wait(timeout=60) == 3, script.stderr.read()
    head, *others = trace(tmp_path)
    common = "ray start --block --disable-usage-stats --node-ip-address=127.0.0.1 --num-cpus=4 --num-gpus=0"
    assert head == f"{common} --head --port=6379 --dashboard-host=127.0.0.1 --temp-dir=/tmp/ray-7 600 600  =lo mine"
    assert sorted(others) == [
        "arspm submit --ray-address http://127.0.0.1:8265 --run a b",
        f"{common} --address=127.0.0.1:6379 600 600  =lo mine",
    ]
    assert list((tmp_path / "home").iterdir()) == [], "token, authority and certificates are removed"


def test_slurms_signal_before_the_time_limit_reaches_the_chain(tmp_path: Path, wait_until: Any) -> None:
    with allocation(tmp_path, seconds_of_work=60) as script:
        wait_until(lambda: len(trace(tmp_path)) == 3, seconds=30)
        time.sleep(0.5)  # until the chain's Python handles signals
        script.send_signal(signal.SIGINT)
        assert script.wait(timeout=20) == 128 + signal.SIGINT
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"ARSPM_INTERFACE": "ib9"},
            "error: HOST: no network interface ib9 with an IPv4 address; there is: lo 127.0.0.1",
        ),
        ({"SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": ""}, "error: torch sees no GPU on node HOST ("),
    ],
)
def test_a_node_without_its_interface_or_its_gpu_ends_the_job_at_once(
    variables: dict[str, str], line: str, tmp_path: Path
) -> None:
    with allocation(tmp_path, seconds_of_work=1, **variables) as script:
        assert script.wait(timeout=100) == 1
        printed = script.stderr.read()
    assert any(each.startswith(line.replace("HOST", socket.gethostname())) for each in printed.splitlines()), printed
    assert trace(tmp_path) == [], "neither Ray nor the chain was started"


def test_a_requeued_job_appends_to_its_log() -> None:
    options = re.findall(r"^#SBATCH (\S+)$", SBATCH.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append"} <= set(options)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("", "eno1 10.0.0.7"),
        ("ib0", "ib0 192.168.4.7"),
        ("public", "public 8.8.8.8"),
        ("docker0", "docker0 172.17.0.1"),
    ],
)
def test_the_interface_is_the_named_one_or_the_first_private_one(name: str, chosen: str) -> None:
    found = [
        "lo 127.0.0.1",
        "docker0 172.17.0.1",
        "public 8.8.8.8",
        "usb0 169.254.3.1",
        "eno1 10.0.0.7",
        "ib0 192.168.4.7",
    ]
    assert interface.choose([interface.Interface(*each.split()) for each in found], name) == tuple(chosen.split())


def test_a_node_with_public_addresses_only_needs_a_named_interface() -> None:
    found = [interface.Interface("lo", "127.0.0.1"), interface.Interface("eth0", "8.8.8.8")]
    with pytest.raises(ValueError, match=r"name one by ARSPM_INTERFACE, of: lo 127\.0\.0\.1, eth0 8\.8\.8\.8$"):
        interface.choose(found, "")


def test_this_machines_interfaces_are_those_that_the_kernel_lists() -> None:
    found = dict(interface.interfaces())
    assert found["lo"] == "127.0.0.1"
    for address in found.values():
        with socket.socket() as server:
            server.bind((address, 0))  # an address of another machine is refused
