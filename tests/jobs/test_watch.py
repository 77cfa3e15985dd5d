"""`arspm watch`: its screen, and its lines without a terminal, on a server that answers as Ray's dashboard does."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from arspm.config.presets import preset
from arspm.runs import stages
from jobs import watch
from jobs.status import look
from tests.jobs.test_status import FAILED, Cluster, cluster, failure, run

__all__ = ["cluster", "run"]
ARSPM = str(Path(sys.executable).with_name("arspm"))


def steps(first: int, last: int) -> str:
    """A training's log: its loss falls from 2 to 1."""
    return "".join(
        f'(RayTrainWorker pid=7) @progress {{"current": {n}, "total": 400, "unit": "steps", "eta": {400 - n}, '
        f'"message": "epoch 1 of 9, loss {2 - n / 400:.4g}"}}\n'
        for n in range(first, last + 1)
    )


def shown(found: object, seen: dict) -> list[str]:  # type: ignore[type-arg]
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(watch.screen(found, seen))  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_screen_has_progress_rate_time_left_and_the_curve_of_the_loss(cluster: Cluster, run: str) -> None:
    job = cluster.dashboard.add_job(run, "encoder", "RUNNING", log=steps(1, 100), age=30)
    cluster.dashboard.add_job(run, "decoder", "FAILED", message=failure(1, "error: decoder: no"), **FAILED)
    seen: dict = {}  # type: ignore[type-arg]
    [before] = [line for line in shown(look(run, cluster.address), seen) if line.startswith("encoder")]
    assert "steps/s" not in before, "one look has no rate"
    began = time.monotonic()
    time.sleep(1.0)
    cluster.dashboard.logs[job] += steps(101, 200)
    lines = shown(look(run, cluster.address), seen)
    seconds = time.monotonic() - began
    assert lines[0] == run
    [encoder] = [line for line in lines if line.startswith("encoder")]
    assert "200 of 400 steps" in encoder
    assert "3 min 20 s left" in encoder
    rate = float(re.search(r"([\d.]+) steps/s", encoder)[1])  # type: ignore[index]
    assert 100 / (seconds + 1) < rate < 100
    assert "█▇▇" in encoder
    assert "▁ " in encoder, "a falling curve"
    assert "epoch 1 of 9, loss 1.5" in encoder
    assert any(re.match(r"decoder +failed .* ago: no; log: arspm logs", line) for line in lines)
    assert any(re.match(r"preprocess +done in 12.0 s", line) for line in lines)


@pytest.mark.parametrize(
    ("values", "expected"), [([], ""), ([1.0], ""), ([1, 1], "▁▁"), ([2, 1.5, 1], "█▅▁"), ([8, 8, 1, 1], "█▁")]
)
def test_sparklines(values: list[float], expected: str) -> None:
    assert watch.sparkline(values, 3 if len(values) == 3 else 2) == expected


def finish(cluster: Cluster, run: str, job: str) -> None:
    stages.commit(run, "vggface", fingerprint="v" * 64, config=preset("smoke"), files={}, seconds=3.0, figures={})
    cluster.dashboard.jobs[job] |= {"status": "SUCCEEDED", "end_time": int(time.time() * 1000)}


def test_without_a_terminal_changed_lines_are_printed_until_nothing_runs(
    cluster: Cluster, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LINE_SECONDS", 0.2)
    job = cluster.dashboard.add_job(run, "vggface", "RUNNING", log=steps(1, 10), age=3)
    timer = threading.Timer(1.0, finish, (cluster, run, job))
    timer.start()
    watch.watch(run, cluster.address)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("preprocess") for line in lines) == 1, "what stays the same is printed once"
    assert re.match(r"vggface +running for 3\.\d s: 10 of 400 steps", next(x for x in lines if x.startswith("vgg")))
    assert lines[-1].split() == ["vggface", "done", "in", "3.0", "s"]


def test_on_a_terminal_the_screen_is_redrawn_and_stays_at_the_end(cluster: Cluster, run: str) -> None:
    job = cluster.dashboard.add_job(run, "vggface", "RUNNING", log=steps(1, 10), age=3)
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    command = [ARSPM, "watch", run, "--ray-address", cluster.address]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env, close_fds=True) as process:
        os.close(theirs)
        output = b""
        while b"10 of 400 steps" not in output and process.poll() is None:
            output += os.read(ours, 65536)
        finish(cluster, run, job)
        while True:
            try:
                output += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    assert process.returncode == 0
    assert b"done in 3.0 s" in output.rpartition(b"10 of 400 steps")[2]
