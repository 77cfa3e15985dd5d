"""Access to a head without its token, and constructs that our code must not use.

Access to the sweep pages is tested in tests/report/test_server_refusals.py, hostile names on pages in tests/report/.
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cluster import client as jobs
from cluster.access import token_file
from tests.cluster.listeners import Proxy

REPO = Path(__file__).parents[1]
OURS = ("arspm", "jobs", "cluster", "tune_spaces")
COOKIE = "ray-authentication-token"  # in which a logged-in browser keeps the token
PUBLIC = {"/api/healthz", "/api/gcs_healthz", "/api/authentication_mode"}  # they return only "success" and "token"


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """Return status and body of one request; (0, b"") if the server does not speak HTTP/1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, json.dumps(body) if body is not None else None, names)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def strangers() -> list[tuple[dict[str, str], int]]:
    """Return the headers of requests without the right token, and the expected status of the answer."""
    return [
        ({}, 401),
        ({"Authorization": "Bearer guessed"}, 403),
        ({"Authorization": "Bearer "}, 403),
        ({"X_Ray_Authorization": "Bearer guessed"}, 403),
        ({"Cookie": f"{COOKIE}=guessed"}, 403),
    ]


@pytest.fixture(scope="module")
def port(head: Any) -> int:
    """The port of the dashboard and the Jobs API."""
    return urlsplit(head.address).port or 0


@pytest.fixture(scope="module")
def token(head: Any) -> str:
    return token_file().read_text().strip()


@pytest.mark.ray
@pytest.mark.parametrize(("headers", "status"), strangers())
def test_the_dashboard_refuses_requests_without_the_token(
    port: int, jobs_client: Any, token: str, headers: dict[str, str], status: int
) -> None:
    jobs.submit(jobs_client, submission_id="secret", entrypoint="echo hidden")
    jobs.wait(jobs_client, "secret", lambda line: None)
    paths = ["/api/jobs/", "/api/jobs/secret", "/api/jobs/secret/logs", "/api/jobs/secret/logs/tail", "/api/version"]
    paths += [
        "/api/v0/logs",
        "/api/v0/logs/file?filename=job-driver-secret.log",
        "/api/v0/nodes",
        "/nodes?view=summary",
    ]
    paths += ["/api/cluster_status", "/api/prometheus/sd", "/api/packages/gcs/_ray_pkg_0.zip", "/worker/traceback"]
    for path in paths:
        answer, body = ask(port, "GET", path, **headers)
        assert answer == status, path
        assert b"hidden" not in body
    assert b"hidden" in ask(port, "GET", "/api/jobs/secret/logs", Authorization=f"Bearer {token}")[1]


@pytest.mark.ray
def test_public_pages_of_the_dashboard_show_nothing_of_the_cluster(port: int, jobs_client: Any, token: str) -> None:
    jobs.submit(jobs_client, submission_id="hidden", entrypoint="true")
    for path in ("/", *PUBLIC):
        status, body = ask(port, "GET", path)
        assert status in (200, 404), path  # not every version of Ray has all of them
        assert b"hidden" not in body
        assert token.encode() not in body


@pytest.mark.ray
def test_no_port_of_the_head_accepts_a_job_without_the_token(
    head: Any, listening: Callable[[], set[tuple[str, str, int]]], port: int, token: str, tmp_path: Path
) -> None:
    """Tries every listening port: the dashboard's, its agents', and those with other protocols."""
    ports = {number for _, _, number in listening()}
    assert port in ports
    job = {"entrypoint": f"touch {tmp_path}/ran", "submission_id": "strangers"}
    answers = {}
    for each, path in product(sorted(ports), ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env")):
        for headers, refusal in strangers():
            status, _ = ask(each, "POST", path, job, **headers)
            assert status in (0, 404, 405, refusal), (
                each,
                path,
                headers,
            )  # 405: a metrics port, which accepts only GET
            answers[each, path] = status
            if status == 0:
                break  # gRPC, which another test covers
    assert answers[port, "/api/jobs/"] == 403
    refused = {endpoint for endpoint, status in answers.items() if status == 403}
    assert len({each for each, _ in refused}) >= 3, "the dashboard and its two agents refused it"
    assert jobs.info(jobs.connect(head.address), "strangers") is None
    assert ask(port, "POST", "/api/jobs/", job, Authorization=f"Bearer {token}")[0] == 200, (
        "the same job is accepted with the token"
    )
    assert jobs.wait(jobs.connect(head.address), "strangers", lambda line: None).status == "SUCCEEDED"
    assert (tmp_path / "ran").exists()


@pytest.mark.ray
@pytest.mark.parametrize("sign", [{"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_another_web_page_cannot_use_a_browsers_token(
    port: int, jobs_client: Any, token: str, sign: dict[str, str]
) -> None:
    job = {"entrypoint": "true", "submission_id": "forged"}
    for method, path, body in (
        ("POST", "/api/jobs/", job),
        ("POST", "/api/jobs/secret/stop", None),
        ("DELETE", "/api/jobs/secret", None),
        ("PUT", "/api/packages/gcs/_ray_pkg_0.zip", {}),
    ):
        assert ask(port, method, path, body, Cookie=f"{COOKIE}={token}", **sign)[0] == 405, path
    assert jobs.info(jobs_client, "forged") is None


@pytest.mark.slow
@pytest.mark.ray
def test_the_cluster_refuses_a_driver_without_the_token(head: Any) -> None:
    """Without the dashboard: a program connects to the cluster as a driver."""
    program = f"import ray; ray.init({head.gcs_address!r}, log_to_driver=False); print('in', ray.cluster_resources())"
    strangers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "RAY_gcs_server_request_timeout_seconds": "5", **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for changes in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "guessed"})
    ]
    for stranger in strangers:  # both wait at the same time
        out, errors = stranger.communicate(timeout=90)
        assert stranger.returncode != 0
        assert "in {" not in out
        assert "nauthenticated" in errors.lower() or "authentication" in errors.lower(), errors[-2000:]


@pytest.mark.ray
def test_the_heads_files_are_closed_to_other_users(head: Any) -> None:
    for path in (Path(head.temp_dir), Path(os.environ["ARSPM_HOME"]), token_file()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# --- nothing calls home


@pytest.mark.slow
def test_no_library_reports_its_use() -> None:
    """Those that do begin when they are imported; each of their requests would pass through this proxy."""
    program = (
        "import time, arspm.media.speech, arspm.evaluation.onnx_faces, arspm.distributed.tune.tuning\n"
        "import jobs.cli, sys; assert 'onnxruntime' in sys.modules; time.sleep(15)"
    )
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    with Proxy() as proxy:
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), proxy.url)
        subprocess.run([sys.executable, "-c", program], cwd=REPO, env={**environment, **proxies}, check=True)
        assert proxy.received == []


# --- what our code must not use


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for name in OURS:
        for path in (REPO / name).rglob("*.py"):
            yield path.relative_to(REPO), ast.parse(path.read_text())


def test_no_file_content_is_executed() -> None:
    """Checked with the rules of flake8-bandit: no unpickling, no eval or exec, no YAML that creates objects, no shell.

    Two exceptions: a pickle that one Ray Data task passes to the next in memory, and the `exec` of a sweep's space, see
    below.
    """
    rules = "S102,S301,S302,S307,S506,S602,S604,S605,S609"
    ruff, form = Path(sys.executable).with_name("ruff"), "--output-format=json"
    result = subprocess.run(
        [ruff, "check", "--isolated", "--no-cache", "--target-version=py310", f"--select={rules}", form, *OURS],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    found = [(str(Path(each["filename"]).relative_to(REPO)), each["code"]) for each in json.loads(result.stdout)]
    assert sorted(found) == [("arspm/distributed/data/preprocess.py", "S301"), ("tune_spaces/files.py", "S102")]


def test_loaders_that_can_unpickle_are_called_safely() -> None:
    calls = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                if ast.unparse(node.func) in ("torch.load", "joblib.load", "cloudpickle.loads", "tune.Tuner.restore"):
                    calls.append((str(path), ast.unparse(node.func), keywords.get("weights_only")))
    assert calls == [("arspm/model/vggface_weights.py", "torch.load", "True")]


def test_only_a_sweeps_space_is_executed_from_a_path() -> None:
    """It is a Python file named on the command line, as documented in docs/security.md."""
    runs = {"exec", "runpy.run_path", "runpy.run_module", "importlib.util.spec_from_file_location"}
    found = [
        str(path)
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in runs
    ]
    assert found == ["tune_spaces/files.py"]
