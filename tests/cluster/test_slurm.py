"""The Slurm script, with stand-ins for Slurm, Ray and the chain: order, token, certificates, signals, clean-up."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
SBATCH = REPO / "cluster/slurm/arspm.sbatch"

# Programs that replace Slurm's, Ray's and the chain's. `ray` and `arspm` record their arguments. The chain's work
# starts when the workers have been started, however slow this machine is.
STAND_INS = {
    "srun": "while [[ $1 == --* ]]; do case $1 in --cpu-bind=*) shift ;; *) shift 2 ;; esac; done\n"
    'SLURM_CPUS_ON_NODE=4 exec "$@"',
    "scontrol": "printf '%s\\n' one two three",
    "hostname": "echo 8.8.8.8 10.0.0.7 fd00::2",
    "ray": 'echo "ray $* $(stat -c %a "$RAY_AUTH_TOKEN_PATH" "$RAY_TLS_SERVER_KEY" | tr "\\n" " ")" >>"$TRACE"\n'
    '[[ $* == *--head* ]] && touch "$TRACE.up"\nexec sleep 60',
    "arspm": '[[ $1 == status ]] && exec test -e "$TRACE.up"\necho "arspm $*" >>"$TRACE"\n'
    'for _ in {1..300}; do grep -q -e --address= "$TRACE" && break; sleep 0.1; done\n'
    'exec python -c "import sys, time; time.sleep($SECONDS_OF_WORK); sys.exit(3)"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
}


def allocation(tmp_path: Path, seconds_of_work: float) -> subprocess.Popen[str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o700)
    (tmp_path / "home").mkdir()
    own = {
        "HOME": str(tmp_path / "home"),
        "TRACE": str(tmp_path / "trace"),
        "ARSPM_BIN": str(tools),
        "PYTHONPATH": str(REPO),
        "SECONDS_OF_WORK": str(seconds_of_work),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two,three",
        "SLURMD_NODENAME": "one",
    }
    # If the test suite runs in the background, it ignores SIGINT, and so would the script.
    command = ["env", "--default-signal=INT", "bash", SBATCH, "--run", "a b"]
    return subprocess.Popen(command, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True)


def trace(tmp_path: Path) -> list[str]:
    path = tmp_path / "trace"
    return path.read_text().splitlines() if path.is_file() else []


def test_an_allocation_starts_a_head_and_workers_and_returns_the_chains_status(tmp_path: Path) -> None:
    with allocation(tmp_path, seconds_of_work=1) as script:
        assert script.wait(timeout=60) == 3, script.stderr.read()
    head, *others = trace(tmp_path)
    common = "ray start --block --disable-usage-stats --node-ip-address=10.0.0.7 --num-cpus=4 --num-gpus=0"
    assert head == f"{common} --head --port=6379 --dashboard-host=127.0.0.1 --temp-dir=/tmp/ray-7 600 600 "
    assert sorted(others) == [
        "arspm submit --ray-address http://127.0.0.1:8265 --run a b",
        f"{common} --address=10.0.0.7:6379 600 600 ",
    ]
    assert list((tmp_path / "home").iterdir()) == [], "token, authority and certificates are removed"


def test_slurms_signal_before_the_time_limit_reaches_the_chain(tmp_path: Path, wait_until: Any) -> None:
    with allocation(tmp_path, seconds_of_work=60) as script:
        wait_until(lambda: len(trace(tmp_path)) == 3, seconds=30)
        time.sleep(0.5)  # until the chain's Python handles signals
        script.send_signal(signal.SIGINT)
        assert script.wait(timeout=20) == 128 + signal.SIGINT
    assert list((tmp_path / "home").iterdir()) == []
