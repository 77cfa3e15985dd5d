"""`arspm runs` and `arspm sweeps`, and `--json` of status and drops, on folders and on a real S3 server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arspm import storage
from arspm.config.presets import preset
from arspm.corpus import tables
from arspm.corpus.drops import DROPPED
from arspm.runs import drivers, lease, stages
from arspm.runs.find import MAX_RUNS, runs_below
from arspm.runs.usage import Nodes, Requested
from jobs.run_list import describe_runs
from tests.conftest import Bucket
from tests.jobs.conftest import arspm_in_process as run_here
from tests.jobs.conftest import encoded_run, plan_and_save  # noqa: F401
from tests.s3_servers import connected_to

NODES = Nodes(node_type="gpu", instance="g5.4xlarge", market="on demand", number=2, usd_per_hour=3.248, prices="today")
USED = Requested(workers=2, least_workers=2, cpus=8, gpus=2, nodes=NODES).used(1800.0)  # a GPU-hour, 1.624 USD
HERE = lease.Holder("session_1", "http://head:8265", "ann@host")


def finish(run: str, names: tuple[str, ...], **figures: Any) -> str:
    for stage in names:
        own = figures if stage in ("preprocess", "evaluate") else {}
        usage = None if not stages.STAGES[stage].resources else USED
        stages.commit(
            run, stage, fingerprint="f" * 64, config=preset("smoke"), files={}, seconds=1800.0, figures=own, usage=usage
        )
    return run


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert run_here(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_runs_are_found_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = f"{tmp_path}/runs"
    finish(f"{root}/all", tuple(stages.STAGES), num_clips=28, cos_degrees=26.21)
    finish(f"{root}/team/ann/v1.2", ("preprocess",), num_clips=7)
    storage.write_bytes(f"{root}/all/ablation/index.html", b"page")
    storage.write_bytes(f"{root}/all/big.bin", b"x" * 3_000_000)
    finish(stages.variant_run(f"{root}/all", "neutral-0"), ("encoder",))  # inside a run: not listed
    storage.write_bytes(f"{root}/bad/preprocess/_SUCCESS.json", b"{")
    storage.write_bytes(f"{root}/notes/readme.txt", b"no run")
    found = printed(capsys, "runs", root)
    assert found["complete"] is True
    by_name = {each["run"].removeprefix(f"{root}/"): each for each in found["runs"]}
    assert sorted(by_name) == ["all", "bad", "team/ann/v1.2"]
    done, new = by_name["all"], by_name["team/ann/v1.2"]
    assert (done["state"], done["preset"], done["num_clips"], done["cos_degrees"]) == ("done", "smoke", 28, 26.21)
    assert done["ablations"] == ["ablation"]
    assert done["bytes"] == sum(file.stat().st_size for file in Path(root, "all").rglob("*") if file.is_file())
    assert (done["seconds"], done["gpu_hours"], done["usd"]) == (18_000.0, 8.0, pytest.approx(8 * 1.624)), (
        "10 stages, 8"
    )
    assert (new["state"], new["stages_done"]) == ("incomplete", ["preprocess"])
    assert "_SUCCESS.json" in by_name["bad"]["error"]
    assert run_here("runs", root) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " 10/10 " in lines["all"]
    assert re.search(r" 26\.2 +5\.00 +8\.00 +12\.99 ", lines["all"])
    assert lines["bad"].split()[1] == "unreadable"
    assert run_here("runs", f"{root}/all") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2, "a run itself"
    assert run_here("runs", f"{root}/notes") == 0
    assert "no run here" in capsys.readouterr().out


def test_the_listing_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_RUNS + 5):
        Path(tmp_path, f"run-{number:03d}", "configs").mkdir(parents=True)
    found, complete = runs_below(str(tmp_path))
    assert (len(found), complete) == (MAX_RUNS, False)
    Path(tmp_path, "a", "b", "c", "d", "configs").mkdir(parents=True)
    assert runs_below(f"{tmp_path}/a") == ([f"{tmp_path}/a/b/c/d"], True)
    assert runs_below(f"{tmp_path}") != runs_below(f"{tmp_path}/a")
    size = storage.folder_size(str(tmp_path), max_files=0)
    assert size.complete, "there is no file"
    for number in range(4):
        Path(tmp_path, f"{number}").write_bytes(b"xx")
    assert storage.folder_size(str(tmp_path), max_files=3)[:2] == (3, 6)
    assert not storage.folder_size(str(tmp_path), max_files=3).complete


def test_runs_in_a_bucket_and_one_that_runs(seaweed_bucket: Bucket) -> None:
    root = f"{seaweed_bucket.uri}/listed"
    with connected_to(seaweed_bucket.env):
        finish(f"{root}/one", ("preprocess", "vggface"), num_clips=5)
        finish(f"{root}/x/two", ("preprocess",))
        with lease.hold(f"{root}/one", HERE) as held, drivers.driving(f"{root}/one", "chain", HERE, held):
            one, two = describe_runs(runs_below(root)[0])
        assert (one["run"], one["state"], one["num_clips"]) == (f"{root}/one", "running", 5)
        assert one["bytes"] > 0
        assert one["changed"] is not None
        assert two["state"] == "incomplete"
        assert storage.folder_size(root).num_bytes == sum(storage.files_below(root).values())


def test_status_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = finish(f"{tmp_path}/one", ("preprocess",), num_clips=28, num_dropped=2)
    record = drivers.Driver(name="chain", **HERE._asdict(), since=1.0, ended=2.0, how="stopped")
    drivers.write(run, record)
    found = printed(capsys, "status", run)
    assert found["run"] == run
    assert (found["done"], found["visible"], found["cluster"]) == (False, True, None)
    assert "no cluster was asked" in found["note"]
    stage = found["stages"]["preprocess"]
    assert (stage["state"], stage["seconds"], stage["figures"]["num_clips"]) == ("done", 1800.0, 28)
    assert stage["text"].startswith("done in 30 min 00 s on 2 GPUs for 1.62 USD; 28 clips, 2 dropped")
    assert found["spent"] == {
        "seconds": 1800.0,
        "gpu_hours": 1.0,
        "usd": pytest.approx(1.624),
        "prices": ["today"],
        "unpriced": {},
    }
    assert found["stages"]["encoder"] | {"text": ""} == {
        "state": "not done",
        "outdated": False,
        "seconds": None,
        "usage": None,
        "figures": {},
        "fingerprint": None,
        "progress": None,
        "text": "",
    }
    [driver] = found["drivers"]
    assert (driver["name"], driver["how"], driver["ended"]) == ("chain", "stopped", 2.0)
    assert run_here("status", f"{tmp_path}/nowhere", "--json") == 1


def test_sweeps_are_listed(encoded_run: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert run_here("sweeps", encoded_run) == 0
    assert capsys.readouterr().out == f"{encoded_run}: no sweep\n"
    folder, _ = plan_and_save(encoded_run)
    [found] = printed(capsys, "sweeps", encoded_run)
    assert (found["name"], found["state"], found["best"]) == ("loss_weights", "interrupted", None)
    assert found["page"] == f"{folder}/index.html"
    assert printed(capsys, "status", encoded_run)["sweeps"] == [found]


def test_drops_as_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(f"{tmp_path}/one", ("preprocess",))
    rows = [
        {"row": 3, "clip_id": "a_1", "reason": "no_face", "detail": 'line 3: "none"'},
        {"row": 4, "clip_id": None, "reason": "unreadable", "detail": "line 4: \u2026"},
    ]
    tables.write_table(f"{stages.corpus(run)}/{DROPPED}", pa.Table.from_pylist(rows), 10)
    assert run_here("drops", run, "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
