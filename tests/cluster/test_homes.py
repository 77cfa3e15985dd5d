"""Users without a name, without a home, and with a home that several machines share. No head is started."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cluster import head as heads
from cluster import record
from cluster.access import ensure_token, token_file
from cluster.errors import ClusterError
from cluster.host import MARK, marked_processes

REPO = Path(__file__).parents[2]
NAMELESS = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
NO_NAMESPACES = subprocess.run([*NAMELESS, "true"], capture_output=True).returncode != 0
HEAD = heads.Head("http://127.0.0.1:1", "", 0, "none", "/nowhere", "", 1.6e9, "me@here", "here", "")


def python(program: str, prefix: Sequence[str] = (), **environment: str) -> str:
    """Return what a program with our packages prints on both streams, with these environment variables only."""
    result = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.stdout.strip()


def arspm(command: str, prefix: Sequence[str] = (), **environment: str) -> str:
    program = f"import sys; sys.argv[1:] = {command.split()!r}; from jobs.cli import main; main()"
    return python(program, prefix, **environment)


@pytest.mark.skipif(NO_NAMESPACES, reason="needs user namespaces")
def test_a_user_without_a_name_is_recorded_by_number(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    program = (
        "from cluster.host import user_name; from cluster.head_environment import head_environment as env\n"
        "print(user_name(), env('http://127.0.0.1:1', {})['USER'])"
    )
    assert python(program, NAMELESS, HOME=str(tmp_path)).endswith("54321 54321")


@pytest.mark.skipif(NO_NAMESPACES, reason="needs user namespaces")
def test_a_user_without_a_home_is_told_what_to_set() -> None:
    message = (
        "error: no home directory: HOME is not set, and user 54321 has no entry in the user database; set ARSPM_HOME "
        "to a directory of your own"
    )
    assert arspm("up", NAMELESS) == message
    assert arspm("down", NAMELESS) == "nothing to stop"
    assert arspm("logs /nowhere/run encoder", NAMELESS).startswith("error: no Ray head: start one on this machine")


@pytest.mark.skipif(NO_NAMESPACES, reason="needs user namespaces")
def test_the_state_directory_alone_is_enough(tmp_path: Path) -> None:
    program = "from cluster.access import ensure_token, token_file\nensure_token(); print(token_file())"
    home = tmp_path / "state"
    assert python(program, NAMELESS, ARSPM_HOME=str(home)) == str(home / "auth_token")
    assert len((home / "auth_token").read_text()) == 64


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null"])
def test_a_home_that_cannot_be_written_is_named(home: str, tmp_path: Path) -> None:
    message = arspm("up", HOME=home)
    assert message.startswith(f"error: cannot create {home}/.arspm (")
    assert message.endswith("): set ARSPM_HOME to a directory of your own")
    assert "\n" not in message
    program = "from cluster.access import ensure_token, token_file\nensure_token(); print(token_file())"
    assert python(program, HOME=home, ARSPM_HOME=str(tmp_path / "a")) == str(tmp_path / "a/auth_token")


def test_reading_creates_no_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert heads.find_head() is None
    assert heads.down() is None
    assert heads.heads_elsewhere() == ""
    assert not (tmp_path / "home").exists()


def test_two_machines_that_create_the_token_at_once_use_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    for attempt in range(5):
        path = tmp_path / f"{attempt}" / "token"
        program = (
            "import sys, time; from cluster.access import ensure_token, token_file\n"
            "time.sleep(max(0, float(sys.argv[1]) - time.time())); ensure_token(); print(token_file().read_text())"
        )
        begin = str(time.time() + 1)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, begin],
                env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(path)},
                cwd=REPO,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        assert len({process.communicate()[0] for process in processes}) == 1
        assert [each.name for each in path.parent.iterdir()] == ["token"]


def test_an_empty_token_file_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").touch()
    ensure_token()
    assert len(token_file().read_text()) == 64
    assert token_file().stat().st_mode & 0o777 == 0o600


# --- a home that several machines share


def test_heads_of_other_machines_are_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with subprocess.Popen(["sleep", "60"], env={MARK: "theirs"}, start_new_session=True) as stranger:
        theirs = replace(HEAD, pid=stranger.pid, id="theirs", session_dir="/s", host="login1", machine="boot other")
        path = tmp_path / "head-0123abcd.json"
        path.write_text(json.dumps(asdict(theirs)))
        assert heads.current() is None
        assert heads.find_head() is None
        assert heads.down() is None
        record.remove_earlier()
        assert path.exists()
        assert stranger.poll() is None
        stranger.kill()
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(1.6e9))
    note = f"; a head was started on login1 (since {started}), where it is reached and stopped"
    assert heads.heads_elsewhere() == note
    shown = arspm("down", ARSPM_HOME=str(tmp_path))
    assert shown == f"nothing to stop{note}"
    assert arspm("cancel /nowhere/run", ARSPM_HOME=str(tmp_path)).endswith(f"or pass --ray-address{note}")


def test_a_record_of_an_earlier_boot_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))
    earlier = replace(HEAD, host=socket.gethostname(), machine="boot-of-yesterday pid:[1] uts:[2]")
    (tmp_path / "head-0123abcd.json").write_text(json.dumps(asdict(earlier)))
    assert heads.current() is None
    assert heads.heads_elsewhere() == ""
    record.remove_earlier()
    assert list(tmp_path.glob("head-*")) == []


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"]).returncode != 0,
    reason="needs namespaces",
)
def test_a_container_neither_sees_nor_stops_the_head_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path / "home"))
    with subprocess.Popen(["sleep", "60"], env={MARK: "ours"}, start_new_session=True) as process:
        ours = replace(HEAD, pid=process.pid, id="ours", host=socket.gethostname(), machine=record.machine_id())
        record.write(ours)
        assert heads.current() == ours
        container = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork", "--mount-proc")
        renamed = "import socket; socket.sethostname('other'); from jobs.cli import main; import sys\n"
        shown = python(renamed + "sys.argv[1:] = ['down']; main()", container, ARSPM_HOME=str(tmp_path / "home"))
        assert f"nothing to stop; a head was started on {socket.gethostname()} (since " in shown
        assert process.poll() is None
        assert heads.current() == ours
        assert heads.down(grace_seconds=0) == ours
        process.wait(10)


# --- recorded before anything can fail


def test_a_head_whose_start_was_interrupted_is_found_by_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the start of the first process and the record of its pid."""
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))
    with subprocess.Popen(["sleep", "60"], env={MARK: "marked"}, start_new_session=True) as process:
        record.write(replace(HEAD, id="marked", machine=record.machine_id()))
        assert [each.pid for each in marked_processes(0, "marked")] == [process.pid]
        assert heads.down(grace_seconds=0) is not None
        process.wait(10)
    assert heads.down() is None


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_start_that_fails_leaves_neither_process_nor_record(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))
    monkeypatch.setattr(heads, "_RAY", ("-c", "import time; time.sleep(60)"))
    seen: list[heads.Head] = []

    def fail(head: heads.Head, *_: object) -> None:
        seen.append(record.read())
        raise error

    monkeypatch.setattr(heads, "_wait_for", fail)
    with pytest.raises(type(error)):
        heads.up(temp_dir=Path(f"/tmp/arspm-t-{os.getpid()}"))
    [head] = seen
    assert head.pid > 0
    wait_until(lambda: marked_processes(head.pid, head.id) == [], 10)  # a killed process may take a moment to end
    assert record.read() is None
    shutil.rmtree(head.temp_dir, ignore_errors=True)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ClusterError, match=r"cannot lock .*lock \(No locks available\): set ARSPM_HOME to a local"):
        heads.up()
