"""Everything under s3://, on a real S3 server: the storage functions, and stages as jobs."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.media.detectors import make_detector
from arspm.runs import live, stages
from cluster import client as jobs
from cluster import events
from cluster.job import error_line
from jobs.stage import expected_fingerprint
from tests import faulty_server as faults
from tests.conftest import Bucket
from tests.distributed.conftest import FINGERPRINT, REPO, Clips
from tests.faulty_server import faulty_server
from tests.s3_servers import connected_to

pytestmark = pytest.mark.ray


def test_one_of_several_concurrent_writers_wins(s3: str) -> None:
    uri = storage.join(s3, "race", "_SUCCESS.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda writer: storage.put_if_absent(uri, bytes([writer]) * 1000), range(8)))
    assert sum(won) == 1
    assert storage.read_bytes(uri) == bytes([won.index(True)]) * 1000
    assert not storage.put_if_absent(uri, b"late")


def test_files_are_written_found_described_and_removed(s3: str, tmp_path: Path) -> None:
    folder = storage.join(s3, "files")
    assert storage.files_below(folder) == {}
    described = storage.write_json(storage.join(folder, "a", "b.json"), {"one": 1})
    (tmp_path / "large").write_bytes(os.urandom(12_000_000))  # in parts
    uploaded = storage.upload(tmp_path / "large", storage.join(folder, "large"))
    assert uploaded == storage.describe(storage.join(folder, "large"))
    assert uploaded["sha256"] == hashlib.sha256((tmp_path / "large").read_bytes()).hexdigest()
    assert storage.files_below(folder) == {"a/b.json": described["bytes"], "large": 12_000_000}
    assert storage.read_json(storage.join(folder, "a/b.json")) == {"one": 1}
    with storage.local_copy(storage.join(folder, "large")) as copy:
        assert copy.read_bytes() == (tmp_path / "large").read_bytes()
    fs, path = storage.arrow_filesystem(storage.join(folder, "large"))
    assert fs.get_file_info(path).size == 12_000_000
    storage.remove(folder)
    assert storage.files_below(folder) == {}
    assert not storage.exists(storage.join(folder, "large"))
    storage.remove(folder)
    with pytest.raises(FileNotFoundError, match=f"{folder}/large: no such file"):
        storage.read_bytes(storage.join(folder, "large"))


def test_a_face_detector_is_fetched(s3: str) -> None:
    """Without a real model: the file is read from the bucket, and the error names its URI."""
    uri = storage.join(s3, "models/yunet.onnx")
    with pytest.raises(FileNotFoundError, match=f"{uri}: no such file"):
        make_detector(uri)
    storage.write_bytes(uri, b"no model")
    with pytest.raises(ValueError, match=f"^{uri} is not a YuNet model"):
        make_detector(uri)


def run_job(jobs_client: Any, bucket: Bucket, stage: str, run: str, config_uri: str, env: dict[str, str]) -> None:
    command = ["python", "-m", f"jobs.{stage}", "--run", run, "--config", config_uri]
    name = f"s3-{stage}-{bucket.env['AWS_ACCESS_KEY_ID']}"
    env = {**env, "PYTHONPATH": str(REPO)}
    jobs.submit(jobs_client, submission_id=name, entrypoint=shlex.join(command), env_vars=env)
    lines: list[str] = []
    job = jobs.wait(jobs_client, name, lines.append)
    assert job.status == "SUCCEEDED", "\n".join(lines)


def write_profile(folder: Path, bucket: Bucket, url: str, token: str = "") -> dict[str, str]:
    """Write AWS's two files with a profile for a server at a URL. Return the variables that select it."""
    keys = [f"{name.lower()} = {bucket.env[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    keys += [f"aws_session_token = {token}"] if token else []
    (folder / "credentials").write_text("\n".join(["[lab]", *keys]))
    (folder / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {url}\n")
    return {
        "AWS_PROFILE": "lab",
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }


def test_preprocess_and_a_training_stage_run_as_jobs_from_and_to_the_bucket(
    jobs_client: Any, bucket: Bucket, s3: str, clips: Clips, config: Config, tmp_path: Path
) -> None:
    """The clips, the CSV and the labels are in the bucket too.

    The jobs know the endpoint from AWS's config file only, and the store lacks what a run does not need.
    """
    for path in [*clips.folder.iterdir(), clips.csv, clips.labels]:
        folder = "clips" if path.parent == clips.folder else "tables"
        storage.upload(path, storage.join(s3, folder, path.name))
    remote = override(
        config,
        {
            "data.csv": storage.join(s3, "tables", clips.csv.name),
            "data.labels": storage.join(s3, "tables", clips.labels.name),
            "data.clips": storage.join(s3, "clips"),
            "training.gender.epochs": 2,
        },
    )
    run, config_uri = storage.join(s3, "runs/one"), storage.join(s3, "runs/one/configs/config.json")
    storage.write_bytes(config_uri, configuration.dump(remote).encode())
    for stage in ("preprocess", "gender"):
        with faulty_server(bucket.env["AWS_ENDPOINT_URL"]) as server:
            server.lacks |= {faults.MD5_TO_DELETE, faults.NO_CHECKSUMS}
            env = write_profile(tmp_path, bucket, server.url)
            run_job(jobs_client, bucket, stage, run, config_uri, env)
            assert server.signed == {(bucket.env["AWS_ACCESS_KEY_ID"], "us-east-1")}
        success = stages.done(run, stage, expected_fingerprint(stage, run, remote))
        assert success is not None
        for path, described in success.files.items():
            assert storage.describe(storage.join(run, path)) == described, path
    manifest = storage.read_json(storage.join(run, "corpus/manifest.json"))
    assert manifest["num_clips"] == len(clips.good)
    assert manifest["num_dropped"] == len(clips.dropped)
    left = {path.split("/")[0] for path in storage.files_below(storage.join(run, "gender"))}
    training = stages.training_name(run, "gender", expected_fingerprint("gender", run, remote))
    assert left == {stages.SUCCESS, "model.safetensors", "history.json", live.FILE, training}
    in_training = storage.files_below(storage.join(run, "gender", training))
    checkpoints = {path.split("/")[0] for path in in_training if "/" in path}
    assert len(checkpoints) == 1, "older ones are removed"


@pytest.mark.slow
@pytest.mark.long
def test_credentials_that_expire_amid_a_training_are_named_and_renewed_it_resumes(
    jobs_client: Any, moto_bucket: Bucket, clips: Clips, config: Config, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """moto accepts any session token, so the server in front of it decides which have expired."""
    run, config_uri = f"{moto_bucket.uri}/runs/expiring", f"{moto_bucket.uri}/runs/expiring/config.json"
    longer = override(config, {"training.gender.epochs": 30})
    with faulty_server(moto_bucket.env["AWS_ENDPOINT_URL"]) as server:
        env = write_profile(tmp_path, moto_bucket, server.url, token="one") | {"PYTHONPATH": str(REPO)}

        def submit(stage: str, attempt: int) -> str:
            command = ["python", "-m", f"jobs.{stage}", "--run", run, "--config", config_uri]
            name = f"expiring-{stage}-{attempt}-{moto_bucket.env['AWS_ACCESS_KEY_ID']}"
            return jobs.submit(jobs_client, submission_id=name, entrypoint=shlex.join(command), env_vars=env)

        with connected_to(moto_bucket.env):
            storage.write_bytes(config_uri, configuration.dump(longer).encode())
            assert jobs.wait(jobs_client, submit("preprocess", 1)).status == "SUCCEEDED"
            training = submit("gender", 1)
            wait_until(lambda: any("/checkpoint_" in path for path in storage.files_below(f"{run}/gender")), 120)
            server.expired.add("one")
            began = time.monotonic()
            assert jobs.wait(jobs_client, training).status == "FAILED"
            assert time.monotonic() - began < 60, "not retried for minutes"
            line = error_line(jobs.logs(jobs_client, training).splitlines(), "")  # workers may print after it
            assert re.match(r"gender: s3://speech/\S+: the credentials have expired \(ExpiredToken: ", line)
            assert line.endswith("and run the same command again to resume")
            write_profile(tmp_path, moto_bucket, server.url, token="two")
            lines: list[str] = []
            assert jobs.wait(jobs_client, submit("gender", 2), lines.append).status == "SUCCEEDED", "\n".join(lines)
            history = storage.read_json(f"{run}/gender/history.json")
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(1, 31))
    reported = [event for line in lines if isinstance(event := events.parse_line("gender", line), events.StageProgress)]
    assert reported[0].current > reported[0].total / 30, "the first epoch is not repeated"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "guessed-but-wrong"}, "s3://speech/runs/two"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "http://127.0.0.1:9"),
    ],
    ids=["wrong secret", "no server"],
)
def test_an_unreachable_bucket_is_reported_in_one_line(
    seaweed_bucket: Bucket, changes: dict[str, str], named: str, tmp_path: Path
) -> None:
    env = {**os.environ, **seaweed_bucket.env, **changes}
    run = f"{seaweed_bucket.uri}/runs/two"
    command = [sys.executable, "-m", "jobs.preprocess", "--run", run, "--config", f"{run}/c.json"]
    done = subprocess.run(
        [*command, "--fingerprint", FINGERPRINT],
        env=env,
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: preprocess: ")
    assert named in last
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert env[name] not in done.stderr + done.stdout, "not in the traceback either"
