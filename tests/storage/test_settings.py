"""Endpoint, region, credentials and proxies: from every source that AWS documents, for both clients alike."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arspm import storage
from arspm.storage import arrow_s3
from cluster import tls
from tests.conftest import Bucket
from tests.faulty_server import NO_CHECKSUMS, FaultyServer, faulty_server
from tests.s3_servers import connected_to
from tests.storage.conftest import ONE_SERVER, FaultyFolder, parquet, read_group

REGION = "eu-test-7"
PROXY_VARIABLES = [
    name for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (lower, lower.upper())
]


@pytest.fixture
def configured(tmp_path: Path, faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that takes the server's endpoint, region and keys from the environment and writes AWS's two files.

    In them `{url}` stands for the endpoint.
    """
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    def write(config: str, profile: str = "default", **variables: str) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", *keys):
            monkeypatch.delenv(name, raising=False)
        lines = [f"{name.lower()} = {value}" for name, value in keys.items()]
        (tmp_path / "credentials").write_text("\n".join([f"[{profile}]", *lines]))
        (tmp_path / "config").write_text(config.replace("{url}", faulty.server.url))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value.replace("{url}", faulty.server.url))

    return write


SOURCES = {
    "default": (f"[default]\nregion = {REGION}\nendpoint_url = {{url}}\n", "default", {}),
    "profile": (f"[profile lab]\nregion = {REGION}\nendpoint_url = {{url}}\n", "lab", {"AWS_PROFILE": "lab"}),
    "services": (
        f"[profile lab]\nregion = {REGION}\nservices = own\n[services own]\ns3 =\n  endpoint_url = {{url}}\n",
        "lab",
        {"AWS_PROFILE": "lab"},
    ),
    "AWS_ENDPOINT_URL_S3 before a file": (
        f"[default]\nregion = {REGION}\nendpoint_url = http://127.0.0.1:9\n",
        "default",
        {"AWS_ENDPOINT_URL_S3": "{url}"},
    ),
    "AWS_ENDPOINT_URL_S3 before the other": (
        "",
        "default",
        {"AWS_ENDPOINT_URL_S3": "{url}", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": REGION},
    ),
}


@ONE_SERVER
@pytest.mark.parametrize("source", SOURCES)
def test_both_clients_find_endpoint_region_and_credentials(
    faulty: FaultyFolder, configured: Callable[..., None], source: str
) -> None:
    key = os.environ["AWS_ACCESS_KEY_ID"]
    config, profile, variables = SOURCES[source]
    configured(config, profile, **variables)
    storage.write_bytes(faulty.file("shard"), parquet())
    assert faulty.server.signed == {(key, REGION)}
    faulty.server.signed.clear()
    assert read_group(faulty.file("shard"))[0] == 2000
    assert faulty.server.signed == {(key, REGION)}


@ONE_SERVER
def test_credentials_of_a_program_reach_both_clients(
    faulty: FaultyFolder, configured: Callable[..., None], tmp_path: Path
) -> None:
    """A profile with `credential_process`. It is called once, not by each thread and client."""
    program = tmp_path / "program"
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    program.write_text(
        f"#!/bin/sh\necho called >> {tmp_path}/calls\n"
        f'echo \'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{secret}"}}\'\n'
    )
    program.chmod(0o755)
    configured(
        f"[profile lab]\nregion = {REGION}\nendpoint_url = {{url}}\ncredential_process = {program}\n",
        "other",
        AWS_PROFILE="lab",
    )
    storage.write_bytes(faulty.file("shard"), parquet())
    threads = [threading.Thread(target=read_group, args=[faulty.file("shard")]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert faulty.server.signed == {(key, REGION)}
    assert (tmp_path / "calls").read_text() == "called\n"


@ONE_SERVER
def test_other_settings_of_the_files_reach_pyarrow(
    faulty: FaultyFolder, configured: Callable[..., None], tmp_path: Path
) -> None:
    configured(
        f"[default]\nendpoint_url = {{url}}\nca_bundle = {tmp_path}/ca.pem\ns3 =\n  addressing_style = virtual\n"
    )
    fs, _ = storage.filesystem(faulty.uri)
    found = arrow_s3.settings(fs, "speech")
    assert found.force_virtual_addressing
    assert found.tls_ca_file_path == f"{tmp_path}/ca.pem"
    assert found.region == "us-east-1"


@ONE_SERVER
def test_an_endpoint_may_be_written_in_several_ways(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(faulty.file("shard"), parquet())
    for url in (f"{faulty.server.url}/", faulty.server.url.replace("http", "HTTP")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert storage.read_bytes(faulty.file("shard")) == parquet()
        assert read_group(faulty.file("shard"))[0] == 2000
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    for operation in (storage.read_bytes, read_group):
        with pytest.raises(ValueError, match=r"/shard: Invalid endpoint: 127.0.0.1:9000; write http://HOST:PORT or"):
            operation(faulty.file("shard"))


@ONE_SERVER
def test_errors_name_the_endpoint_that_answered(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another one than the user's if a node has other settings."""
    at = f" at {re.escape(faulty.server.url)}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    for operation in (storage.read_bytes, storage.files_below, read_group):
        with pytest.raises(PermissionError, match=rf"/file: access denied \(.*\){at}; check the credentials"):
            operation(faulty.file("file"))


@ONE_SERVER
def test_a_profile_that_does_not_exist_is_one_line(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    for operation in (storage.read_bytes, storage.files_below, read_group):
        with pytest.raises(PermissionError, match=r"/file: cannot be accessed \(.*nobody.*\); check the AWS settings"):
            operation(faulty.file("file"))


def test_the_endpoints_of_aws_are_left_to_pyarrow() -> None:
    """Only those: it then uses virtual addressing, and asks for nothing."""
    for host in ("s3.amazonaws.com", "s3.eu-west-1.amazonaws.com", "s3.cn-north-1.amazonaws.com.cn"):
        assert arrow_s3._OF_AWS.fullmatch(f"https://{host}")
    for url in ("http://s3.amazonaws.com", "https://bucket.vpce-1.s3.us-east-1.vpce.amazonaws.com", "https://s3.a.com"):
        assert not arrow_s3._OF_AWS.fullmatch(url)


def test_the_region_of_a_bucket_on_aws_is_looked_up_once(moto_bucket: Bucket) -> None:
    """By s3fs, which AWS tells the region of a bucket whatever region it asks."""
    with faulty_server(moto_bucket.env["AWS_ENDPOINT_URL"]) as server:
        env = {"AWS_ENDPOINT_URL": server.url, "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
        with connected_to(moto_bucket.env | env):
            fs, _ = storage.filesystem(moto_bucket.uri)
            assert [arrow_s3._region(fs, "speech") for _ in range(2)] == ["us-east-1"] * 2
            assert server.requests == {"HEAD": 1}
            with pytest.raises(FileNotFoundError):
                arrow_s3._region(fs, "no-such-bucket")


@ONE_SERVER
def test_checksums_are_sent_only_if_the_user_wants_them(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.server.lacks.add(NO_CHECKSUMS)
    storage.write_bytes(faulty.file("shard"), parquet())
    storage.upload(__file__, faulty.file("file"))
    assert read_group(faulty.file("shard"))[0] == 2000
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    with pytest.raises(OSError, match="Unsupported header 'x-amz-checksum-crc32'"):
        storage.write_bytes(faulty.file("file"), b"1")


@contextlib.contextmanager
def forward_proxy(server: FaultyServer) -> Iterator[tuple[str, list[str]]]:
    """A proxy in a process of its own that sends everything to the server: its URL, and the lines that it printed."""
    program = Path(__file__).parents[1] / "forward_proxy.py"
    upstream = "{}:{}".format(*server.server_address)
    with subprocess.Popen([sys.executable, str(program), upstream], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, lines = f"http://127.0.0.1:{process.stdout.readline().strip()}", list[str]()
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
        reader.start()
        try:
            yield url, lines
        finally:
            process.terminate()
            reader.join()


@pytest.fixture
def proxied(faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A forward proxy to the server. No proxy is set, and proxies are not bypassed for loopback."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with forward_proxy(faulty.server) as found:
        yield found


@ONE_SERVER
def test_both_clients_use_the_proxy_of_the_environment(
    faulty: FaultyFolder, proxied: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's name is known to the proxy only. Excluded by NO_PROXY, requests no longer reach it."""
    url, lines = proxied
    for variable in ("HTTP_PROXY", "http_proxy"):
        lines.clear()
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://store.invalid:9000")
            patch.setenv(variable, url)
            storage.write_bytes(faulty.file("shard"), parquet())
            num_lines = len(lines)
            assert lines
            assert read_group(faulty.file("shard"))[0] == 2000
        assert len(lines) > num_lines
        assert all(line.split()[1].startswith("http://store.invalid:9000/speech/") for line in lines)
    lines.clear()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    storage.write_bytes(faulty.file("shard"), parquet())
    assert read_group(faulty.file("shard"))[0] == 2000


@ONE_SERVER
def test_both_clients_use_the_proxy_and_the_authority_for_https(
    faulty: FaultyFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tls.make_authority(tmp_path / "ca")
    tls.make_node(tmp_path / "ca", tmp_path / "node", ["store.invalid"])
    certificates = {path.name: path for path in (tmp_path / "node").iterdir()}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["tls.crt"], certificates["tls.key"])
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    plain = f"http://{faulty.server.upstream.hostname}:{faulty.server.upstream.port}"
    with faulty_server(plain) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with forward_proxy(server) as (url, lines):
            monkeypatch.setenv("HTTPS_PROXY", url)
            monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.invalid")
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates["ca.crt"]))
            storage.write_bytes(faulty.file("shard"), parquet())
            num_lines = len(lines)
            assert lines
            assert read_group(faulty.file("shard"))[0] == 2000
            assert len(lines) > num_lines
            assert {line.strip() for line in lines} == {"CONNECT store.invalid:443"}


@ONE_SERVER
def test_a_renewed_file_replaces_the_clients_of_a_process(
    faulty: FaultyFolder, configured: Callable[..., None], tmp_path: Path
) -> None:
    configured("[default]\nendpoint_url = {url}\n")
    key = Path(tmp_path / "credentials").read_text()
    assert not storage.exists(faulty.file("none"))
    Path(tmp_path / "credentials").write_text(key.replace("aws_access_key_id = ", "aws_access_key_id = other"))
    os.utime(tmp_path / "credentials", ns=(1, 1))
    for operation in (storage.read_bytes, read_group):
        with pytest.raises(PermissionError):
            operation(faulty.file("none"))
