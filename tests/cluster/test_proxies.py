"""Proxies and .netrc: no token for this machine's head leaves it, and no password takes its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cluster.client import connect
from cluster.errors import Unreachable
from cluster.head_environment import head_environment
from cluster.proxies import is_direct, is_loopback, without_loopback
from tests.cluster.listeners import TOKEN, Dashboard, Proxy, serving

VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
VARIABLES += ("NO_PROXY", "no_proxy", "no_grpc_proxy", "NETRC")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies but the test's own, no .netrc of the user, and one token, for this machine only."""
    for name in (*VARIABLES, "RAY_AUTH_MODE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as listener:
        yield listener


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "127.1", "[::1]", "LocalHost", "0.0.0.0"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_sees_a_request_to_this_machine(
    variable: str, host: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # otherwise 127.1 would get no token
    with serving(Dashboard("::1" if "::" in host else "0.0.0.0")) as port:
        client = connect(f"http://{host}:{port}")
        assert client._do_request("GET", "/api/version").ok
    assert proxy.received == []


def test_no_socks_proxy_sees_it_either(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{proxy.port}")
    with serving(Dashboard()) as port:
        connect(f"http://127.0.0.1:{port}")
    assert proxy.received == []


@pytest.mark.parametrize("entry", ["default", "machine 127.0.0.1", "machine localhost"])
@pytest.mark.parametrize("at", ["~/.netrc", "NETRC"])
def test_a_password_of_netrc_does_not_replace_the_token(
    entry: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / (".netrc" if at == "~/.netrc" else "elsewhere")
    path.write_text(f"machine other.example login x password y\n{entry} login me password private\n")
    path.chmod(0o600)
    if at == "NETRC":
        monkeypatch.setenv("NETRC", str(path))
    dashboard = Dashboard()
    with serving(dashboard) as port:
        for host in ("127.0.0.1", "localhost"):
            connect(f"http://{host}:{port}")
    assert set(dashboard.authorizations) == {f"Bearer {TOKEN}"}


def test_a_head_elsewhere_is_reached_through_the_proxy_which_the_error_names(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:hidden@"))
    message = (
        rf"the proxy 127\.0\.0\.1:{proxy.port} does not reach http://192\.0\.2\.7:8265 \(502 Bad Gateway\): if the "
        r"head is reached without it, add 192\.0\.2\.7 to NO_PROXY"
    )
    with pytest.raises(Unreachable, match=message) as caught:
        connect("http://192.0.2.7:8265")
    assert "hidden" not in str(caught.value)
    [request] = proxy.received
    assert request.startswith(b"GET http://192.0.2.7:8265/api/version ")
    assert TOKEN.encode() not in request, "only RAY_AUTH_MODE=token sends it to other machines"


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as gone:
        pass
    monkeypatch.setenv("HTTP_PROXY", gone.url)
    with pytest.raises(Unreachable, match=rf"at http://192\.0\.2\.7:8265 through the proxy 127\.0\.0\.1:{gone.port}: "):
        connect("http://192.0.2.7:8265")


def test_what_is_this_machine() -> None:
    for host in ("localhost", "LOCALHOST.", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"):
        assert is_loopback(host), host
    for host in ("example.com", "127.0.0.1.example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "::2", ""):
        assert not is_loopback(host), host


def test_a_clusters_own_head_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a job that submits jobs. Ray sets RAY_ADDRESS in every job."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert is_direct("10.0.0.5")
    assert not is_direct("10.0.0.6")


# --- what the head's processes and its jobs are given

LOOPBACK = "localhost,127.0.0.1,::1,127.0.0.0/8,169.254.169.254,169.254.170.2"


@pytest.mark.parametrize(
    ("given", "both"),
    [
        ({}, (LOOPBACK, LOOPBACK)),
        ({"NO_PROXY": "a.example, .b"}, (f"a.example,.b,{LOOPBACK}",) * 2),
        ({"no_proxy": "a.example"}, (f"a.example,{LOOPBACK}",) * 2),
        ({"no_proxy": "a", "NO_PROXY": "b"}, (f"a,{LOOPBACK}", f"b,{LOOPBACK}")),
        ({"NO_PROXY": LOOPBACK}, (LOOPBACK, LOOPBACK)),
        ({"NO_PROXY": "*"}, ("*", "*")),
    ],
)
def test_no_proxy_is_extended_by_this_machine(given: dict[str, str], both: tuple[str, str]) -> None:
    changed = without_loopback(given)
    assert (changed["no_proxy"], changed["NO_PROXY"]) == both
    assert "no_grpc_proxy" not in changed, "gRPC then reads no_proxy"
    assert without_loopback({"no_grpc_proxy": "a"})["no_grpc_proxy"] == f"a,{LOOPBACK}"


PROGRAM = """
import sys, requests
for url in sys.argv[1:]:
    print(requests.get(url, headers={"Authorization": "Bearer TOKEN"}).status_code)
""".replace("TOKEN", TOKEN)


@pytest.mark.parametrize("netrc", ["default", "machine 127.0.0.1"])
def test_a_heads_programs_reach_this_machine_directly_and_others_through_the_proxy(
    netrc: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's State API client does, which Ray Train uses; and as a client of S3 does."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.setenv("no_proxy", "internal.example")
    (tmp_path / ".netrc").write_text(f"{netrc} login me password private\n")
    dashboard = Dashboard()
    with serving(dashboard) as port:
        urls = [f"http://{host}:{port}/api/version" for host in ("127.0.0.1", "localhost")]
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, *urls, "http://s3.example/bucket"],
            env=head_environment(f"http://127.0.0.1:{port}", {}),
            capture_output=True,
            text=True,
        )
    assert result.stdout.split() == ["200", "200", "502"], result.stderr
    assert [request.partition(b" HTTP")[0] for request in proxy.received] == [b"GET http://s3.example/bucket"]


def test_netrc_stays_in_effect_if_it_does_not_concern_this_machine(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert "NETRC" not in without_loopback(os.environ)
    (tmp_path / ".netrc").write_text("not valid\n")
    assert "NETRC" not in without_loopback(os.environ)


def test_variables_that_a_caller_adds_do_not_open_a_way_around(proxy: Proxy) -> None:
    environment = head_environment("http://127.0.0.1:1", {"HTTP_PROXY": proxy.url, "NO_PROXY": "a.example"})
    assert environment["HTTP_PROXY"] == proxy.url
    assert environment["no_proxy"] == environment["NO_PROXY"] == f"a.example,{LOOPBACK}"


def test_usage_reports_have_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own function that sends the report, with the head's environment."""
    from ray._common.usage import usage_lib

    connections: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: connections.append(arguments))
    monkeypatch.setenv(
        "RAY_USAGE_STATS_REPORT_URL", head_environment("http://127.0.0.1:1", {})["RAY_USAGE_STATS_REPORT_URL"]
    )
    data = usage_lib.generate_disabled_report_data()
    with pytest.raises(requests.exceptions.InvalidSchema):
        usage_lib.UsageReportClient().report_usage_data(usage_lib._usage_stats_report_url(), data)
    assert connections == []
