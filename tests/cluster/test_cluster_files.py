"""The deployment files: Ray's launcher on AWS, KubeRay, Slurm, the image.

They are checked with the tools that read them, and against each other: the same versions and node groups everywhere,
and no drivers on spot nodes.
"""

from __future__ import annotations

import re
import shlex
import subprocess

import jsonschema
import pytest
from ray.autoscaler._private.util import validate_config

from arspm.config import override
from arspm.config.presets import PAPER
from tests.cluster.cluster_files import (
    DOCKERFILE,
    DOCUMENT,
    FILES,
    LAUNCHER,
    REPO,
    SBATCH,
    STORAGE,
    TOOLS,
    container_start,
    environment,
    launcher,
    launcher_environment,
    manifest,
    pods,
    ray_cluster,
)
from tests.cluster.kuberay_schema import KUBERAY, KUBERNETES

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

# --- checked by the tools that read them


def test_the_launchers_file_matches_rays_schema() -> None:
    validate_config(launcher())
    with pytest.raises(jsonschema.ValidationError, match="'max_worker' was unexpected"):
        validate_config({**launcher(), "max_worker": 3})


def test_hadolint_and_shellcheck_find_nothing() -> None:
    for command in (["hadolint", "--no-color", "--failure-threshold=style", DOCKERFILE], ["shellcheck", SBATCH]):
        result = subprocess.run([TOOLS / command[0], *command[1:]], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


# --- versions


def test_all_files_use_the_projects_versions() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    pins = dict(line.split("==", 1) for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)
    python = re.search(r"^FROM python:(\d+\.\d+)-", DOCKERFILE.read_text(), re.MULTILINE)[1]

    texts = {path.name: path.read_text() for path in [*FILES, DOCUMENT, REPO / "docs/install.md"]}
    tags = [(name, tag) for name, text in texts.items() for tag in re.findall(r"\barspm(?:-cpu)?:(\d[\w.]*)", text)]
    assert {name for name, _ in tags} == {
        "Dockerfile",
        "ray_cluster.yaml",
        "raycluster.yaml",
        "cluster.md",
        "install.md",
    }
    assert {tag for _, tag in tags} == {project}
    for name, pod in pods().items():
        image = f"registry.example.com/{'arspm' if name.startswith('gpu') else 'arspm-cpu'}:{project}"
        assert {each["image"] for each in pod["initContainers"] + pod["containers"]} == {image}
        assert container_start(name)[-2:] == [image, "bash"]

    assert ray_cluster()["rayVersion"] == pins["ray"]
    mypy = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert python == mypy, "the tested Python version"
    [install] = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("RUN pip install")]
    assert shlex.split(install)[1:5] == ["pip", "install", "--constraint", "constraints.txt"]
    named = [name for name, text in texts.items() if re.search(rf"(?<![\d.]){re.escape(pins['torch'])}", text)]
    assert named == [], "only constraints.txt names torch's version"

    [installed] = re.findall(r"helm install kuberay-operator .* --version (\S+)", texts["cluster.md"])
    assert installed == KUBERAY, "the version whose rules the tests apply to the manifests"
    kuberays = [each for text in texts.values() for each in re.findall(r"KubeRay (\d+(?:\.\d+)+)", text)]
    assert set(kuberays) <= {KUBERAY, KUBERAY.rpartition(".")[0]}
    assert f"schemas for {KUBERNETES}, strict" in texts["cluster.md"]


def test_the_launcher_installs_nothing_on_top_of_the_image() -> None:
    """If the file had no setup commands, Ray's defaults would install another version of Ray."""
    config = launcher()
    assert config["head_setup_commands"] == config["worker_setup_commands"] == config["setup_commands"] == []


# --- node groups


def test_every_group_is_a_pool_and_commands_use_only_these_pools() -> None:
    """The pools that a stage may request: only CPU nodes, or only GPU nodes of one market."""
    resources = {
        name: kind["resources"].keys() - {"CPU", "GPU"}
        for name, kind in launcher()["available_node_types"].items()
        if name != "head"
    }
    assert resources == {"cpu": {"cpu_only"}, "gpu": {"on_demand"}, "gpu_spot": {"spot"}}
    used = [
        each for path in [*FILES, DOCUMENT] for each in re.findall(r"(resources\.\w+\.pool)=(\w+)", path.read_text())
    ]
    assert {stage for stage, _ in used} >= {"resources.preprocess.pool", "resources.encoder.pool"}
    for name, pool in used:
        assert pool in set().union(*resources.values())
        override(PAPER, {name: pool})


def test_the_documents_table_lists_the_launchers_groups() -> None:
    rows = re.findall(r"^\| (\w+) \| (\S+), (spot|on demand) \| (.*?) \| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (machine, market, resources, int(most)) for name, machine, market, resources, most in rows}
    assert documented == {
        name: (
            kind["node_config"]["InstanceType"],
            "spot" if "InstanceMarketOptions" in kind["node_config"] else "on demand",
            ", ".join(f"{name} {amount}" for name, amount in kind["resources"].items()),
            1 if name == "head" else kind["max_workers"],
        )
        for name, kind in launcher()["available_node_types"].items()
    }


def test_the_pods_run_on_the_launchers_machines() -> None:
    for name, kind in launcher()["available_node_types"].items():
        node = kind["node_config"]
        spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert pods()[name]["nodeSelector"] == {
            "node.kubernetes.io/instance-type": node["InstanceType"],
            "karpenter.sh/capacity-type": "spot" if spot else "on-demand",
        }
        [disk] = node["BlockDeviceMappings"]
        limit = pods()[name]["containers"][0]["resources"]["limits"]["ephemeral-storage"]
        assert int(limit.removesuffix("Gi")) < disk["Ebs"]["VolumeSize"], (
            "the pod's limit is below the machine's disk size"
        )
        assert disk["Ebs"]["Encrypted"]


def test_pods_request_as_many_gpus_as_ray_counts() -> None:
    for name, kind in launcher()["available_node_types"].items():
        gpus = str(kind["resources"].get("GPU", 0))
        resources = pods()[name]["containers"][0]["resources"]
        assert {side.get("nvidia.com/gpu", "0") for side in resources.values()} == {gpus}
        tolerated = [each["key"] for each in pods()[name].get("tolerations", [])]
        assert tolerated == (["nvidia.com/gpu"] if gpus != "0" else [])


def test_drivers_run_only_on_the_on_demand_head() -> None:
    """A job without resources runs on the head, and Ray Train's controller beside its driver.

    So the head must be on demand and have no CPUs for tasks, jobs must request nothing, and no file may allow drivers
    on other nodes.
    """
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


def test_arspm_accepts_the_command_of_the_rayjob() -> None:
    import typer.testing

    from jobs.cli import commands

    command = manifest("RayJob", "arspm-one")["spec"]["entrypoint"]
    words = on_the_head(command, {STORAGE: "/nowhere"}).splitlines()
    assert words[:2] == ["arspm", "submit"]
    unreachable = ["http://127.0.0.1:1" if word == "http://127.0.0.1:8265" else word for word in words]
    result = typer.testing.CliRunner().invoke(commands, unreachable[1:])
    assert result.exit_code != 2, result.output  # 2: an unknown option, or a missing one
    assert "/nowhere" in str(result.exception), "it fails only at the clips, which do not exist"


def test_each_cluster_names_its_bucket_in_one_variable() -> None:
    """Commands on the head read the variable. Without it, the RayJob's command fails."""
    named = {launcher_environment()[STORAGE]}
    named |= {environment(container)[STORAGE] for pod in pods().values() for container in pod["containers"]}
    [storage] = named
    lines = [(path.name, line) for path in FILES for line in path.read_text().splitlines() if "s3://" in line]
    assert {match for _, line in lines for match in re.findall(r"s3://[\w.-]+", line)} == {storage}
    assert set(re.findall(r"s3://[\w.-]+", DOCUMENT.read_text())) == {storage}
    assert [name for name, line in lines if not line.startswith("#")] == ["ray_cluster.yaml", "raycluster.yaml"]

    [example] = re.findall(r"# ray exec ray_cluster.yaml '(.*)'$", LAUNCHER.read_text(), re.MULTILINE)
    entrypoint = manifest("RayJob", "arspm-one")["spec"]["entrypoint"]
    for command in (entrypoint, example):
        assert f"{storage}/runs/one" in on_the_head(command, {STORAGE: storage}).splitlines()
    with pytest.raises(subprocess.CalledProcessError):
        on_the_head(entrypoint, {})


def on_the_head(command: str, env: dict[str, str]) -> str:
    """Return the words of a command after expansion by the head's shell, one per line."""
    script = f"printf '%s\\n' {command}"
    return subprocess.run(["sh", "-c", script], env=env, check=True, capture_output=True, text=True).stdout
