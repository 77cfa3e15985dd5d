"""The files of clusters elsewhere: Ray's launcher on AWS, KubeRay, Slurm, the image. By the rules of those who read
them, and against each other: one version, one shape, drivers off spot nodes."""

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
