"""The chain and a sweep on a head and two nodes that share only a bucket, compared with one node and its disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.util.state import list_actors

from arspm import storage
from arspm.runs import sweeps
from cluster import client
from tests.cluster.nodes import Nodes
from tests.conftest import Bucket, make_nodes
from tests.jobs.conftest import Chain, arspm, artifacts_of
from tests.s3_servers import BUCKET, Moto, SeaweedFS, connected_to, s3_env
from tests.training.conftest import TIMINGS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]  # two chains and two sweeps
PORT = 8333
NODE_CPUS, WORKER_CPUS = 4, 2.4  # one training worker per node, as two do not fit; and a reader
SWEEP = ["sweep", "loss_weights", "--scheduler", "none", "--set", "training.encoder.epochs=2"]
SWEEPS = {  # name: how many trials, and the workers of each
    "apart": (4, 1),
    "across": (1, 2),
}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    yield from make_nodes(own_disks=True)


@pytest.fixture(params=["seaweedfs", "moto"])
def bucket(request: pytest.FixtureRequest, nodes: Nodes, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket that nodes and this process reach, with credentials that they have from their environment."""
    env = s3_env(nodes.host, PORT)
    server: SeaweedFS | Moto = Moto(tmp_path, host=nodes.host, port=PORT)
    if request.param == "seaweedfs":
        server = SeaweedFS(tmp_path, env, host=nodes.host, ports=[f"-s3.port={PORT}"])
    nodes.env |= env
    try:
        server.start()
        with connected_to(env):
            yield Bucket(f"s3://{BUCKET}", env)
    finally:
        server.kill()


def sweep(run: str | Path, name: str, cpus: float, *words: str) -> None:
    number, workers = SWEEPS[name]
    resources = ["--set", f"resources.trial.num_workers={workers}", "--set", f"resources.trial.cpus={cpus}"]
    done = arspm(*SWEEP, "--run", run, "--name", name, "--num-trials", number, *resources, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def trials(run: str | Path, name: str) -> dict[int, tuple[object, list[dict[str, float]]]]:
    """Each trial's sample, and its epochs without timings."""
    records = sweeps.read_records(sweeps.folder(str(run), name)).values()
    assert {record["state"] for record in records} == {"finished"}
    timings = {*TIMINGS, "seconds"}
    figures = [[{key: epoch[key] for key in epoch if key not in timings} for epoch in r["epochs"]] for r in records]
    return {r["number"]: (r["sample"], epochs) for r, epochs in zip(records, figures, strict=True)}


def hosts(log: str) -> set[str]:
    """The addresses of training workers, from the lines that Ray Train logs when they start."""
    return {line.partition("(ip=")[2].partition(",")[0] for line in log.splitlines() if "world_rank=" in line}


def hosts_of_sweep(nodes: Nodes, name: str) -> set[str]:
    """The addresses of a sweep's training workers, from Ray's state API: the log does not contain them."""
    jobs = client.connect(nodes.address).list_jobs()
    [job] = [job for job in jobs if (job.metadata or {}).get("stage") == f"sweep-{name}"]
    actors = list_actors(nodes.address, filters=[("job_id", "=", job.job_id)], limit=10_000)
    ids = {actor.node_id for actor in actors if "RayTrainWorker" in actor.class_name}
    return {address for node, address in nodes.alive().items() if node in ids}


def test_nodes_that_share_only_a_bucket_give_the_same_results_as_one_node(
    chain: Chain, clips: Path, nodes: Nodes, bucket: Bucket, tmp_path: Path
) -> None:
    """Bit-identical: with two workers on both sides, as the sum of two gradients does not depend on their order."""
    for path in storage.files_below(str(clips)):
        storage.upload(clips / path, storage.join(bucket.uri, "data", path))
    data, run = storage.join(bucket.uri, "data"), storage.join(bucket.uri, "runs/one")
    for cpus in (0, NODE_CPUS, NODE_CPUS):
        nodes.add(num_cpus=cpus)
    where = ["--csv", f"{data}/avspeech.csv", "--clips", f"{data}/clips", "--run", run, "--preset", "smoke"]
    sets = {f"resources.{stage}.cpus": str(WORKER_CPUS) for stage in ("decoder", "encoder")}
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    done = arspm("submit", *where, *words, "--ray-address", nodes.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts_of(run) == chain.artifacts

    disk = shutil.copytree(chain.run, tmp_path / "disk")  # other tests use the run too
    for name in SWEEPS:
        sweep(run, name, WORKER_CPUS, "--ray-address", nodes.address)
        sweep(disk, name, 0.4)
        assert trials(run, name) == trials(disk, name)
    results = storage.read_json(storage.join(sweeps.folder(run, "apart"), sweeps.RESULTS))
    assert results["sweep"]["max_concurrent"] == 2, "one per node, as two do not fit"

    jobs = client.connect(nodes.address)
    logs = {job.submission_id: client.logs(jobs, job.submission_id) for job in client.list_jobs(jobs, {})}
    stage_of = {job.submission_id: job.metadata["stage"] for job in client.list_jobs(jobs, {})}
    workers = {node.address for node in nodes.nodes[1:]}
    for job, log in logs.items():
        if stage_of[job] in ("decoder", "encoder"):
            assert hosts(log) == workers, "one worker per node"
    assert hosts_of_sweep(nodes, "across") == workers, "so did the trial with two workers"
    secrets = [bucket.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    written = {path: storage.read_bytes(storage.join(run, path)) for path in storage.files_below(run)}
    written |= {f"log of {job}": log.encode() for job, log in logs.items()}
    assert not [path for path, content in written.items() for secret in secrets if secret.encode() in content]
