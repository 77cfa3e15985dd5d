"""`arspm gc`, on a folder and on a real S3 server: what it finds, keeps, refuses and removes."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from arspm import storage
from arspm.config import Config, dump, override
from arspm.config.presets import preset
from arspm.runs import lease, stages
from arspm.training import checkpoint
from jobs import garbage
from jobs.submission import CONFIGS
from tests.conftest import Bucket
from tests.jobs.conftest import arspm_in_process as run_here
from tests.s3_servers import connected_to

CONFIG = preset("smoke")
HERE = lease.Holder("session_1", "http://head:8265", "ann@host")
OLD = "train-0123456789ab"  # of settings that no configuration of the run has


def training(run: str, stage: str, config: Config = CONFIG) -> str:
    needs = {need: stages.success(run, need).fingerprint for need in stages.STAGES[stage].needs}  # type: ignore[union-attr]
    return stages.training_name(run, stage, stages.fingerprint(config, stage, needs))


@pytest.fixture(params=["folder", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A run whose decoder is done, and whose encoder was stopped in its training. Nobody works on it."""
    if request.param == "folder":
        yield fill(f"{tmp_path}/runs/one")
        return
    bucket: Bucket = request.getfixturevalue("seaweed_bucket")
    with connected_to(bucket.env):
        yield fill(f"{bucket.uri}/gc-{time.time():.0f}/one")


def fill(run: str) -> str:
    def write(path: str, size: int = 10) -> dict[str, object]:
        return storage.write_bytes(f"{run}/{path}", b"x" * size)

    for stage in ("preprocess", "vggface", "gender", "features", "prior", "decoder"):
        files = {f"{stage}/model.safetensors": write(f"{stage}/model.safetensors")} if stage == "decoder" else {}
        stages.commit(run, stage, fingerprint=stage[0] * 64, config=CONFIG, files=files, seconds=1.0, figures={})
    storage.write_bytes(f"{run}/{CONFIGS}/one.json", dump(CONFIG).encode())
    write("corpus/train/speech/shard-00000.parquet")
    write("decoder/notes.txt")  # of the user
    write(f"decoder/{OLD}/checkpoint_000001/{checkpoint.PROGRESS}", 1000)
    current = training(run, "encoder")
    for number in (1, 2):
        write(f"encoder/{current}/checkpoint_00000{number}/model.safetensors", 500)
    write(f"encoder/{current}/checkpoint_000001/{checkpoint.PROGRESS}")
    write(f"encoder/{current}/checkpoint_manager_snapshot.json")
    write(f"encoder/{OLD}/checkpoint_000001/{checkpoint.PROGRESS}", 700)
    write("encoder/history.json")
    write("evaluate/metrics.json")
    write("corpus/.partial-abc", 30)
    for path in ("encoder/live.json", "encoder/epochs/00001.jpg", "report/index.html"):  # of the live page
        write(path)
    return run


def expected(run: str) -> dict[str, str]:
    current = training(run, "encoder")
    return {
        f"decoder/{OLD}/checkpoint_000001/progress.json": garbage.FINISHED_TRAINING,
        f"encoder/{current}/checkpoint_000002/model.safetensors": garbage.PARTIAL_CHECKPOINT,
        f"encoder/{OLD}/checkpoint_000001/progress.json": garbage.ORPHANED_TRAINING,
        "encoder/history.json": garbage.STOPPED_STAGE,
        "evaluate/metrics.json": garbage.STOPPED_STAGE,
        "corpus/.partial-abc": garbage.TEMPORARY,
    }


def found(run: str) -> dict[str, str]:
    return {path: each.what for each in garbage.find_garbage(run) for path in each.files}


def test_exactly_what_nothing_needs_is_removed(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, before = expected(run), storage.files_below(run)
    assert found(run) == wanted
    assert run_here("gc", run, "--yes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("removed 6 files, 0.000 GB")
    assert {line.rpartition(": ")[2] for line in lines[:-1]} == set(wanted.values())
    after = {path for path in storage.files_below(run) if not path.startswith(lease.FOLDER)}
    assert after == set(before) - set(wanted)
    assert run_here("gc", run) == 0
    assert capsys.readouterr().out == f"{run}: nothing to remove\n"
    assert found(run) == {}
    if not storage.is_remote(run):
        assert not Path(run, "decoder", OLD).exists(), "no empty folder is left"


def test_another_configuration_of_the_run_may_resume_its_own_training(run: str) -> None:
    other = override(CONFIG, {"loss.lambda1": 0.5})
    path = f"encoder/{training(run, 'encoder', other)}/checkpoint_000001/{checkpoint.PROGRESS}"
    storage.write_bytes(f"{run}/{path}", b"x")
    assert found(run)[path] == garbage.ORPHANED_TRAINING
    storage.write_bytes(f"{run}/{CONFIGS}/two.json", dump(other).encode())
    assert path not in found(run)
    storage.remove(f"{run}/{CONFIGS}")
    assert garbage.ORPHANED_TRAINING not in found(run).values(), "nobody knows what could be resumed"


def test_a_run_on_which_somebody_works_is_left_alone(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    pieces, before = garbage.find_garbage(run), storage.files_below(run)
    with lease.hold(run, HERE):
        assert run_here("gc", run, "--yes") == 0
        said = capsys.readouterr().out
        assert f"{run}: left alone, because ann@host on the cluster at http://head:8265 works on this run" in said
        assert "nothing to remove" in said
        # Somebody begins between the question and the removal.
        with pytest.raises(lease.LeaseHeld):
            garbage.remove(run, pieces)
    assert {path for path in storage.files_below(run) if not path.startswith(lease.FOLDER)} == set(before)


def test_what_has_changed_since_the_question_is_kept(run: str) -> None:
    pieces = garbage.find_garbage(run)
    stages.commit(
        run,
        "evaluate",
        fingerprint="e" * 64,
        config=CONFIG,
        files={"evaluate/metrics.json": storage.describe(f"{run}/evaluate/metrics.json")},
        seconds=1.0,
        figures={},
    )
    with pytest.raises(ValueError, match=r"evaluate/metrics\.json has changed meanwhile; nothing was removed"):
        garbage.remove(run, pieces)
    assert storage.exists(f"{run}/encoder/history.json")


def test_variants_sweeps_and_dead_members_of_a_lease(tmp_path: Path) -> None:
    run = fill(f"{tmp_path}/one")
    variant = "_variants/neutral-0"
    model = storage.write_bytes(f"{run}/{variant}/encoder/model.safetensors", b"model")
    stages.commit(
        f"{run}/{variant}",
        "encoder",
        fingerprint="v" * 64,
        config=CONFIG,
        files={"encoder/model.safetensors": model},
        seconds=1.0,
        figures={},
    )
    storage.write_bytes(f"{run}/{variant}/encoder/{OLD}/checkpoint_000003/{checkpoint.PROGRESS}", b"x")
    sweep = f"{run}/sweeps/mine"
    storage.write_json(
        f"{sweep}/sweep.json", {"space": {}, "metric": "m", "mode": "min", "config": {}, "num_trials": 2}
    )
    for number, state in ((0, "finished"), (1, "interrupted")):
        record = {"number": number, "sample": {}, "changes": {}, "state": state}
        storage.write_json(f"{sweep}/trials/{number:05d}.json", record)
        storage.write_bytes(f"{sweep}/trials/{number:05d}/step-00000010/{checkpoint.PROGRESS}", b"x")
    member = Path(run, lease.FOLDER, "1-0123456789ab.json")
    storage.write_json(f"{run}/{lease.FOLDER}/1.json", {**HERE._asdict(), "since": 1.0})
    member.write_text(json.dumps({"beats": 3, "process": "another boot/pid:[4026531836]/7/7"}))
    assert garbage.held_by(run), "it has just beaten"
    os.utime(member, (time.time() - 600,) * 2)
    assert not garbage.held_by(run)
    more = set(found(run).items()) - set(expected(run).items())
    assert more == {
        (f"{variant}/encoder/{OLD}/checkpoint_000003/progress.json", garbage.FINISHED_TRAINING),
        ("sweeps/mine/trials/00000/step-00000010/progress.json", garbage.ENDED_TRIAL),
        (f"{lease.FOLDER}/{member.name}", garbage.EXPIRED_LEASE),
    }


def test_no_is_an_answer_and_there_must_be_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fill(f"{tmp_path}/one")
    before = storage.files_below(run)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(typer.Abort):
        run_here("gc", run)
    assert storage.files_below(run) == before
    assert run_here("gc", f"{tmp_path}/nowhere", "--yes") == 1
