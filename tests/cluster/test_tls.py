"""The certificates of a cluster's nodes: through Ray's own gRPC server and channels, and as files."""

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


def is_answered(address: str, name: str | None = None, seconds: float = 20) -> bool:
    """Whether a channel, made as Ray makes its own, comes to stand with whoever proves to be `name`."""
    options = [("grpc.ssl_target_name_override", name)] if name else None
    with init_grpc_channel(address, options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
    return True


def answers_a_call(address: str) -> bool:
    """TLS 1.3 lets a client believe in the channel before the server has refused its certificate: so make a call."""
    with init_grpc_channel(address) as channel:
        try:
            channel.unary_unary("/any/Any")(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED  # the server's own answer
    return True


def test_rays_own_channels_stand_between_nodes_of_one_cluster_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cluster in ("ours", "theirs"):
        tls.make_authority(tmp_path / cluster)
        tls.make_node(tmp_path / cluster, tmp_path / f"{cluster}-node", ["10.0.0.7", "head.arspm.svc"])
    server = grpc.server(ThreadPoolExecutor(1))
    use_certificate(monkeypatch, tmp_path / "ours-node")
    port = add_port_to_grpc_server(server, "127.0.0.1:0")
    server.start()
    try:
        address = f"127.0.0.1:{port}"
        assert is_answered(address)
        assert answers_a_call(address)
        for name in ("10.0.0.7", "head.arspm.svc"):
            assert is_answered(address, name)
        assert not is_answered(address, "10.0.0.8", seconds=2), "another node's address"
        use_certificate(monkeypatch, tmp_path / "theirs-node")
        assert not is_answered(address, seconds=2), "another cluster's node"
        monkeypatch.setenv("RAY_TLS_CA_CERT", str(tmp_path / "ours" / tls.CA_CERT))
        assert not answers_a_call(address), "who trusts us but is not ours"
    finally:
        server.stop(grace=None).wait()


def test_an_authority_made_first_leaves_the_states_home_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m cluster.tls ca ~/.arspm/ca` as the first of all commands, with the usual umask; then one left open."""
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


def test_certificates_belong_to_their_owner_and_an_authority_stays(tmp_path: Path) -> None:
    tls.main(["ca", str(tmp_path / "ca")])
    for _ in range(2):  # a node that starts again
        tls.main(["node", str(tmp_path / "ca"), str(tmp_path / "node"), "10.0.0.7"])
    assert {path.name for path in (tmp_path / "node").iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")} == {0o600}
    with pytest.raises(SystemExit, match=r"error: .*ca\.crt exists"):
        tls.main(["ca", str(tmp_path / "ca")])
    for name in ("$(FQ_RAY_IP)", "", "10.0.0.7 10.0.0.8"):  # a variable that was not there, and the like
        with pytest.raises(ClusterError, match="is neither an address nor a host name"):
            tls.make_node(tmp_path / "ca", tmp_path / "node", [name])
    with pytest.raises(ClusterError, match="must name the addresses"):
        tls.make_node(tmp_path / "ca", tmp_path / "node", [])
    with pytest.raises(ClusterError, match=r"no certificate authority in .*/none"):
        tls.make_node(tmp_path / "none", tmp_path / "node", ["10.0.0.7"])
