"""Access to clusters that the deployment files create: a token and TLS everywhere, and nothing runs as root."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from cluster import tls
from cluster.access import token_file
from tests.cluster.cluster_files import (
    DOCKERFILE,
    SBATCH,
    STORAGE,
    container_start,
    environment,
    launcher,
    launcher_environment,
    manifest,
    manifests,
    pods,
    ray_cluster,
)


def test_every_file_requires_the_token() -> None:
    config = launcher()
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        [start] = [command for command in commands if " ray start " in command]
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert config["file_mounts"]["~/.ray/auth_token"].endswith("/.ray/auth_token")
    assert "RAY_AUTH_MODE=token" in DOCKERFILE.read_text()
    assert ray_cluster()["authOptions"] == {"mode": "token", "secretName": "arspm-token"}
    assert not [each for each in manifests() if each["kind"] == "Secret"], "no file contains a secret"
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in SBATCH.read_text()


def test_dashboards_listen_on_loopback_or_behind_a_network_policy() -> None:
    [start] = [command for command in launcher()["head_start_ray_commands"] if " ray start " in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--dashboard-host=127.0.0.1" in SBATCH.read_text()
    # In a pod, KubeRay must reach it. A policy allows that one pod on one port, and no other.
    policy, head = manifest("NetworkPolicy", "arspm")["spec"], manifest("NetworkPolicy", "arspm-head")["spec"]
    cluster = {"ray.io/cluster": manifest("RayCluster", "arspm")["metadata"]["name"]}
    assert policy["podSelector"]["matchLabels"] == cluster
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": cluster}}]}]
    assert head["podSelector"]["matchLabels"] == {**cluster, "ray.io/node-type": "head"}
    assert [rule["ports"] for rule in head["ingress"]] == [[{"protocol": "TCP", "port": 8265}]]
    assert [len(rule["from"]) for rule in head["ingress"]] == [1]


def test_no_pod_runs_as_root_or_can_become_root() -> None:
    image_user = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)[-1]
    assert "--uid 1000 " in DOCKERFILE.read_text()
    for name, pod in pods().items():
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert str(context["runAsUser"]) == image_user == "1000"
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert name == "head" or not pod["automountServiceAccountToken"]
        assert manifest("ServiceAccount", pod["serviceAccountName"])
        for container in [*pod["initContainers"], *pod["containers"], ray_cluster()["autoscalerOptions"]]:
            context = container["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("group", launcher()["available_node_types"])
def test_the_launcher_mounts_token_and_authority_at_the_paths_that_the_container_uses(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, start = launcher(), container_start(group)
    mounted = {word.rpartition(":")[2] for flag, word in pairwise(start) if flag == "-v"}

    [user] = re.findall(r"useradd .* (\w+) ", DOCKERFILE.read_text())
    monkeypatch.setenv("HOME", f"/home/{user}")  # as Docker sets it for the image's user
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    start_commands = config["head_start_ray_commands" if group == "head" else "worker_start_ray_commands"]
    [authority] = [Path(shlex.split(each)[4]).expanduser() for each in start_commands if "cluster.tls node" in each]
    assert mounted == {str(token_file()), str(authority)}
    folders = re.search(r"install --directory --owner=(\w+) .* --mode=700 (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert folders[1] == user
    assert {str(Path(each).parent) for each in mounted} == set(folders[2].split()), (
        "otherwise Docker creates them as root"
    )


# --- TLS


def test_every_node_of_the_launcher_creates_its_certificate_before_ray_starts() -> None:
    config, variables = launcher(), launcher_environment()
    assert variables.pop("RAY_USE_TLS") == "1"
    paths = {name: path for name, path in variables.items() if name.startswith("RAY_TLS")}
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        make = next(i for i, command in enumerate(commands) if "cluster.tls" in command)
        assert make < next(i for i, command in enumerate(commands) if " ray start " in command)
        _, _, module, _, authority, folder, *names = shlex.split(commands[make])
        assert module == "cluster.tls"
        assert names == ["$(hostname", "-I)"]
        assert config["file_mounts"][authority].endswith("/.arspm/ca")
        assert authority != folder, "the head copies the authority's folder to the workers"
        home = folder.replace("~", "/home/ray")
        assert paths == {
            "RAY_TLS_SERVER_CERT": f"{home}/tls.crt",
            "RAY_TLS_SERVER_KEY": f"{home}/tls.key",
            "RAY_TLS_CA_CERT": f"{home}/ca.crt",
        }


def test_every_pod_creates_its_certificate_and_ray_cannot_read_the_authoritys_key() -> None:
    options = ray_cluster()["autoscalerOptions"]
    for name, pod in pods().items():
        [init], [container] = pod["initContainers"], pod["containers"]
        [certificates] = [each["mountPath"] for each in init["volumeMounts"] if each["name"] == "tls"]
        [authority] = [each["mountPath"] for each in init["volumeMounts"] if each["name"] == "ca"]
        addresses = ["$(POD_IP)", "$(FQ_RAY_IP)"] if name == "head" else ["$(POD_IP)"]
        assert init["command"] == ["python", "-m", "cluster.tls", "node", authority, certificates, *addresses]
        [volume] = [each for each in pod["volumes"] if each["name"] == "ca"]
        assert volume["secret"]["secretName"] == "arspm-ca"
        for user in (container, options):
            variables = environment(user)
            variables.pop(STORAGE)
            assert variables == {
                "RAY_USE_TLS": "1",
                "RAY_TLS_SERVER_CERT": f"{certificates}/{tls.NODE_CERT}",
                "RAY_TLS_SERVER_KEY": f"{certificates}/{tls.NODE_KEY}",
                "RAY_TLS_CA_CERT": f"{certificates}/{tls.CA_CERT}",
            }
            mounts = {each["name"]: each["mountPath"] for each in user["volumeMounts"]}
            assert mounts["tls"] == certificates
            assert "ca" not in mounts
