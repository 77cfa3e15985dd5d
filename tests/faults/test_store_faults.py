"""Faults between a chain and its store: credentials that expire during training, and a proxy on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.synthetic.films import write_corpus
from cluster.access import token_file
from tests.cluster.nodes import REPO
from tests.conftest import Bucket
from tests.faults.conftest import STAGE
from tests.faulty_server import faulty_server
from tests.s3_servers import connected_to

pytestmark = pytest.mark.faults
CHANGES = {
    "data.val_fraction": 0.2,
    "data.test_fraction": 0.2,
    f"training.{STAGE}.epochs": 12,
    f"training.{STAGE}.checkpoint_steps": 5,
}
ARSPM = Path(sys.executable).with_name("arspm")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "made"
    write_corpus(folder, num_speakers=16, clips_per_speaker=3, seconds=(1.0, 1.5), fps=10)
    return folder


@pytest.fixture
def credentials(tmp_path: Path) -> Callable[[str], None]:
    """A function that writes the credentials file, with a session token."""
    file = tmp_path / "credentials"

    def write(token: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = k\naws_secret_access_key = s\naws_session_token = {token}\n")

    write("one")
    return write


@pytest.fixture
def on_a_head(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """A function that starts a head of this test's own, whose environment gets these variables."""
    home = {"ARSPM_HOME": str(tmp_path / "home")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    kept["RAY_AUTH_TOKEN_PATH"] = str(token_file())
    envs: list[dict[str, str]] = []

    def start(env: Mapping[str, str]) -> dict[str, str]:
        envs.append({**kept, **home, **env})
        up = subprocess.run([ARSPM, "up", "--cpus", "2"], env=envs[-1], cwd=REPO, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        return envs[-1]

    yield start
    for env in envs:
        subprocess.run([ARSPM, "down"], env=env, cwd=REPO, check=True, capture_output=True)


def submit(clips: Path, run: str, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    words = [str(ARSPM), "submit", "--run", run, "--preset", "smoke", "--until", STAGE]
    words += ["--csv", str(clips / "avspeech.csv"), "--clips", str(clips / "clips")]
    words += [word for name, value in CHANGES.items() for word in ("--set", f"{name}={value}")]
    with log.open("wb") as file:
        return subprocess.Popen(words, env=dict(env), cwd=REPO, stdout=file, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_credentials_that_expire_during_training(
    clips: Path,
    moto_bucket: Bucket,
    credentials: Callable[[str], None],
    on_a_head: Callable[..., dict[str, str]],
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    """The chain ends with one line. The same command resumes with the renewed credentials."""
    run = f"{moto_bucket.uri}/expired"
    with faulty_server(moto_bucket.env["AWS_ENDPOINT_URL"]) as server:
        env = on_a_head(
            {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            }
        )
        first = submit(clips, run, tmp_path / "first.log", env)
        with connected_to(moto_bucket.env):
            wait_for(lambda: saved(run), first, tmp_path / "first.log")
        server.expired.add("one")
        expired_at = time.monotonic()
        assert first.wait(120) == 1
        seconds = time.monotonic() - expired_at
        said = (tmp_path / "first.log").read_text()
        assert "the credentials have expired (ExpiredToken" in said, said
        assert "run the same command again to resume" in said
        credentials("two")
        again = submit(clips, run, tmp_path / "again.log", env)
        assert again.wait(300) == 0, (tmp_path / "again.log").read_text()
        assert "preprocess: already done, reused" in (tmp_path / "again.log").read_text()
    note("credentials expired", f"during training; ended after {seconds:.0f} s; same command", seconds, None, "resumed")


def saved(run: str) -> bool:
    """Return whether the training has a checkpoint."""
    return any("/checkpoint_" in f"/{path}" for path in storage.files_below(storage.join(run, STAGE)))


def test_a_proxy_on_the_way_to_the_store(
    clips: Path,
    seaweed_bucket: Bucket,
    on_a_head: Callable[..., dict[str, str]],
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    """The store's name can only be reached through the proxy, which never sees the head or its token."""
    upstream = seaweed_bucket.env["AWS_ENDPOINT_URL"].removeprefix("http://")
    with (tmp_path / "proxy.log").open("wb") as log:
        proxy = subprocess.Popen([sys.executable, REPO / "tests/forward_proxy.py", upstream], stdout=log)
    try:
        deadline = time.monotonic() + 30
        while not (printed := (tmp_path / "proxy.log").read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        began = time.monotonic()
        through = f"http://127.0.0.1:{printed[0]}"
        env = on_a_head(
            {
                **seaweed_bucket.env,
                "AWS_ENDPOINT_URL": "http://store.invalid",
                "HTTP_PROXY": through,
                "HTTPS_PROXY": through,
                "http_proxy": through,
            }
        )
        chain = submit(clips, f"{seaweed_bucket.uri}/proxied", tmp_path / "chain.log", env)
        assert chain.wait(300) == 0, (tmp_path / "chain.log").read_text()
    finally:
        proxy.send_signal(signal.SIGTERM)
        proxy.wait()
    requested = (tmp_path / "proxy.log").read_text().splitlines()[1:]
    assert len(requested) > 20
    assert {line.split()[1].split("/")[2].partition(":")[0] for line in requested} == {"store.invalid"}
    seconds = time.monotonic() - began
    note(
        "HTTP proxy", f"{len(requested)} requests to the store through it, none to the head", seconds, None, "finished"
    )
