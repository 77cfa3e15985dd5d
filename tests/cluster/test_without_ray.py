"""The parts of `cluster` that need no head: addresses, tokens, staged code, state files, the launcher's file."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import head as heads
from cluster import record
from cluster.access import auth_headers, ensure_token, state_home, token_file
from cluster.client import connect, normalize_address
from cluster.errors import ClusterError, Unreachable
from cluster.host import free_port, private_directory
from cluster.package import stage_package

REPO = Path(__file__).parents[2]


def test_an_address_becomes_a_url() -> None:
    assert normalize_address("host:8265/") == "http://host:8265"
    assert normalize_address(" https://host ") == "https://host"
    with pytest.raises(ClusterError, match=r"'ray://host:10001' is not the address of a Ray dashboard"):
        normalize_address("ray://host:10001")


def test_no_head_is_a_one_line_error_that_says_what_to_do() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable) as caught:
        connect(address)
    assert str(caught.value) == f"no Ray head answers at {address}: start one with `arspm up`, or pass --ray-address"


def test_token_mode_without_a_token_is_an_error_before_any_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(
        ClusterError, match=r"RAY_AUTH_MODE=token, but there is no token in .*/none: `arspm up` creates"
    ):
        connect("127.0.0.1:1")


def test_an_explicit_address_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Ray's own client it is the other way round."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:3:"):
        connect("127.0.0.1:3")
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:2"
    assert heads.find_head("host:3") == "http://host:3"
    assert heads.find_head() == "http://127.0.0.1:1"


def test_an_answer_that_is_not_a_heads_is_an_error(tmp_path: Path) -> None:
    import http.server
    import threading

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ClusterError, match="answers, but is not a Ray head: Version check returned 404"):
            connect(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_token_is_created_once_and_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "new" / "token"))
    ensure_token()
    token = token_file().read_text()
    ensure_token()
    assert token_file().read_text() == token
    assert len(token) == 64
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600


def test_the_state_directory_is_closed_and_a_shared_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "deep/home"
    monkeypatch.setenv("ARSPM_HOME", str(home))
    assert state_home() == home
    for folder in (home, home.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    home.chmod(0o775)
    state_home()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o1777)
    with pytest.raises(
        ClusterError, match=r"deep/home is shared with other users: set ARSPM_HOME to a directory of your own"
    ):
        state_home()
    assert stat.S_IMODE(home.stat().st_mode) == 0o1777


def test_the_token_is_sent_only_to_this_machine_or_in_token_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert auth_headers("http://127.0.0.1:8265") == {"Authorization": "Bearer secret"}
    assert auth_headers("http://localhost:8265") == {"Authorization": "Bearer secret"}
    assert auth_headers("http://example.com:8265") == {}
    assert auth_headers("http://127.0.0.1.example.com") == {}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert auth_headers("http://example.com:8265") == {"Authorization": "Bearer secret"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_headers("http://127.0.0.1:8265") == {}


def test_only_source_files_are_staged_and_the_same_code_only_once(tmp_path: Path) -> None:
    package = tmp_path / "voice"
    for name in ("a.py", "deep/b.py", "deep/page.html.j2", "page.css", "__pycache__/a.py", "data.parquet", ".git/x.so"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    staged = stage_package([package])
    files = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
    assert files == ["voice/a.py", "voice/deep/b.py", "voice/deep/page.html.j2", "voice/page.css"]
    (package / "data.parquet").write_text("more")
    assert stage_package([package]) == staged
    (package / "a.py").write_text("other")
    assert stage_package([package]) != staged
    with pytest.raises(ClusterError, match="is not a package directory"):
        stage_package([tmp_path / "none"])


def test_our_own_packages_are_staged_completely_and_are_small() -> None:
    staged = stage_package([REPO / name for name in ("arspm", "jobs", "cluster", "tune_spaces")])
    for path in (REPO / "arspm").rglob("*"):  # including templates, styles and scripts, which a program may open
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            assert (staged / path.relative_to(REPO)).is_file(), path
    assert sum(path.stat().st_size for path in staged.rglob("*")) < 3_000_000


def test_a_state_file_of_a_dead_head_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARSPM_HOME", str(tmp_path))
    for text in ("", "{}", "not json"):
        record.path_of(".json").write_text(text)
        assert heads.current() is None
    # Another program now has the pid and leads its own session: it must survive.
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        gone = heads.Head("http://127.0.0.1:1", "", stranger.pid, "mark", str(tmp_path / "t"), "", 0.0, "me")
        record.write(gone)
        assert heads.find_head() is None
        assert heads.down(grace_seconds=0) == gone
        assert stranger.poll() is None
        stranger.kill()
    assert not record.path_of(".json").exists()
    assert heads.down() is None


def test_a_directory_for_ray_must_be_short(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="too long for Ray's sockets"):
        private_directory(tmp_path / ("x" * 60))


def test_a_taken_port_is_not_free() -> None:
    from cluster.host import is_free

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])
    assert is_free(free_port())


def test_ray_accepts_the_cluster_launchers_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((REPO / "ray_cluster.yaml").read_text()))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0, "the head runs no tasks"
    assert all(kind["min_workers"] == 0 for kind in types.values()), "it scales from zero"
    assert [name for name, kind in types.items() if kind["resources"].get("GPU")] == ["gpu", "gpu_spot"]
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in start
