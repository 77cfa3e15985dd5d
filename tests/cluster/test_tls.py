"""The certificates of a cluster's nodes: used by Ray's own gRPC server and channels, and as files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray._common.tls_utils import add_port_to_grpc_server
from ray._private.grpc_utils import init_grpc_channel

from cluster import tls
from cluster.errors import ClusterError


def use_certificate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    monkeypatch.setenv("RAY_TLS_SERVER_CERT", str(folder / tls.NODE_CERT))
    monkeypatch.setenv("RAY_TLS_SERVER_KEY", str(folder / tls.NODE_KEY))
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(folder / tls.CA_CERT))


def connects(address: str, name: str | None = None, seconds: float = 20) -> bool:
    """Whether one of Ray's channels becomes ready. `name`: the name that the server's certificate must have."""
    options = [("grpc.ssl_target_name_override", name)] if name else None
    with init_grpc_channel(address, options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
    return True


def answers_a_call(address: str) -> bool:
    """Whether the server answers a call.

    In TLS 1.3 a channel can become ready before the server refuses the client's certificate.
    """
    with init_grpc_channel(address) as channel:
        try:
            channel.unary_unary("/any/Any")(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED  # the server's own answer
    return True


def test_rays_channels_connect_only_nodes_of_the_same_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cluster in ("ours", "theirs"):
        tls.make_authority(tmp_path / cluster)
        tls.make_node(tmp_path / cluster, tmp_path / f"{cluster}-node", ["10.0.0.7", "head.arspm.svc"])
    server = grpc.server(ThreadPoolExecutor(1))
    use_certificate(monkeypatch, tmp_path / "ours-node")
    port = add_port_to_grpc_server(server, "127.0.0.1:0")
    server.start()
    try:
        address = f"127.0.0.1:{port}"
        assert connects(address)
        assert answers_a_call(address)
        for name in ("10.0.0.7", "head.arspm.svc"):
            assert connects(address, name)
        assert not connects(address, "10.0.0.8", seconds=2), "another node's address"
        use_certificate(monkeypatch, tmp_path / "theirs-node")
        assert not connects(address, seconds=2), "another cluster's node"
        monkeypatch.setenv("RAY_TLS_CA_CERT", str(tmp_path / "ours" / tls.CA_CERT))
        assert not answers_a_call(address), "a client that trusts our authority but has a certificate of another"
    finally:
        server.stop(grace=None).wait()


def test_creating_an_authority_first_leaves_the_state_directory_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cluster.tls ca` may be the first command of all, with the usual umask; an open state directory is closed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ARSPM_HOME")
    home = tmp_path / ".arspm"
    before = os.umask(0o022)
    try:
        tls.main(["ca", str(home / "ca")])
        tls.main(["node", str(home / "ca"), str(tmp_path / "some/where"), "10.0.0.7"])
        folders = [home, home / "ca", tmp_path / "some", tmp_path / "some/where"]
        assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
        home.chmod(0o755)
        tls.main(["node", str(home / "ca"), str(home / "tls"), "10.0.0.7"])
        assert home.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_only_the_owner_reads_certificates_and_an_authority_is_not_replaced(tmp_path: Path) -> None:
    tls.main(["ca", str(tmp_path / "ca")])
    for _ in range(2):  # the second time: a node that restarts
        tls.main(["node", str(tmp_path / "ca"), str(tmp_path / "node"), "10.0.0.7"])
    assert {path.name for path in (tmp_path / "node").iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")} == {0o600}
    with pytest.raises(SystemExit, match=r"error: .*ca\.crt exists"):
        tls.main(["ca", str(tmp_path / "ca")])
    for name in ("$(FQ_RAY_IP)", "", "10.0.0.7 10.0.0.8"):  # such as an unset variable
        with pytest.raises(ClusterError, match="is neither an IP address nor a host name"):
            tls.make_node(tmp_path / "ca", tmp_path / "node", [name])
    with pytest.raises(ClusterError, match="must name the addresses"):
        tls.make_node(tmp_path / "ca", tmp_path / "node", [])
    with pytest.raises(ClusterError, match=r"no certificate authority in .*/none"):
        tls.make_node(tmp_path / "none", tmp_path / "node", ["10.0.0.7"])
