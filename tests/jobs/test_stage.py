"""A stage's program: its upstream stages, its fingerprint, when it has nothing to do, and its error messages."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.media.datasets import read_dataset
from arspm.runs import inventory, lease, stages
from arspm.runs.lease import Holder
from cluster.errors import ClusterError
from jobs.chain import submit_run
from jobs.stage import expected_fingerprint, main

REPO = Path(__file__).parents[2]
FINGERPRINT = "f" * 64


def commit(run: Path, stage: str, config: Config, fingerprint: str = FINGERPRINT, **figures: Any) -> None:
    stages.commit(str(run), stage, fingerprint=fingerprint, config=config, files={}, seconds=0.0, figures=figures)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration with clips, whose bytes no test decodes."""
    (tmp_path / "clips").mkdir()
    for name in "aceg":  # at least one video for each split, and two for train
        (tmp_path / "clips" / f"{name}_0.0_6.0.mp4").write_bytes(b"clip")
    (tmp_path / "clips.csv").write_text("".join(f"{name},0.0,6.0,0.5,0.5\n" for name in "aceg"))
    return override(preset("smoke"), {"data.csv": f"{tmp_path}/clips.csv", "data.clips": f"{tmp_path}/clips"})


@pytest.fixture
def start(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that runs a stage's program in this process, with the test's own work."""
    (tmp_path / "config.json").write_text(configuration.dump(config))

    def run(stage: str, work: Any = None, **changed: str | None) -> None:
        usual = {"run": str(tmp_path), "config": str(tmp_path / "config.json"), "fingerprint": FINGERPRINT}
        words = [word for name, value in (usual | changed).items() if value for word in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", [f"jobs.{stage}", *words])
        main(stage, work or pytest.fail)

    return run


def work_once(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"a": storage.write_bytes(storage.join(run, "a"), b"1")}, {"n": 1}


def test_a_stage_refuses_to_run_before_its_upstream_stages(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    with pytest.raises(SystemExit) as ended:
        start("features")
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert said[-1] == f"error: features: {tmp_path}/vggface has no _SUCCESS.json: run stage vggface first"


def test_a_stage_that_is_done_does_nothing(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    before = (tmp_path / "preprocess" / stages.SUCCESS).stat().st_mtime_ns
    start("preprocess")
    assert capsys.readouterr().out == "preprocess is done already\n"
    assert (tmp_path / "preprocess" / stages.SUCCESS).stat().st_mtime_ns == before


def test_a_stage_does_not_build_on_files_that_are_not_those_of_their_manifest(
    start: Callable[..., Any], config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "corpus/train/faces/shard-00000.parquet"
    files = {path: storage.write_bytes(f"{tmp_path}/{path}", b"shard")}
    stages.commit(
        str(tmp_path), "preprocess", fingerprint=FINGERPRINT, config=config, files=files, seconds=0.0, figures={}
    )
    (tmp_path / path).write_bytes(b"another")
    with pytest.raises(SystemExit):
        start("gender", fingerprint=None)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: gender: {tmp_path}/{path}: not the file that {tmp_path}/preprocess/_SUCCESS.json")
    assert "it has 7 bytes instead of 5" in said
    (tmp_path / path).write_bytes(b"shard")
    start("gender", work_once, fingerprint=None)


def test_a_manifest_says_who_submitted_the_stage(start: Callable[..., Any], config: Config, tmp_path: Path) -> None:
    told = {"command": "arspm submit --run r", "user": "someone", "host": "laptop"}
    start("preprocess", work_once, fingerprint=None, **{"submitted-by": json.dumps(told)})
    found = json.loads((tmp_path / "preprocess" / stages.SUCCESS).read_text())["provenance"]
    assert {name: found[name] for name in told} == told
    assert set(found) == {*told, "commit", "clean"}


def test_a_stage_of_a_run_on_which_another_cluster_works_removes_nothing(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    checkpoint = tmp_path / "preprocess" / "train-0" / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"1")
    holder = Holder("session_a", "http://a:8265")
    with lease.hold(str(tmp_path), holder):
        with pytest.raises(SystemExit):
            start("preprocess", fingerprint=None)
        assert "error: preprocess: " in (errors := capsys.readouterr().err)
        assert "the cluster at http://a:8265 works on this run since" in errors
        assert checkpoint.exists()
        start("preprocess", work_once, fingerprint=None, cluster=json.dumps(holder._asdict()))  # the same cluster's job
    assert stages.success(str(tmp_path), "preprocess")


TAKEN_OVER = """
import json, sys, time
from pathlib import Path
from arspm import config as configuration
from arspm.runs import lease
from jobs.stage import readable_end, run_stage

run = Path(sys.argv[1])
lease.BEAT_SECONDS = 0.1

def work(config, run_uri, fingerprint):
    claim = json.loads((run / lease.FOLDER / "1.json").read_text())
    (run / lease.FOLDER / "2.json").write_text(json.dumps(claim | {"cluster": "session_b"}))
    time.sleep(60)  # interrupted
    return {}, {}

with readable_end("preprocess"):
    run_stage("preprocess", work, str(run), configuration.load((run / "config.json").read_bytes()))
"""


def test_a_stage_whose_lease_was_taken_over_ends_without_a_manifest(config: Config, tmp_path: Path) -> None:
    """In a process of its own, because the loss of a lease interrupts the process."""
    (tmp_path / "config.json").write_text(configuration.dump(config))
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_OVER, str(tmp_path)], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: preprocess: {tmp_path}: the cluster at")
    assert done.stderr.endswith(" took over this run, so this program ends\n")
    assert stages.success(str(tmp_path), "preprocess") is None


def test_another_fingerprint_replaces_the_stage_and_all_its_files(
    start: Callable[..., Any], config: Config, tmp_path: Path
) -> None:
    commit(tmp_path, "preprocess", preset("smoke"))
    (tmp_path / "preprocess" / "old").touch()
    expected = expected_fingerprint("preprocess", str(tmp_path), config)

    def work(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
        assert fingerprint == expected
        assert not (tmp_path / "preprocess" / stages.SUCCESS).exists()  # while the stage runs
        return work_once(config, run, fingerprint)

    start("preprocess", work, fingerprint=expected)
    done = stages.done(str(tmp_path), "preprocess", expected)
    assert done is not None
    assert done.files == {"a": storage.describe_bytes(b"1")}
    assert not (tmp_path / "preprocess" / "old").exists()


def test_an_invented_fingerprint_is_refused_before_anything_is_removed(
    start: Callable[..., Any], config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tmp_path, "preprocess", config)
    commit(tmp_path, "gender", config)
    (tmp_path / "gender" / "model.safetensors").write_bytes(b"weights")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for stage in ("preprocess", "gender"):
        with pytest.raises(SystemExit) as ended:
            start(stage, fingerprint="e" * 64)
        assert ended.value.code == 1
        expected = expected_fingerprint(stage, str(tmp_path), config, "e" * 64)
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: {stage}: fingerprint eeeeeeeeeeee does not belong to this configuration and the stages that are "
            f"done in {tmp_path} (expected {expected[:12]}): the configuration, the clips or an upstream stage has "
            "changed; run `arspm submit` again, or leave --fingerprint out"
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_expected_fingerprints_are_those_of_the_chain(config: Config, tmp_path: Path) -> None:
    """In a run of the chain and in a variant of it, whose upstream stages are the run's."""
    by_stage = stages.fingerprints(config, inventory.find_inputs(config).hash)
    variant = stages.variant_run(str(tmp_path), "neutral-0")
    for stage, fingerprint in by_stage.items():
        assert expected_fingerprint(stage, str(tmp_path), config) == fingerprint
        if stage == "encoder":
            assert expected_fingerprint(stage, variant, config) == fingerprint
        commit(tmp_path, stage, config, fingerprint)


def test_a_job_reads_the_listing_of_its_submit(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists the clips itself, once, if there is none of its fingerprint, or an old one."""
    listed = []
    original = storage.list_files
    monkeypatch.setattr(storage, "list_files", lambda uri: (listed.append(uri), original(uri))[1])
    run, clips = f"{tmp_path}/run", f"{tmp_path}/clips"
    with pytest.raises(ClusterError):
        submit_run(config, run, "http://127.0.0.1:9", on_event=print)
    assert listed == [clips]
    fingerprint = stages.fingerprints(config, inventory.find_inputs(config).hash)["preprocess"]
    listed.clear()
    (tmp_path / "clips" / "b.mp4").write_bytes(b"after the submit")
    assert expected_fingerprint("preprocess", run, config, fingerprint) == fingerprint
    assert listed == []
    trees = inventory.read_inventory(run, config.data, fingerprint)
    assert trees is not None
    assert [row.clip_id for row in read_dataset(config.data, trees).rows] == [f"{name}_0.0_6.0" for name in "aceg"]
    assert listed == []

    always = override(config, {"data.inventory_minutes": 0})
    newer = expected_fingerprint("preprocess", run, always, fingerprint)
    assert newer != fingerprint
    assert listed == [clips]
    assert inventory.read_inventory(run, config.data, newer) is None  # a refused job stores nothing
    assert expected_fingerprint("preprocess", run, config, newer) == newer
    assert inventory.read_inventory(run, config.data, newer) is not None
    assert listed == [clips] * 2
    (tmp_path / "clips" / "c.mp4").write_bytes(b"new")
    assert expected_fingerprint("preprocess", run, config) != newer  # by hand, without a fingerprint, as by a submit
    assert listed == [clips] * 3


def test_without_a_fingerprint_the_expected_one_is_used(
    start: Callable[..., Any], config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("preprocess", work_once, fingerprint=None)
    expected = expected_fingerprint("preprocess", str(tmp_path), config)
    assert stages.done(str(tmp_path), "preprocess", expected) is not None
    start("preprocess", fingerprint=None)
    assert capsys.readouterr().out == "preprocess is done already\n"


def test_a_job_whose_upstream_stage_has_changed_writes_nothing(
    start: Callable[..., Any], config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it starts, and while it runs."""
    commit(tmp_path, "preprocess", config)
    outdated = expected_fingerprint("gender", str(tmp_path), config)
    (tmp_path / "preprocess" / stages.SUCCESS).unlink()
    commit(tmp_path, "preprocess", config, "e" * 64)
    with pytest.raises(SystemExit):
        start("gender", fingerprint=outdated)
    assert "an upstream stage has changed" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "gender").exists()

    def work(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
        (tmp_path / "preprocess" / stages.SUCCESS).unlink()
        commit(tmp_path, "preprocess", config, "d" * 64)
        return work_once(config, run, fingerprint)

    with pytest.raises(SystemExit):
        start("gender", work, fingerprint=None)
    assert "an upstream stage was run again meanwhile" in capsys.readouterr().err.splitlines()[-1]
    assert stages.success(str(tmp_path), "gender") is None


def test_a_missing_configuration_is_named(start: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start("preprocess", config="/nowhere.json")
    assert capsys.readouterr().err.splitlines()[-1] == "error: preprocess: /nowhere.json: no such file"


@pytest.mark.slow
@pytest.mark.ray
def test_a_loss_that_is_not_finite_stops_the_stage_with_the_step_and_the_clips(
    head: Any, write_corpus: Callable[..., tuple[str, Any]], tmp_path: Path
) -> None:
    """Immediately: an error of our own code is not retried, as a lost worker is."""
    _, rows = write_corpus({"train": (9, 8), "val": (4,)})
    config = override(preset("smoke"), {"data.storage": "waveform", "training.gender.learning_rate": "1e38"})
    (tmp_path / "config.json").write_text(configuration.dump(config))
    commit(tmp_path, "preprocess", config)
    fingerprint = expected_fingerprint("gender", str(tmp_path), config)
    command = [sys.executable, "-m", "jobs.gender", "--run", str(tmp_path), "--config", str(tmp_path / "config.json")]
    ended = subprocess.run(
        [*command, "--fingerprint", fingerprint],
        env={**os.environ, "RAY_ADDRESS": head.gcs_address, "PYTHONPATH": str(REPO)},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    lines = ended.stderr.strip().splitlines()
    [error] = [line for line in lines if line.startswith("error: ")]
    assert any(line.startswith("Traceback") for line in lines[: lines.index(error)])
    # Ray may still forward a worker's output.
    assert all(line.startswith("\x1b[36m(") for line in lines[lines.index(error) + 1 :])
    wanted = r"error: gender: the loss of step [1-9]\d* is (nan|-?inf); the batch's clips: (.*)\. Look at"
    found = re.match(wanted, error)
    assert found, error
    clips = found[2].split(", ")
    assert len(clips) == 8
    assert set(clips) <= set(rows["train"]["clip_id"])
    assert "lost a worker" not in ended.stderr
    assert not (tmp_path / "gender" / stages.SUCCESS).exists()
