"""The files of clusters elsewhere: Ray's launcher on AWS, KubeRay, Slurm, the image. By the rules of those who read
them, and against each other: one version, one shape, drivers off spot nodes, a token and TLS everywhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from moto.utilities.utils import load_resource
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest
from ray.core.generated.instance_manager_pb2 import Instance

from arspm.config import Asks, Tasks, override
from arspm.presets import PAPER
from cluster import tls
from cluster.access import token_file
from tests.cluster.kuberay_schema import KUBERAY, KUBERNETES

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

REPO = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent  # hadolint and shellcheck lie beside Python
LAUNCHER = REPO / "ray_cluster.yaml"
DOCKERFILE = REPO / "cluster/Dockerfile"
SBATCH = REPO / "cluster/slurm/arspm.sbatch"
MANIFESTS = [REPO / "cluster/kuberay" / f"{name}.yaml" for name in ("access", "raycluster", "rayjob")]
FILES = [LAUNCHER, DOCKERFILE, SBATCH, *MANIFESTS]
STORAGE = "ARSPM_STORAGE"
DOCUMENT = REPO / "docs/cluster.md"


def launcher() -> dict[str, Any]:
    """The launcher's file as Ray reads it."""
    return prepare_config(yaml.safe_load(LAUNCHER.read_text()))


def aws() -> dict[str, Any]:
    """The launcher's file as Ray's provider for AWS fills it in: with a worker's memory, from what EC2 says of it."""
    config = launcher()
    types = load_resource("ec2/resources/instance_types.json")
    used = [types[kind["node_config"]["InstanceType"]] for kind in config["available_node_types"].values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_provider, "list_ec2_instances", lambda *_: used)
        return node_provider.AWSNodeProvider.fillout_available_node_types_resources(config)


def manifests() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def ray_cluster() -> dict[str, Any]:
    """The RayCluster's spec."""
    return manifest("RayCluster", "arspm")["spec"]


def kuberay() -> dict[str, Any]:
    """The RayCluster as Ray's autoscaler reads it, its groups by the launcher's names."""
    cluster = manifest("RayCluster", "arspm")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = {name.replace("-", "_"): kind for name, kind in config["available_node_types"].items()}
    types["head"] = types.pop(config["head_node_type"])
    return config | {"available_node_types": types, "head_node_type": "head"}


def groups() -> dict[str, dict[str, Any]]:
    """The RayCluster's groups of pods by the launcher's name for them."""
    spec = ray_cluster()
    return {"head": spec["headGroupSpec"]} | {
        group["groupName"].replace("-", "_"): group for group in spec["workerGroupSpecs"]
    }


def pods() -> dict[str, dict[str, Any]]:
    return {name: group["template"]["spec"] for name, group in groups().items()}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def launcher_environment() -> dict[str, str]:
    """What the launcher adds to the image's environment."""
    words = [shlex.split(option) for option in launcher()["docker"]["run_options"]]
    return dict(word.split("=", 1) for flag, word in words if flag == "--env")


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV instructions set."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    words = [word for line in lines if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return dict(word.split("=", 1) for word in words)


# --- by the rules of those who read them


def test_the_launchers_file_is_valid_by_rays_schema() -> None:
    validate_config(launcher())
    with pytest.raises(jsonschema.ValidationError, match="'max_worker' was unexpected"):
        validate_config({**launcher(), "max_worker": 3})


def test_the_linters_find_nothing() -> None:
    for command in (["hadolint", "--no-color", "--failure-threshold=style", DOCKERFILE], ["shellcheck", SBATCH]):
        result = subprocess.run([TOOLS / command[0], *command[1:]], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


# --- one place for versions


def test_every_file_has_the_versions_of_the_project() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    pins = dict(line.split("==", 1) for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)
    python = re.search(r"^FROM python:(\d+\.\d+)-", DOCKERFILE.read_text(), re.MULTILINE)[1]

    texts = {path.name: path.read_text() for path in [*FILES, DOCUMENT]}
    tags = [(name, tag) for name, text in texts.items() for tag in re.findall(r"/arspm:([\w.-]+)", text)]
    assert {name for name, _ in tags} == {"Dockerfile", "ray_cluster.yaml", "raycluster.yaml", "cluster.md"}
    assert {tag for _, tag in tags} == {project}
    images = {launcher()["docker"]["image"]}
    for pod in pods().values():
        images |= {container["image"] for container in pod["initContainers"] + pod["containers"]}
    assert images == {f"registry.example.com/arspm:{project}"}

    assert ray_cluster()["rayVersion"] == pins["ray"]
    mypy = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert python == mypy, "the Python that is tested"
    [install] = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("RUN pip install")]
    assert shlex.split(install)[1:5] == ["pip", "install", "--constraint", "constraints.txt"]
    named = [name for name, text in texts.items() if re.search(rf"(?<![\d.]){re.escape(pins['torch'])}", text)]
    assert named == [], "torch's version is for constraints.txt alone"

    [installed] = re.findall(r"helm install kuberay-operator .* --version (\S+)", texts["cluster.md"])
    assert installed == KUBERAY, "the version whose rules the manifests are tried by"
    kuberays = [each for text in texts.values() for each in re.findall(r"KubeRay (\d+(?:\.\d+)+)", text)]
    assert set(kuberays) <= {KUBERAY, KUBERAY.rpartition(".")[0]}
    assert f"schemas for {KUBERNETES}, strict" in texts["cluster.md"]


def test_the_launcher_installs_nothing_beside_the_image() -> None:
    """Ray's own setup commands, which it takes where a file has none, would bring a Ray of another version."""
    config = launcher()
    assert config["head_setup_commands"] == config["worker_setup_commands"] == config["setup_commands"] == []


# --- one shape


def test_kuberays_autoscaler_sees_the_launchers_cluster() -> None:
    seen, wanted = kuberay(), launcher()
    assert seen["idle_timeout_minutes"] == wanted["idle_timeout_minutes"]
    types = seen["available_node_types"]
    assert set(types) == set(wanted["available_node_types"])
    for name, kind in wanted["available_node_types"].items():
        there = types[name]
        assert {key: value for key, value in there["resources"].items() if key != "memory"} == kind["resources"]
        assert there.get("priority", 0) == kind.get("priority", 0)
        if name != "head":
            assert (there["min_workers"], there["max_workers"]) == (kind["min_workers"], kind["max_workers"])
            assert groups()[name]["replicas"] == 0, "from nothing"


@pytest.mark.parametrize("read", [aws, kuberay])
@pytest.mark.parametrize(
    ("asked", "number", "launched"),
    [
        ({"CPU": 1}, 1, {"cpu": 1}),
        ({"CPU": 1, "GPU": 1}, 3, {"gpu_spot": 3}),
        ({"GPU": 0.5, "on_demand": 0.01}, 2, {"gpu": 1}),
        ({"GPU": 0.5, "spot": 0.01}, 2, {"gpu_spot": 1}),
        ({"GPU": 1}, 10, {"gpu_spot": 8, "gpu": 2}),
    ],
)
def test_rays_autoscaler_starts_the_group_that_is_meant(
    read: Callable[[], dict[str, Any]], asked: dict[str, float], number: int, launched: dict[str, int]
) -> None:
    assert to_launch(read(), [asked] * number) == launched


@pytest.mark.parametrize("read", [aws, kuberay])
@pytest.mark.parametrize(
    ("stage", "changes", "launched"),
    [
        ("preprocess", {}, {"cpu": 4}),
        ("preprocess", {"preprocess.pool": "cpu_only"}, {"cpu": 4}),
        ("preprocess", {"preprocess.num_tasks": 200, "preprocess.pool": ""}, {"cpu": 8, "gpu_spot": 5}),
        ("preprocess", {"preprocess.memory_gib": 1}, {"cpu": 4}),
        ("preprocess", {"preprocess.memory_gib": 5, "preprocess.num_tasks": 8}, {"cpu": 2}),
        ("vggface", {}, {"gpu_spot": 4}),
        ("gender", {}, {"gpu_spot": 4}),
        ("decoder", {}, {"gpu_spot": 4}),
        ("encoder", {}, {"gpu_spot": 4}),
        ("encoder", {"encoder.pool": "on_demand"}, {"gpu": 4}),
        ("encoder", {"encoder.pool": "spot", "encoder.memory_gib": 40, "read.memory_gib": 1}, {"gpu_spot": 4}),
        ("encoder", {"read.pool": "cpu_only", "read.cpus": 2}, {"gpu_spot": 4, "cpu": 2}),
        ("infer", {}, {"gpu_spot": 4}),
        ("infer", {"infer.gpus": 0.5, "infer.memory_gib": 20}, {"gpu_spot": 2}),
        ("infer", {"infer.gpus": 0.5, "infer.memory_gib": 30}, {"gpu_spot": 4}),
    ],
)
def test_the_papers_preset_gets_the_nodes_that_are_meant(
    read: Callable[[], dict[str, Any]], stage: str, changes: dict[str, Any], launched: dict[str, int]
) -> None:
    """Each stage alone, from nothing: training's workers come all together, beside their readers."""
    resources = override(PAPER, {f"resources.{name}": value for name, value in changes.items()}).resources
    asks = getattr(resources, stage)
    if isinstance(asks, Tasks):
        assert to_launch(read(), [asks.bundle] * asks.num_tasks) == launched
    else:
        readers = [resources.read.bundle] * (asks.num_workers * resources.read.num_tasks)
        assert to_launch(read(), readers, [asks.bundle] * asks.num_workers) == launched


@pytest.mark.parametrize(("read", "launched"), [(aws, {"cpu": 6}), (kuberay, {"cpu": 5})])
def test_memory_is_what_a_nodes_tasks_may_have_of_it(
    read: Callable[[], dict[str, Any]], launched: dict[str, int]
) -> None:
    """64 tasks of 2 GiB each: 70% of a machine's 32 GiB on AWS, a pod's 27 GiB on Kubernetes."""
    tasks = override(PAPER, {"resources.preprocess.memory_gib": 2}).resources.preprocess
    assert to_launch(read(), [tasks.bundle] * tasks.num_tasks) == launched


@pytest.mark.parametrize("read", [aws, kuberay])
def test_without_spot_nodes_training_goes_on_demand(read: Callable[[], dict[str, Any]]) -> None:
    assert to_launch(read(), [{"GPU": 1}] * 2, recoverable_resource_availabilities={"gpu_spot": 0.0}) == {"gpu": 2}


@pytest.mark.parametrize("read", [aws, kuberay])
def test_tasks_that_ask_for_cpu_nodes_leave_those_with_gpus_alone(read: Callable[[], dict[str, Any]]) -> None:
    """A GPU node is on its way, with 16 CPUs: tasks that ask for no pool would be put there."""
    queued = Instance(instance_type="gpu_spot", status=Instance.QUEUED)
    coming = {"current_instances": [AutoscalerInstance(im_instance=queued)]}
    assert to_launch(read(), [Asks().bundle] * 16, **coming) == {}
    assert to_launch(read(), [Asks(pool="cpu_only").bundle] * 16, **coming) == {"cpu": 1}


def to_launch(
    read: dict[str, Any], asked: list[dict[str, float]], together: Sequence[dict[str, float]] = (), **state: Any
) -> dict[str, int]:
    """The nodes that Ray's autoscaler starts, from nothing, for tasks and for a placement group's bundles."""
    config = AutoscalingConfig(read, skip_content_hash=True)
    group = GangResourceRequest(requests=[ResourceRequestUtil.make(bundle) for bundle in together])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(each) for each in asked]),
        gang_resource_requests=[group] if together else [],
        **state,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    assert not reply.infeasible_gang_resource_requests
    return {each.instance_type: each.count for each in reply.to_launch}


def test_every_group_is_a_pool_and_commands_name_no_other() -> None:
    """On GPU nodes alone, or on CPU nodes alone, in each market: what a stage may ask for."""
    resources = {
        name: kind["resources"].keys() - {"CPU", "GPU"}
        for name, kind in launcher()["available_node_types"].items()
        if name != "head"
    }
    assert resources == {"cpu": {"cpu_only"}, "gpu": {"on_demand"}, "gpu_spot": {"spot"}}
    shown = [
        each for path in [*FILES, DOCUMENT] for each in re.findall(r"(resources\.\w+\.pool)=(\w+)", path.read_text())
    ]
    assert {stage for stage, _ in shown} >= {"resources.preprocess.pool", "resources.encoder.pool"}
    for name, pool in shown:
        assert pool in set().union(*resources.values())
        override(PAPER, {name: pool})


def test_the_document_has_the_launchers_groups() -> None:
    rows = re.findall(r"^\| (\w+) \| (\S+), (spot|on demand) \| (.*?) \| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE)
    told = {name: (machine, market, resources, int(most)) for name, machine, market, resources, most in rows}
    assert told == {
        name: (
            kind["node_config"]["InstanceType"],
            "spot" if "InstanceMarketOptions" in kind["node_config"] else "on demand",
            ", ".join(f"{name} {amount}" for name, amount in kind["resources"].items()),
            1 if name == "head" else kind["max_workers"],
        )
        for name, kind in launcher()["available_node_types"].items()
    }


def test_the_groups_are_the_launchers_machines() -> None:
    for name, kind in launcher()["available_node_types"].items():
        node = kind["node_config"]
        spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert pods()[name]["nodeSelector"] == {
            "node.kubernetes.io/instance-type": node["InstanceType"],
            "karpenter.sh/capacity-type": "spot" if spot else "on-demand",
        }
        [disk] = node["BlockDeviceMappings"]
        limit = pods()[name]["containers"][0]["resources"]["limits"]["ephemeral-storage"]
        assert int(limit.removesuffix("Gi")) < disk["Ebs"]["VolumeSize"], "what a pod may write fits the machine's disk"
        assert disk["Ebs"]["Encrypted"]


def test_gpus_are_asked_for_where_ray_counts_them() -> None:
    for name, kind in launcher()["available_node_types"].items():
        gpus = str(kind["resources"].get("GPU", 0))
        resources = pods()[name]["containers"][0]["resources"]
        assert {side.get("nvidia.com/gpu", "0") for side in resources.values()} == {gpus}
        tolerated = [each["key"] for each in pods()[name].get("tolerations", [])]
        assert tolerated == (["nvidia.com/gpu"] if gpus != "0" else [])


def test_drivers_stay_on_a_head_that_stays() -> None:
    """A job that asks for nothing starts on the head, and Train's controller beside its driver. So: a head on demand,
    with no room for work, jobs that ask for nothing, and nobody allows drivers elsewhere."""
    types = launcher()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"cpu", "gpu_spot"}
    assert types["gpu_spot"]["resources"].keys() - types["gpu"]["resources"].keys() == {"spot"}
    assert types["gpu"]["resources"].keys() - types["gpu_spot"]["resources"].keys() == {"on_demand"}
    assert not [path for path in FILES if "RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES" in path.read_text()]
    job = manifest("RayJob", "arspm-one")["spec"]
    assert not [field for field in job if field.startswith("entrypoint") and field != "entrypoint"]
    assert job["clusterSelector"] == {"ray.io/cluster": manifest("RayCluster", "arspm")["metadata"]["name"]}


def test_the_rayjob_is_a_command_that_arspm_takes() -> None:
    import typer.testing

    from jobs.cli import app

    command = manifest("RayJob", "arspm-one")["spec"]["entrypoint"]
    words = on_the_head(command, {STORAGE: "/nowhere"}).splitlines()
    assert words[:2] == ["arspm", "submit"]
    unreachable = ["http://127.0.0.1:1" if word == "http://127.0.0.1:8265" else word for word in words]
    result = typer.testing.CliRunner().invoke(app, unreachable[1:])
    assert result.exit_code != 2, result.output  # 2: no such option, or one is missing
    assert "/nowhere" in str(result.exception), "it got as far as the clips, which are not there"


def test_one_place_of_a_cluster_names_its_bucket() -> None:
    """And what runs on the head reads it there. Where it is missing the RayJob does not run with half a place."""
    named = {launcher_environment()[STORAGE]}
    named |= {environment(container)[STORAGE] for pod in pods().values() for container in pod["containers"]}
    [storage] = named
    said = [(path.name, line) for path in FILES for line in path.read_text().splitlines() if "s3://" in line]
    assert {match for _, line in said for match in re.findall(r"s3://[\w.-]+", line)} == {storage}
    assert set(re.findall(r"s3://[\w.-]+", DOCUMENT.read_text())) == {storage}
    assert [name for name, line in said if not line.startswith("#")] == ["ray_cluster.yaml", "raycluster.yaml"]

    [example] = re.findall(r"# ray exec ray_cluster.yaml '(.*)'$", LAUNCHER.read_text(), re.MULTILINE)
    entrypoint = manifest("RayJob", "arspm-one")["spec"]["entrypoint"]
    for command in (entrypoint, example):
        assert f"{storage}/runs/one" in on_the_head(command, {STORAGE: storage}).splitlines()
    with pytest.raises(subprocess.CalledProcessError):
        on_the_head(entrypoint, {})


def on_the_head(command: str, env: dict[str, str]) -> str:
    """The command's words, a line each, as the head's shell makes them."""
    script = f"printf '%s\\n' {command}"
    return subprocess.run(["sh", "-c", script], env=env, check=True, capture_output=True, text=True).stdout


# --- who gets in


def test_every_way_in_wants_the_token() -> None:
    config = launcher()
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        [start] = [command for command in commands if " ray start " in command]
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert config["file_mounts"]["~/.ray/auth_token"].endswith("/.ray/auth_token")
    assert "RAY_AUTH_MODE=token" in DOCKERFILE.read_text()
    assert ray_cluster()["authOptions"] == {"mode": "token", "secretName": "arspm-token"}
    assert not [each for each in manifests() if each["kind"] == "Secret"], "secrets are made where they are used"
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in SBATCH.read_text()


def test_dashboards_listen_on_loopback_or_behind_a_policy() -> None:
    [start] = [command for command in launcher()["head_start_ray_commands"] if " ray start " in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--dashboard-host=127.0.0.1" in SBATCH.read_text()
    # In a pod KubeRay has to reach it; so a policy names who else may: one pod on one port.
    policy, head = manifest("NetworkPolicy", "arspm")["spec"], manifest("NetworkPolicy", "arspm-head")["spec"]
    cluster = {"ray.io/cluster": manifest("RayCluster", "arspm")["metadata"]["name"]}
    assert policy["podSelector"]["matchLabels"] == cluster
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": cluster}}]}]
    assert head["podSelector"]["matchLabels"] == {**cluster, "ray.io/node-type": "head"}
    assert [rule["ports"] for rule in head["ingress"]] == [[{"protocol": "TCP", "port": 8265}]]
    assert [len(rule["from"]) for rule in head["ingress"]] == [1]


def test_no_pod_is_root_or_may_become_it() -> None:
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


@pytest.mark.parametrize("as_head", [True, False])
def test_the_launcher_mounts_token_and_authority_where_the_container_looks(
    as_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the launcher's own way of starting the container, on a machine that has the image and runs nothing yet."""
    config, asked = launcher(), []

    def over_ssh(command: str, **_: Any) -> bytes:
        asked.append(command)
        environment = [f"{name}={value}" for name, value in image_environment().items()]
        return json.dumps(environment).encode() if ".Config.Env" in command else b""

    own = {"auth_config": config["auth"], "cluster_name": config["cluster_name"], "use_internal_ip": False}
    runner = DockerCommandRunner(
        config["docker"], log_prefix="", node_id="", provider=None, process_runner=subprocess, **own
    )
    monkeypatch.setattr(runner.ssh_command_runner, "run", over_ssh)
    runner.run_init(as_head=as_head, file_mounts=config["file_mounts"], sync_run_yet=True)
    [start] = [shlex.split(command) for command in asked if command.startswith("docker run ")]
    mounted = {word.rpartition(":")[2] for flag, word in pairwise(start) if flag == "-v"}

    [user] = re.findall(r"useradd .* (\w+) ", DOCKERFILE.read_text())
    monkeypatch.setenv("HOME", f"/home/{user}")  # as Docker has it for whom the image names
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    commands = config["head_start_ray_commands" if as_head else "worker_start_ray_commands"]
    [authority] = [Path(shlex.split(each)[4]).expanduser() for each in commands if "cluster.tls node" in each]
    assert mounted == {str(token_file()), str(authority)}
    folders = re.search(r"install --directory --owner=(\w+) .* --mode=700 (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert folders[1] == user
    assert {str(Path(each).parent) for each in mounted} == set(folders[2].split()), "else they are root's"


# --- TLS


def test_every_node_of_the_launcher_makes_its_certificate_before_ray_starts() -> None:
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
        assert authority != folder, "the head hands on what is in the first"
        home = folder.replace("~", "/home/ray")
        assert paths == {
            "RAY_TLS_SERVER_CERT": f"{home}/tls.crt",
            "RAY_TLS_SERVER_KEY": f"{home}/tls.key",
            "RAY_TLS_CA_CERT": f"{home}/ca.crt",
        }


def test_every_pod_makes_its_certificate_and_ray_sees_no_authoritys_key() -> None:
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
