"""`arspm doctor` and `arspm presets`: this machine, a folder, a real S3 server, and stores that lack something."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm import storage
from arspm.config import override
from arspm.config.presets import PRESETS, preset
from cluster.host import free_port
from jobs import doctor, doctor_store, verbosity
from tests import faulty_server as faults
from tests.conftest import Bucket
from tests.jobs.conftest import arspm_in_process as run_here
from tests.s3_servers import connected_to

NAMES = ["python", "torch", "driver", "cuda", "memory", "disk", "token", "head", "detector", "weights"]


def found(uri: str | None = None, name: str = "demo", address: str | None = None, **changes: str) -> dict[str, Any]:
    config = override(preset(name), {key.replace("__", "."): value for key, value in changes.items()})
    return {check.name: check for check in doctor.examine(config, uri, address)}


def test_every_check_has_a_line_with_state_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "runs" / "one"
    assert run_here("doctor", target, "--preset", "demo", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is True
    assert [check["name"] for check in result["checks"]] == [
        *NAMES,
        "store files",
        "store conditional writes",
        "store clock",
    ]
    assert all(check["text"] for check in result["checks"])
    assert all(check["advice"] for check in result["checks"] if check["state"] == "warn")
    assert not target.exists(), "nothing is left behind"
    assert run_here("doctor", "--preset", "demo", "--set", "face.detector=/no/such.onnx") == 1
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("fail")]
    assert line.split()[1] == "detector"
    assert "/no/such.onnx" in line


def test_what_a_preset_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "vgg.pth"
    assert found(name="paper", vggface__weights=str(weights))["weights"].state == "fail"
    weights.write_bytes(b"x")
    checks = found(name="paper", vggface__weights=str(weights))
    assert checks["weights"].state == "OK"
    assert checks["cuda"].state in ("OK", "warn")
    monkeypatch.setattr("cluster.host.memory_bytes", lambda: 1 << 30)
    assert found()["memory"].state == "fail"
    assert "another preset" in found()["memory"].advice
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert found(face__detector="yunet")["detector"].state == "warn"
    assert found(address="http://127.0.0.1:9")["head"].state == "fail"
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert found()["token"].advice.startswith(f"chmod 600 {token}")
    assert "secret" not in str(found())


def test_a_bucket_is_written_and_nothing_is_left(seaweed_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{seaweed_bucket.uri}/doctor/one"
    with connected_to(seaweed_bucket.env):
        checks = found(uri)
        stores = {name: check.state for name, check in checks.items() if name.startswith("store")}
        assert stores == dict.fromkeys(("store files", "store conditional writes", "store clock"), "OK")
        assert storage.files_below(uri) == {}
        for seconds, state in ((120, "warn"), (-3600, "fail")):
            clock = SimpleNamespace(time=lambda seconds=seconds: time.time() + seconds, monotonic=time.monotonic)
            monkeypatch.setattr(doctor_store, "time", clock)
            check = found(uri)["store clock"]
            assert check.state == state
            assert ("ahead of" if seconds > 0 else "behind") in check.text
            monkeypatch.undo()


def test_a_store_without_conditional_writes_or_without_access_fails(seaweed_bucket: Bucket) -> None:
    with faults.faulty_server(seaweed_bucket.env["AWS_ENDPOINT_URL"]) as server:
        with connected_to(seaweed_bucket.env | {"AWS_ENDPOINT_URL": server.url}):
            server.lacks.add(faults.IGNORED_CONDITIONS)
            checks = found(f"{seaweed_bucket.uri}/doctor/two")
            assert checks["store conditional writes"].state == "fail"
            assert "docs/storage.md" in checks["store conditional writes"].text
            assert checks["store files"].state == "OK"
    with connected_to(seaweed_bucket.env | {"AWS_SECRET_ACCESS_KEY": "wrong"}):
        checks = found(f"{seaweed_bucket.uri}/doctor/three")
        assert checks["store files"].state == checks["store clock"].state == "fail"


def test_a_store_that_is_away_is_not_waited_for(seaweed_bucket: Bucket) -> None:
    away = seaweed_bucket.env | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    with connected_to(away):
        begun = time.monotonic()
        checks = found(f"{seaweed_bucket.uri}/doctor/four")
        assert time.monotonic() - begun < 30
    stores = [check for name, check in checks.items() if name.startswith("store")]
    assert [check.state for check in stores] == ["fail"] * 3
    assert "storage unavailable" in stores[0].text


def test_quiet_shows_only_what_is_not_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbosity, "_level", 0)
    run_here("doctor", "-q", "--preset", "demo")
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("OK")]


def test_presets_are_listed_with_size_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("presets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(PRESETS)
    assert rows["paper"]["max_gpus"] == 4
    assert rows["paper"]["seconds"] is None, "not measured as a whole"
    assert 500 < rows["demo"]["seconds"] < 800, "59 + 83 + 33 + 7 + 258 + 157 + 81 + 10 s, and the starts"
    assert run_here("presets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(PRESETS) + 1]] == list(PRESETS)
