"""Two independent S3 servers for tests: SeaweedFS and moto."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

BUCKET = "speech"


def s3_env(host: str, port: int) -> dict[str, str]:
    """Return environment variables for a server, with random credentials."""
    return {
        "AWS_ACCESS_KEY_ID": secrets.token_hex(8),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def connected_to(env: Mapping[str, str]) -> Iterator[None]:
    """Set a server's environment variables in this process, and clear s3fs's cache of clients for other servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
        s3fs.S3FileSystem.clear_instance_cache()


class SeaweedFS:
    """A SeaweedFS process with one bucket. Its data stays in `folder` across restarts.

    `env`: environment variables, with the credentials that it accepts. `ports`: flags (default: its standard ports).
    """

    def __init__(self, folder: Path, env: Mapping[str, str], *, host: str = "127.0.0.1", ports: Sequence[str] = ()):
        self._folder, self._env = folder, {**os.environ, **env}
        self._command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", f"-ip={host}"]
        self._command += [f"-ip.bind={host}", "-admin.ui=false", "-webdav=false", f"-bucket={BUCKET}"]
        self._command += ["-master.telemetry=false", f"-filer.localSocket={folder}/filer.sock"]
        self._command += [f"-s3.localSocket={folder}/s3.sock", *ports]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        log = self._folder / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._env, stdout=file, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 60
        while b"components are running" not in log.read_bytes():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Moto:
    """moto's server with one bucket in memory. It does not check credentials."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int):
        self._log = folder / "log"
        self._command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
        self._bucket = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(self._bucket, timeout=10).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
