"""A real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

BUCKET = "speech"


class SeaweedFS:
    """SeaweedFS with one bucket, in a process of its own; started again on its folder it has what it had.

    `env`: credentials that it asks for, among others. `ports`: flags; without them it takes its usual ones.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], *, host: str = "127.0.0.1", ports: Sequence[str] = ()):
        self._folder, self._env = folder, {**os.environ, **env}
        self._command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", f"-ip={host}"]
        self._command += [f"-ip.bind={host}", "-admin.ui=false", "-webdav=false", f"-bucket={BUCKET}"]
        self._command += ["-master.telemetry=false", f"-filer.localSocket={folder}/filer.sock"]
        self._command += [f"-s3.localSocket={folder}/s3.sock", *ports]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
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
