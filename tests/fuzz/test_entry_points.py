"""The fuzz harness notices forbidden actions: entry points that do one each."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.fs
import pytest

from tests.fuzz import entry_points
from tests.fuzz.entry_points import try_inputs

pytestmark = pytest.mark.slow  # like the tests that use the harness


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def connect() -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", 9))


def through_a_link() -> None:
    os.symlink("..", "link")
    Path("link/y").write_bytes(b"")


def through_an_open_folder() -> None:
    os.remove("x", dir_fd=os.open("..", os.O_RDONLY | os.O_DIRECTORY))


# What is done in the case's own folder, and what the defect then says.
ACTIONS: dict[str, tuple[Callable[[], object], str]] = {
    "write above": (lambda: Path("../y").write_bytes(b""), "open '../y' to write"),
    "write two above": (lambda: Path("../../y").write_bytes(b""), "open '../../y' to write"),
    "write beside, with the same prefix": (lambda: Path(f"{os.getcwd()}-y").write_bytes(b""), "-y' to write"),
    "write far outside": (
        lambda: Path(f"{os.getcwd()}/../../../arspm-y").write_bytes(b""),
        "arspm-y' to write",
    ),
    "append": (lambda: os.open("../x", os.O_APPEND | os.O_RDWR), "open '../x' to write"),
    "write through a link": (through_a_link, "open 'link/y' to write"),
    "read above": (lambda: Path("../x").read_bytes(), "open '../x' to read"),
    "read an account": (lambda: Path("/etc/passwd").read_bytes(), "open '/etc/passwd' to read"),
    "remove": (lambda: os.remove("../x"), "os.remove ('../x'"),
    "remove from an open folder": (through_an_open_folder, "os.remove ('x'"),
    "make a folder": (lambda: os.mkdir("../y"), "os.mkdir ('../y'"),
    "remove a folder": (lambda: os.rmdir("../../around"), "os.rmdir ('../../around'"),
    "remove all": (lambda: shutil.rmtree("../nothing", ignore_errors=True), "shutil.rmtree ('../nothing'"),
    "move in": (lambda: os.rename("../x", "y"), "os.rename ('../x', 'y')"),
    "move out": (lambda: os.replace("input", "../y"), "os.rename ('input', '../y')"),
    "link in": (lambda: os.link("../x", "y"), "os.link ('../x', 'y')"),
    "link out": (lambda: os.link("input", "../y"), "os.link ('input', '../y')"),
    "symbolic link out": (lambda: os.symlink("input", "../y"), "os.symlink ('input', '../y')"),
    "cut off": (lambda: os.truncate("../x", 0), "os.truncate ('../x', 0)"),
    "permissions": (lambda: os.chmod("../x", 0o777), "os.chmod ('../x', 511)"),
    "times": (lambda: os.utime("../x"), "os.utime ('../x'"),
    "a pipe, without an audit event": (lambda: os.mkfifo("../y"), "changed "),
    "a library's writing": (lambda: pyarrow.fs.LocalFileSystem().open_output_stream("../y").close(), "around/y"),
    "a library's removing": (lambda: pyarrow.fs.LocalFileSystem().delete_file("../../x"), "changed "),
    "a library's writing over it": (lambda: cv2.imwrite("../x.png", np.zeros((1, 1, 3), np.uint8)), "around/x.png"),
    "a program": (lambda: subprocess.run([sys.executable, "-c", ""]), "subprocess.Popen"),
    "a shell": (lambda: os.system("true"), "os.system"),
    "a process": (fork, "os.fork"),
    "another program": (lambda: os.posix_spawn("/bin/true", ["true"], {}), "os.posix_spawn"),
    "a signal": (lambda: os.kill(os.getpid(), 0), "os.kill"),
    "a connection": (connect, "socket.connect"),
    "a name's address": (lambda: socket.getaddrinfo("localhost", 9), "socket.getaddrinfo"),
    "an unpickled name": (lambda: pickle.loads(pickle.dumps(Path)), "pickle.find_class"),
}


def act(path: Path) -> None:
    with contextlib.suppress(OSError):  # a failed attempt counts too
        ACTIONS[path.read_text()][0]()


@pytest.fixture(autouse=True)
def _save_inputs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs with defects are saved in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("name", ACTIONS)
def test_a_forbidden_action_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError, match=rf"with forbidden actions: .*{re.escape(ACTIONS[name][1])}"):
        try_inputs(act, [name.encode()])


def stay_inside(path: Path) -> None:
    """Everything is allowed in the entry point's own folder."""
    Path("a").write_bytes(path.read_bytes())
    os.rename("a", "b")
    os.link("b", "c")
    os.symlink("/etc/passwd", "d")
    os.chmod("c", 0o600)
    for name in ("b", "c", "d"):
        os.remove(name)
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
        assert os.path.realpath(file.name).startswith(os.getcwd())
    with open(os.devnull, "w") as null:
        null.write("x")


def read_argument(path: Path, file: Path) -> None:
    assert file.read_bytes() == b"content"


def test_actions_in_the_entry_points_own_folder_are_allowed(tmp_path: Path) -> None:
    assert try_inputs(stay_inside, [b"1", b"2"])["accepted"] == 2
    (tmp_path / "file").write_bytes(b"content")
    assert try_inputs(read_argument, [b"1"], file=tmp_path / "file")["accepted"] == 1
    assert not list(tmp_path.glob("arspm-fuzz-*"))


def bad(path: Path) -> None:
    what = path.read_bytes()
    if what == b"crash":
        os.abort()
    if what == b"exit":
        sys.exit()
    if what == b"hang":
        time.sleep(60)
    if what == b"memory":
        np.ones((1 << 30) + (64 << 20), np.uint8)
    if what == b"control":
        raise ValueError(f"{path.name}: \x1b[31m")
    if what == b"long":
        raise ValueError(f"{path.name}: {'x' * 10_000}")
    if what == b"nameless":
        raise ValueError("something is wrong")
    if what == b"other":
        raise KeyError(path.name)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("crash", "the process ended with -6"),
        ("exit", "SystemExit"),
        ("hang", "no result after 2 s"),
        ("memory", "MiB more of memory"),
        ("control", "control characters"),
        ("long", "a message of 10007 characters"),
        ("nameless", "does not name the file"),
        ("other", "KeyError"),
    ],
)
def test_a_bad_result_is_a_defect(what: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "hang":
        monkeypatch.setattr(entry_points, "WAIT_SECONDS", 2)
    with pytest.raises(AssertionError, match=rf"bad, input 1, saved as \S+-bad-1-input: [\s\S]*{message}"):
        try_inputs(bad, [b"good", what.encode(), b"good"])
