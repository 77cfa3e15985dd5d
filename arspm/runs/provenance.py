"""Where a stage's result comes from: commit and versions of the code, and the command, user and host that asked."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arspm
from arspm.storage.retries import without_credentials

COMMIT_FILE = "commit.json"  # in the package arspm where the code is shipped without its git repository
_ROOT = Path(str(arspm.__file__)).parents[1]
_PACKAGES = ("arspm", "jobs", "cluster", "tune_spaces")
_GIT_SECONDS = 10
_SECRET = r"[\w.-]*(?:token|secret|passw|signature|credential|api_?key|access_?key)[\w.-]*"
_SECRET_QUERY = re.compile(rf"([?&]{_SECRET}=)[^&]*", re.IGNORECASE)
_SECRET_SETTING = re.compile(rf"({_SECRET}=).*", re.IGNORECASE | re.DOTALL)
_SECRET_OPTION = re.compile(rf"--{_SECRET}", re.IGNORECASE)


def provenance(detail: str, invocation: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return what a manifest records, or None for nothing.

    detail: the setting `provenance`. "all": commit, clean, command, user and host; "code": commit and clean; "none".
    invocation: of `own_invocation`, in the process where the command was given (default: this process).
    """
    if detail == "none":
        return None
    return code_commit() | (dict(invocation or own_invocation()) if detail == "all" else {})


def own_invocation() -> dict[str, str]:
    """Return this process's command, without credentials, and its user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    return {"command": command_line(sys.argv), "user": user, "host": socket.gethostname()}


def command_line(words: Sequence[str]) -> str:
    """Return a command as one line, as it would be typed, with *** in place of credentials."""
    shown = [Path(words[0]).name if words and words[0] else "python"]
    for before, word in itertools.pairwise(words):
        if _SECRET_OPTION.fullmatch(before):
            shown.append("***")
        else:
            pattern = _SECRET_QUERY if "?" in word else _SECRET_SETTING
            shown.append(without_credentials(pattern.sub(r"\1***", word)))
    return " ".join(word if "***" in word else shlex.quote(word) for word in shown)


@functools.cache
def code_commit() -> dict[str, Any]:
    """Return the git commit of this code, and whether the code equals it: "commit" and "clean", None if unknown.

    Code that was shipped to a cluster says what was recorded when it was packaged. Files that git ignores do not count.
    """
    shipped = Path(str(arspm.__file__)).with_name(COMMIT_FILE)
    if shipped.exists():
        found = json.loads(shipped.read_text())
        return {"commit": found["commit"], "clean": found["clean"]}
    # The repository may be another one, with this package installed somewhere in its folder.
    if (
        _git("ls-files", "--error-unmatch", "arspm/__init__.py") is None
        or (commit := _git("rev-parse", "HEAD")) is None
    ):
        return {"commit": None, "clean": None}
    changes = _git("status", "--porcelain", "--", *_PACKAGES)
    return {"commit": commit, "clean": None if changes is None else not changes}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    packages = (
        "arspm",
        "ray",
        "torch",
        "torchaudio",
        "pytorch-msssim",
        "pyarrow",
        "numpy",
        "opencv-python-headless",
        "av",
    )
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # arspm itself, when run from the source tree
            continue
    return installed


def _git(*words: str) -> str | None:
    """Return a git command's output in the folder of this code, None if it fails or there is no git."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(_ROOT), *words],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
