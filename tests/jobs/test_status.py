"""`arspm status`, `logs` and `cancel` on a server that answers as Ray's dashboard does, and on storage alone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arspm import storage
from arspm.config.presets import preset
from arspm.runs import drivers, lease, stages
from arspm.runs.drivers import Driver, Planned
from jobs.status import status
from tests.cluster.listeners import TOKEN, Dashboard, serving
from tests.conftest import Bucket
from tests.jobs.conftest import arspm_in_process as arspm
from tests.jobs.conftest import commit
from tests.s3_servers import connected_to

HERE = lease.Holder("session_1", "http://head:8265", "ann@host")
KILLED = {"driver_exit_code": -9, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}
FAILED = {"driver_exit_code": 1, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}


class Cluster(NamedTuple):
    dashboard: Dashboard
    address: str


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    dashboard = Dashboard()
    with serving(dashboard) as port:
        yield Cluster(dashboard, f"http://127.0.0.1:{port}")


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run whose first stage is done."""
    run = str(tmp_path / "runs" / "one")
    stages.commit(
        run,
        "preprocess",
        fingerprint="p" * 64,
        config=preset("smoke"),
        files={},
        seconds=12.0,
        figures={"num_clips": 28, "num_dropped": 2},
    )
    return run


def line_of(lines: list[str], name: str) -> str:
    """The text of the line of this name."""
    [found] = [line.removeprefix(name).strip() for line in lines if re.match(rf"{name}:? ", line)]
    return found


def failure(code: int, *log: str) -> str:
    """The message that Ray gives a job whose program failed."""
    return (
        f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n"
        + ("\n".join(log))
    )


# --- stages


def test_every_stage_has_a_state_with_progress_or_reason(cluster: Cluster, run: str) -> None:
    steps = "".join(
        f'(RayTrainWorker pid=7) @progress {{"current": {n}, "total": 400, "unit": "steps", "eta": 180}}\n'
        for n in range(121)
    )
    add = cluster.dashboard.add_job
    add(run, "vggface", "FAILED", **KILLED)  # retried since
    add(run, "vggface", "RUNNING", log=f"{steps}a warning\n", age=30)
    add(run, "gender", "PENDING", age=10)
    message = failure(1, "Traceback", "error: features: no face in 3 clips", '@progress {"current": 1}')
    add(run, "features", "FAILED", message=message, **FAILED)
    add(run, "decoder", "FAILED", message=failure(-9), **KILLED)
    add(run, "oracle", "STOPPED")
    add(run, "prior", "SUCCEEDED")
    died = "Job supervisor actor died because the node was lost."
    add(run, "encoder", "FAILED", message=died, error_type="JOB_SUPERVISOR_ACTOR_DIED")
    add("elsewhere", "evaluate", "RUNNING")
    lines = status(run, cluster.address)
    assert line_of(lines, "preprocess") == f"done in 12.0 s; 28 clips, 2 dropped: arspm drops {run}"
    progress = "120 of 400 steps, about 3 min 00 s left"
    assert re.fullmatch(rf"running for 30\.\d s: {progress}", line_of(lines, "vggface"))
    assert re.fullmatch(r"pending for 10\.\d s", line_of(lines, "gender"))
    ago = r"30\.\d s ago"
    assert re.fullmatch(
        rf"failed {ago}: no face in 3 clips; log: arspm logs {run} features", line_of(lines, "features")
    )
    assert re.fullmatch(rf"died \(killed by SIGKILL\) {ago}; log: arspm logs .* decoder", line_of(lines, "decoder"))
    assert re.fullmatch(rf"stopped {ago}", line_of(lines, "oracle"))
    assert line_of(lines, "prior").startswith("not done: its job finished without its result; log:")
    assert re.fullmatch(rf"died \({re.escape(died)}\) {ago}; log: .*", line_of(lines, "encoder"))
    assert line_of(lines, "evaluate") == line_of(lines, "report") == "not done"
    assert len(lines) == len(stages.STAGES)
    assert cluster.dashboard.most_lines <= 1000, "the logs of long jobs are not read as a whole"


def test_a_finished_stage_tells_of_newer_upstream_results_and_of_failures_with_other_settings(
    cluster: Cluster, run: str
) -> None:
    commit(run, "vggface", preset("smoke"))
    cluster.dashboard.add_job(run, "vggface", "FAILED", submission_id="arspm-1-vggface-vvvvvvvv-1", **KILLED)
    assert line_of(status(run, cluster.address), "vggface") == "done in 1.0 s"
    cluster.dashboard.add_job(
        run,
        "vggface",
        "FAILED",
        submission_id="arspm-1-vggface-01234567-1",
        message=failure(1, "error: no"),
        age=9,
        **FAILED,
    )
    assert re.fullmatch(
        r"done in 1\.0 s; with other settings it failed 4\.\d s ago: no",
        line_of(status(run, cluster.address), "vggface"),
    )
    manifest = Path(run, "preprocess", stages.SUCCESS)
    manifest.write_text(manifest.read_text().replace("12.0", "13.0"))
    outdated = "done in 1.0 s; outdated, because a stage before it has run again"
    assert line_of(status(run, None), "vggface") == outdated


def test_a_run_on_a_disk_that_this_machine_does_not_have(cluster: Cluster, tmp_path: Path) -> None:
    run = str(tmp_path / "mount" / "one")
    cluster.dashboard.add_job(run, "vggface", "RUNNING")
    lines = status(run, cluster.address)
    assert line_of(lines, "vggface").startswith("running")
    assert lines[-1] == f"{run}: this machine sees no file of it, so only the cluster's jobs are shown"


def test_a_cluster_that_does_not_answer_is_named_and_storage_is_shown(run: str) -> None:
    lines = status(run, "http://127.0.0.1:9")
    assert line_of(lines, "preprocess").startswith("done in")
    assert lines[-1].startswith("the cluster could not be asked: no Ray head answers at http://127.0.0.1:9")
    assert lines[-1].endswith("; this is what storage shows")


def test_a_run_on_s3(seaweed_bucket: Bucket) -> None:
    run = f"{seaweed_bucket.uri}/status/one"
    with connected_to(seaweed_bucket.env):
        stages.commit(
            run, "preprocess", fingerprint="p" * 64, config=preset("smoke"), files={}, seconds=3.0, figures={}
        )
        write_sweep(run, "mine", "running", running=1)
        with contextlib.suppress(KeyboardInterrupt), lease.hold(run, HERE) as held:
            with drivers.driving(run, "chain", HERE, held):
                lines = status(run, None)
                raise KeyboardInterrupt
        after = status(run, None)
    assert line_of(lines, "preprocess") == "done in 3.0 s"
    said = line_of(lines, "chain")
    assert re.fullmatch(r"driver in the foreground: running for \d\.\d s, last sign of life \d\.\d s ago", said)
    assert line_of(lines, "sweep mine").startswith(": interrupted, 1 interrupted of 16 trials")
    said = line_of(after, "chain")
    assert re.fullmatch(r"driver in the foreground: stopped \d\.\d s ago: run the same command again to resume", said)


# --- the chain's driver


def chain(run: str, job: str, **fields: Any) -> None:
    """Write the record of the chain's driver."""
    driver = Driver(name="chain", **HERE._asdict(), job=job, since=time.time() - 90)
    drivers.write(run, driver.model_copy(update=fields))


@pytest.mark.parametrize(
    ("state", "fields", "says"),
    [
        ("RUNNING", {}, r"running for 1 min 00 s"),
        ("SUCCEEDED", {}, r"finished 30\.\d s ago"),
        ("STOPPED", {}, r"stopped 30\.\d s ago: run the same command again to resume"),
        (
            "FAILED",
            {**KILLED, "message": failure(-9, "vggface: 12 of 400 steps")},
            r"died \(killed by SIGKILL\) 30\.\d s ago: run the same command again to resume",
        ),
        ("FAILED", {**FAILED, "message": failure(1, "error: no such bucket")}, r"failed 30\.\d s ago: no such bucket"),
    ],
)
def test_how_the_driver_of_a_detached_chain_ended(
    cluster: Cluster, run: str, state: str, fields: dict[str, Any], says: str
) -> None:
    chain(run, cluster.dashboard.add_job(run, "chain", state, **fields))
    assert re.fullmatch(f"driver of the detached chain: {says}", line_of(status(run, cluster.address), "chain"))


def test_the_jobs_of_a_dead_driver_go_on_and_its_own_words_explain_a_failure(cluster: Cluster, run: str) -> None:
    job = cluster.dashboard.add_job(run, "chain", "FAILED", **KILLED)
    cluster.dashboard.add_job(run, "vggface", "RUNNING")
    said = line_of(status(run, cluster.address), "chain")
    assert said.endswith("run the same command again to resume; jobs that it started go on, but nothing follows them")
    cluster.dashboard.jobs[job] |= {**FAILED, "message": failure(1, "report: skipped, needs vggface, which failed")}
    chain(run, job, ended=time.time() - 30, how="failed: vggface: no face")
    said = line_of(status(run, cluster.address), "chain")
    assert re.fullmatch(r"driver of the detached chain: failed 30\.\d s ago: vggface: no face", said)


def test_a_dead_driver_is_shown_without_advice_once_all_is_done(cluster: Cluster, run: str) -> None:
    for stage in [*stages.STAGES][1:]:
        commit(run, stage, preset("smoke"))
    cluster.dashboard.add_job(run, "chain", "FAILED", **KILLED)
    said = line_of(status(run, cluster.address), "chain")
    assert re.fullmatch(r"driver of the detached chain: died \(killed by SIGKILL\) 30\.\d s ago", said)


PROGRAM = """
import sys, time
from arspm.runs import drivers, lease
holder = lease.Holder("session_1", "http://head:8265", "ann@host")
with lease.hold(sys.argv[1], holder) as held, drivers.driving(sys.argv[1], "chain", holder, held, job=sys.argv[2]):
    print("driving", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("job", ["arspm-chain-7", ""])
def test_a_driver_s_death_is_seen_from_storage_alone_and_under_a_new_head(cluster: Cluster, run: str, job: str) -> None:
    command = [sys.executable, "-c", PROGRAM, run, job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        subject = "driver of the detached chain" if job else "driver in the foreground"
        lines = status(run, None)
        assert re.fullmatch(
            rf"{subject}: running for \d\.\d s, last sign of life \d\.\d s ago", line_of(lines, "chain")
        )
        assert lines[-2].startswith("ann@host on the cluster at http://head:8265 works on this run since")
        assert lines[-1] == (
            "no cluster was asked: start one with `arspm up`, or pass --ray-address; this is what storage shows"
        )
        process.kill()
        process.wait()
    died = rf"{subject}: died, last sign of life \d\.\d s ago"
    advice = ": run the same command again to resume"
    lines = status(run, None)
    assert re.fullmatch(died + advice, line_of(lines, "chain"))
    assert re.search(r"worked on this run from .* UTC; last sign of life at .* UTC$", lines[-2])
    gone = "; its job was submitted to http://head:8265, and the cluster that was asked does not know it" if job else ""
    assert re.fullmatch(died + gone + advice, line_of(status(run, cluster.address), "chain"))


def test_a_driver_on_another_machine_is_dead_when_its_lease_is_silent(run: str) -> None:
    with lease.hold(run, HERE) as held:
        held._ended.set()  # no further beat
        chain(run, "arspm-chain-7", member=held.member)
        [name] = [name for name in storage.files_below(f"{run}/{lease.FOLDER}") if held.member in name]
        file = Path(run, lease.FOLDER, name)
        file.write_text(json.dumps({"beats": 1, "process": "another boot/pid:[4026531836]/7/7"}))
        assert "running for" in line_of(status(run, None), "chain")
        os.utime(file, (time.time() - 600,) * 2)
        said = line_of(status(run, None), "chain")
        assert said.startswith("driver of the detached chain: died, last sign of life 10 min 00 s ago: run the same")


def test_a_driver_that_has_not_begun_and_one_whose_submission_failed(run: str) -> None:
    chain(run, "arspm-chain-7")
    said = line_of(status(run, None), "chain")
    assert said == ("driver of the detached chain: submitted 1 min 30 s ago, not begun as far as storage shows")
    with pytest.raises(OSError, match="too large"):
        with drivers.submitting(run, "chain", HERE, "arspm-chain-8"):
            raise OSError("the package is too large\nsecond line")
    said = line_of(status(run, None), "chain")
    assert re.fullmatch(r"driver of the detached chain: failed \d\.\d s ago: the package is too large", said)


def test_the_newest_driver_is_shown(cluster: Cluster, run: str) -> None:
    """A foreground chain after a detached one that died, and the other way around."""
    cluster.dashboard.add_job(run, "chain", "FAILED", age=300, **KILLED)
    chain(run, "", ended=time.time() - 30, how="stopped")
    said = line_of(status(run, cluster.address), "chain")
    assert re.fullmatch(r"driver in the foreground: stopped 30\.\d s ago: run the same command again to resume", said)
    chain(run, "", ended=time.time() - 30, how=drivers.FINISHED)
    assert not [line for line in status(run, cluster.address) if line.startswith("chain")]
    cluster.dashboard.add_job(run, "chain", "RUNNING", age=2)
    assert "driver of the detached chain: running" in line_of(status(run, cluster.address), "chain")


# --- ablations and sweeps


def test_an_ablation_shows_its_models_and_its_page(cluster: Cluster, run: str) -> None:
    models = [
        Planned(
            name=f"neutral-{seed}",
            run=f"_variants/neutral-{seed}",
            fingerprints=dict.fromkeys(("encoder", "evaluate"), f"{seed}" * 64),
        )
        for seed in range(4)
    ]
    for stage in ("encoder", "evaluate"):
        variant = stages.variant_run(run, "neutral-0")
        stages.commit(variant, stage, fingerprint="0" * 64, config=preset("smoke"), files={}, seconds=1.0, figures={})
    job = cluster.dashboard.add_job(run, "ablation", "RUNNING")
    driver = Driver(name="ablation", **HERE._asdict(), job=job, since=time.time() - 60, models=models)
    drivers.write(run, driver)
    add = cluster.dashboard.add_job
    add(run, "encoder-neutral-0", "SUCCEEDED")
    add(run, "encoder-neutral-1", "RUNNING", log='@progress {"current": 20, "total": 40, "unit": "steps"}\n')
    add(run, "encoder-neutral-2", "FAILED", message=failure(1, "error: encoder: loss is not finite"), **FAILED)
    lines = status(run, cluster.address)
    head = "1 of 4 models done; driver of the detached ablation: running for 1 min 00 s"
    assert line_of(lines, "ablation") == head
    assert [re.sub(r"\d+\.\d s ago", "X ago", line) for line in lines if line.startswith("  ")] == [
        "  encoder-neutral-1 running for 1 min 00 s: 20 of 40 steps",
        "  encoder-neutral-2 failed X ago: encoder: loss is not finite",
    ]
    assert not [line for line in lines if line.startswith("encoder-neutral")]
    storage.write_bytes(f"{run}/ablation/index.html", b"a page")
    assert (
        line_of(status(run, cluster.address), "ablation")
        == f"{head}; page of an earlier ablation: {run}/ablation/index.html"
    )
    cluster.dashboard.jobs[job] |= {"status": "FAILED", "end_time": int(time.time() * 1000), **FAILED}
    # By a clock that is ahead, so that it is 0.0 s ago on a busy machine, too.
    drivers.write(run, driver.model_copy(update={"ended": time.time() + 60, "how": "finished without some models"}))
    said = line_of(status(run, None), "ablation")
    assert re.fullmatch(
        "1 of 4 models done; driver of the detached ablation: finished without some models 0.0 s ago; "
        f"page: {run}/ablation/index.html",
        said,
    )


def test_a_page_of_a_study_from_before_there_were_records(run: str) -> None:
    storage.write_bytes(f"{run}/study-prior/index.html", b"a page")
    assert line_of(status(run, None), "study-prior") == f"page: {run}/study-prior/index.html"


def write_sweep(run: str, name: str, state: str, **counts: int) -> None:
    storage.write_json(f"{run}/sweeps/{name}/sweep.json", {"space": {}, "metric": "m", "mode": "min", "config": {}})
    every = {"planned": 16, "waiting": 0, "running": 0, "finished": 0, "stopped": 0, "failed": 0, **counts}
    content = {"state": state, "sweep": {"metric": "val_l2"}, "counts": every, "eta_seconds": 90.0}
    content |= {"trials": [{"number": 4, "best": 12.5}], "best": 4}
    storage.write_json(f"{run}/sweeps/{name}/results.json", content)


def test_a_sweep_is_running_interrupted_or_finished(cluster: Cluster, run: str) -> None:
    best = "best val_l2 12.5 in trial 4"
    for name in ("A.b", "a-b", "killed", "over"):
        state = "finished" if name == "over" else "running"
        write_sweep(run, name, state, finished=3, failed=1, running=0 if name == "over" else 2)
    add = cluster.dashboard.add_job
    add(run, "sweep-a-b", "RUNNING", metadata={"sweep": "A.b"})
    add(run, "sweep-a-b", "PENDING", age=3, metadata={"sweep": "a-b"})
    add(run, "sweep-killed", "FAILED", metadata={"sweep": "killed"}, **KILLED)
    lines = status(run, cluster.address)
    assert line_of(lines, r"sweep A.b") == (
        f": running for 1 min 00 s, 3 finished, 1 failed, 2 running of 16 trials; {best}; about 1 min 30 s left"
    )
    assert line_of(lines, "sweep a-b").startswith(": pending for 3.")
    assert re.fullmatch(
        rf": interrupted, 3 finished, 1 failed, 2 interrupted of 16 trials; {best}; its job died \(killed by SIGKILL\) "
        r"30\.\d s ago: run the same command again to resume",
        line_of(lines, "sweep killed"),
    )
    assert line_of(lines, "sweep over") == f": finished, 3 finished, 1 failed of 16 trials; {best}"
    assert not [line for line in lines if line.startswith("sweep-")]


def test_a_sweep_on_another_cluster_is_known_by_its_lease(run: str) -> None:
    write_sweep(run, "mine", "running", running=2)
    said = line_of(status(run, None), "sweep mine")
    trials = "2 interrupted of 16 trials; best val_l2 12.5 in trial 4"
    assert said == f": interrupted, {trials}: run the same command again to resume"
    with lease.hold(f"{run}/sweeps/mine", HERE):
        said = line_of(status(run, None), "sweep mine")
    assert said.startswith(": running, 2 running of 16 trials; best val_l2 12.5 in trial 4; ann@host on the cluster at")


# --- logs and cancel


def test_logs_are_found_by_stage_driver_or_sweep(
    cluster: Cluster, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add = cluster.dashboard.add_job
    add(run, "encoder", "FAILED", log="old\n", age=90)
    add(run, "encoder", "RUNNING", log="new\n")
    add(run, "chain", "RUNNING", log="driver\n")
    add(run, "sweep-a-b", "RUNNING", log="trials\n", metadata={"sweep": "A.b"})
    for name, log in {"encoder": "new", "chain": "driver", "A.b": "trials", "sweep-a-b": "trials"}.items():
        assert arspm("logs", run, name, "--ray-address", cluster.address) == 0
        assert capsys.readouterr().out == f"{log}\n"
    assert arspm("logs", run, "decoder", "--ray-address", cluster.address) == 1
    assert capsys.readouterr().err == (
        f"error: {run}: the cluster knows no job of stage 'decoder'; it knows encoder, chain, A.b\n"
    )


def test_following_a_log_ends_with_the_job(cluster: Cluster, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = cluster.dashboard.add_job(
        run, "encoder", "FAILED", log="one\ntwo\n", message=failure(1, "error: no"), **FAILED
    )
    assert job in cluster.dashboard.jobs
    assert arspm("logs", run, "encoder", "--follow", "--ray-address", cluster.address) == 0
    assert capsys.readouterr() == ("one\ntwo\n", "encoder: failed: no\n")


def test_cancel_stops_only_what_is_named(cluster: Cluster, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard = cluster.dashboard
    names = ["chain", "encoder", "oracle", "sweep-a-b", "sweep-a-b"]
    jobs = [
        dashboard.add_job(
            run, name, "RUNNING", metadata={"sweep": "A.b"} if n == 3 else {"sweep": "a-b"} if n == 4 else {}
        )
        for n, name in enumerate(names)
    ]
    other = dashboard.add_job("another run", "encoder", "RUNNING")
    dashboard.add_job(run, "report", "SUCCEEDED")

    def cancel(*words: str) -> tuple[int, str, str]:
        status = arspm("cancel", run, *words, "--ray-address", cluster.address)
        return status, *capsys.readouterr()

    running = "running: chain, encoder, oracle, A.b, a-b"
    assert cancel("--stage", "report") == (1, "", f"error: {run}: no job 'report' is running; {running}\n")
    assert cancel("--sweep", "encoder") == (1, "", f"error: {run}: no sweep 'encoder' is running; {running}\n")
    assert cancel("--stage", "oracle", "--sweep", "none")[0] == 1
    assert all(dashboard.jobs[job]["status"] == "RUNNING" for job in jobs), "all or nothing"
    assert cancel("--stage", "encoder", "--sweep", "A.b") == (
        0,
        f"encoder: stopped ({jobs[1]})\nsweep-a-b: stopped ({jobs[3]})\n",
        "",
    )
    states = [dashboard.jobs[job]["status"] for job in jobs]
    assert states == ["RUNNING", "STOPPED", "RUNNING", "STOPPED", "RUNNING"]
    assert cancel()[0] == 0
    assert [dashboard.jobs[job]["status"] for job in jobs] == ["STOPPED"] * 5
    assert dashboard.jobs[other]["status"] == "RUNNING"
    assert cancel() == (0, "no job is running\n", "")
    with lease.hold(run, HERE):
        assert cancel()[1].startswith(
            "no job is running; ann@host on the cluster at http://head:8265 works on this run"
        )


# --- runs that do not exist


@pytest.mark.parametrize(
    "command",
    [
        ["status", "RUN"],
        ["logs", "RUN", "encoder", "--ray-address", "ADDRESS"],
        ["logs", "RUN", "loss_weights", "--trial", "3"],
        ["cancel", "RUN", "--ray-address", "ADDRESS"],
        ["cancel", "RUN", "--sweep", "loss_weights", "--trial", "3"],
        ["report", "RUN"],
        ["drops", "RUN"],
        ["prune", "RUN"],
        ["dashboard", "RUN"],
        ["sweep", "loss_weights", "--run", "RUN"],
        ["sweep", "--run", "RUN", "--export-best", "best.json"],
        ["ablation", "--run", "RUN"],
        ["pictures", "--run", "RUN", "--out", "out"],
        ["generate", "--run", "RUN", "--out", "out", "a.wav"],
    ],
)
def test_a_mistyped_run_is_an_error_that_names_the_nearest(
    cluster: Cluster, run: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mistyped = run.replace("one", "oen")
    words = {"RUN": mistyped, "ADDRESS": cluster.address}
    assert arspm(*(words.get(word, word) for word in command)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: {mistyped}: there is no such run: did you mean {run}?\n"
