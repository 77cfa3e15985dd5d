"""`arspm submit --dry-run`, without a cluster, from a folder without ray_cluster.yaml, as with an installed wheel."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import inventory, stages
from cluster.chain_cost import Group, Market
from cluster.node_types import PRICES
from jobs import dry_run, speeds, workload
from jobs.commands.settings import resolve_config
from tests.cluster.cluster_files import LAUNCHER
from tests.jobs.conftest import arspm_in_process as run_here

RATES = yaml.safe_load(PRICES.read_text())["usd_per_hour"]
HEAD = RATES["m6i.2xlarge"]["on_demand"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def config_of(clips: Path, name: str = "smoke", **changes: Any) -> Config:
    data = {"csv": f"{clips}/avspeech.csv", "clips": f"{clips}/clips"}
    return resolve_config(name, None, data, {key.replace("__", "."): f"{value}" for key, value in changes.items()})


@pytest.fixture
def run(write_corpus: Callable[..., Any], clips: Path, tmp_path: Path) -> str:
    """A run of smoke's that has done everything up to the encoder, with a corpus of 13, 6 and 6 clips."""
    write_corpus({"train": (13,), "val": (6,), "test": (6,)}, feature_dim=64)
    config = config_of(clips)
    fingerprints = stages.fingerprints(config, inventory.find_inputs(config).hash)
    run = str(tmp_path)
    for stage in [*stages.STAGES][: [*stages.STAGES].index("encoder") + 1]:
        figures = {"num_rows": 28, "work": {"decoded": 14}} if stage == "preprocess" else {}
        stages.commit(
            run,
            stage,
            fingerprint=fingerprints[stage],
            config=config,
            files={},
            seconds=7.0,
            figures=figures,
        )
    epochs = [{"epoch": n, "step": 2 * n, "clips_per_second": 10.0 * n} for n in (1, 2, 3)]
    storage.write_json(f"{run}/encoder/history.json", {"epochs": epochs, "losses": [], "best_epoch": 1})
    return run


def test_a_new_run_is_estimated_and_nothing_is_written(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--csv", clips / "avspeech.csv", "--clips", clips / "clips", "--run", tmp_path / "run", "--preset", "demo"]
    assert run_here("submit", *where, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    counted = workload.clips_of_inputs(config_of(clips, "demo"), {})
    assert counted.all == 28
    said = f"{counted.train} training, {counted.val} validation and {counted.test} test clips"
    assert lines[0] == f"{tmp_path}/run: preset demo; {said}"
    assert sorted(line.split()[0] for line in lines[1:11]) == sorted(stages.STAGES)
    assert all("runs, not done yet: about" in line for line in lines[1:11])
    assert "(two x86-64 cores); 0.00 USD on 1 cpu (c6i.4xlarge, spot)" in lines[1]
    seconds = 5 + 30 * counted.train * speeds.PRESETS["demo"].speeds["encoder"].seconds
    assert f"about {seconds:.1f} s" in next(line for line in lines if line.startswith("encoder"))
    assert re.search(
        r"together: 0\.\d\d hours .*, 0\.\d\d one by one; .* \(the built-in cluster, prices of us-w", lines[11]
    )
    assert lines[-1].endswith("Nothing was started.")
    assert [*tmp_path.iterdir()] == []


def test_what_is_done_is_reused_and_the_run_s_own_speed_counts(run: str, clips: Path) -> None:
    before = storage.files_below(run)
    lines = dry_run.describe(config_of(clips), run, None).splitlines()
    assert lines[0].endswith("13 training, 6 validation and 6 test clips"), "of the corpus"
    reused = [line.split()[0] for line in lines if line.endswith("already done, reused")]
    assert reused == [*stages.STAGES][:7]
    changed = config_of(clips, loss__lambda1=0.5, training__encoder__epochs=40, evaluate__num_resamples=100)
    lines = dry_run.describe(changed, run, "evaluate").splitlines()
    [line] = [line for line in lines if line.startswith("encoder")]
    seconds = 5 + 40 * 13 / 20
    assert "runs, changed: loss.lambda1 1.0 -> 0.5, training.encoder.epochs 2 -> 40: " in line
    assert f"about {seconds:.1f} s (this run's own speed, with other settings); 0.00 USD on 1 cpu" in line
    assert not [line for line in lines if line.startswith("report")]
    assert storage.files_below(run) == before


def test_a_stage_says_why_it_runs(run: str, clips: Path) -> None:
    lines = {
        line.split()[0]: line for line in dry_run.describe(config_of(clips, face__margin=0.5), run, None).splitlines()
    }
    assert "runs, changed: face.margin 0.25 -> 0.5: about 14.0 s (this run's own" in lines["preprocess"], (
        "28 of 14 clips"
    )
    assert "runs, a stage before it runs again" in lines["vggface"]
    assert "runs, not done yet" in lines["evaluate"]
    label = clips / "avspeech.csv"
    text = label.read_text()
    try:
        label.write_text(text.rstrip().rpartition("\n")[0] + "\n")  # one row less
        lines = {line.split()[0]: line for line in dry_run.describe(config_of(clips), run, None).splitlines()}
    finally:
        label.write_text(text)
    assert "runs, its inputs changed" in lines["preprocess"]


def test_what_submit_would_refuse_is_refused(run: str, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--csv", clips / "avspeech.csv", "--run", run, "--preset", "smoke", "--dry-run"]
    assert run_here("submit", *where, "--clips", clips / "none") == 1
    assert "none does not exist" in capsys.readouterr().err
    four = ("--set", "training.encoder.num_lanes=2", "--set", "resources.encoder.num_workers=4")
    assert run_here("submit", *where, "--clips", clips / "clips", *four) == 1
    assert "num_workers" in capsys.readouterr().err


def test_a_stage_takes_the_cheapest_nodes_that_hold_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market()
    spot, on_demand = RATES["g5.4xlarge"]["spot"], RATES["g5.4xlarge"]["on_demand"]
    assert market.head_usd_per_hour == HEAD
    gpu = market.cheapest([Group(4, 4, 1)])
    assert gpu is not None
    assert (gpu.node_type, gpu.number, gpu.usd_per_hour) == ("gpu_spot", 4, pytest.approx(4 * spot))
    lasting = market.cheapest([Group(2, 4, 1, "on_demand")])
    assert lasting is not None
    assert (lasting.node_type, lasting.usd_per_hour) == ("gpu", pytest.approx(2 * on_demand))
    cpu = market.cheapest([Group(64, 1)])
    assert cpu is not None
    assert (cpu.node_type, cpu.number) == ("cpu", 4)
    assert market.cheapest([Group(1, 1, 2)]) is None
    assert market.cheapest([Group(1, 1, 0, "no_such_pool")]) is None
    # A file of the user's own in the current folder.
    own = yaml.safe_load(LAUNCHER.read_text())
    del own["available_node_types"]["gpu_spot"]
    (tmp_path / LAUNCHER.name).write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    market = Market()
    found = market.cheapest([Group(1, 4, 1)])
    assert found is not None
    assert found.node_type == "gpu"
    assert market.source.startswith("ray_cluster.yaml, prices of")


def test_the_speeds_belong_to_stages_of_presets() -> None:
    for name, measured in speeds.PRESETS.items():
        assert preset(name).preset == name
        assert set(measured.speeds) <= set(stages.STAGES)
    config = override(preset("paper"), {"data.csv": "/x.csv", "data.clips": "/x"})
    clips = workload.Clips(1000, 10, 20, 20)
    assert workload.units(config, "encoder", clips) == 50_000
    assert workload.units(override(config, {"vggface.weights": "/w.pth"}), "vggface", clips) == 0
    assert workload.units(override(config, {"ingest.subset": 100}), "decoder", clips) == 5000
