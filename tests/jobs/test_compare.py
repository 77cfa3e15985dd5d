"""`arspm compare`: settings, figures with intervals, and differences paired by clip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm import storage
from arspm.config import override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.evaluation.comparisons import over_seeds_and_speakers
from arspm.evaluation.trained import FIGURES
from arspm.runs import stages
from arspm.runs.usage import Nodes, Requested
from jobs.compare import compare
from tests.jobs.conftest import arspm_in_process as run_here

NODES = Nodes(node_type="gpu", instance="i", market="spot", number=1, usd_per_hour=1.8, prices="today")
USED = Requested(workers=1, least_workers=1, cpus=1, gpus=3, nodes=NODES).used(3.0)
SPEAKERS = np.repeat([f"s{number}" for number in range(12)], 2)
CLIPS = [f"{speaker}_{row % 2}" for row, speaker in enumerate(SPEAKERS)]


def finish(run: str, angles: np.ndarray, *, clips: list[str] = CLIPS, weights: bytes = b"net", **changes: Any) -> str:
    """Write an evaluated run whose figures are `angles`, one per clip."""
    config = override(preset("smoke"), {key.replace("__", "."): value for key, value in changes.items()})
    row: dict[str, Any] = {"model": "neutral+fc", "n": len(clips), "cos_degrees_learnt_share": None}
    for figure in FIGURES:
        row |= {figure: float(angles.mean()), f"{figure}_interval": [angles.mean() - 1, angles.mean() + 1]}
    storage.write_json(f"{run}/evaluate/metrics.json", {"table4": [row], "n": len(clips)})
    columns: dict[str, Any] = {schema.CLIP_ID: clips, schema.SPEAKER: [clip[:-2] for clip in clips]}
    pq.write_table(pa.table(columns | dict.fromkeys(FIGURES, angles)), f"{run}/evaluate/clips.parquet")
    epochs = [{"epoch": 1, "step": 1, "clips_per_second": 9.0, "val_cos_degrees": 30.0}]
    storage.write_json(f"{run}/encoder/history.json", {"epochs": epochs, "losses": [], "best_epoch": 1})
    files = {"vggface/model.safetensors": storage.write_bytes(f"{run}/vggface/model.safetensors", weights)}
    for stage in ("vggface", "evaluate"):
        own = files if stage == "vggface" else {}
        stages.commit(
            run, stage, fingerprint=stage[0] * 64, config=config, files=own, seconds=3.0, figures={}, usage=USED
        )
    return run


@pytest.fixture
def angles() -> np.ndarray:
    return 30 + np.random.default_rng(0).normal(0, 3, len(CLIPS))


def test_differences_are_paired_by_clip(tmp_path: Path, angles: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """The clips differ far more than the two models, so only the paired interval excludes zero."""
    noise = np.random.default_rng(1).normal(0, 0.1, len(CLIPS))
    one = finish(f"{tmp_path}/one", angles)
    order = np.random.default_rng(2).permutation(len(CLIPS))  # clips in another order
    shuffled = [CLIPS[row] for row in order]
    two = finish(f"{tmp_path}/two", (angles - 0.5 + noise)[order], clips=shuffled, loss__lambda1=0.5)
    assert run_here("compare", one, two, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"loss.lambda1": [1.0, 0.5]}
    assert [each["value"] for each in found["figures"]["l2"]] == pytest.approx(
        [angles.mean(), (angles - 0.5 + noise).mean()]
    )
    [difference] = found["differences"]
    entry = difference["figures"]["cos_degrees"]
    known = over_seeds_and_speakers([noise - 0.5], SPEAKERS, num_resamples=200, seed=0)
    assert entry["difference"] == pytest.approx(known.mean)
    assert entry["interval"] == pytest.approx(known.interval, abs=0.02), "speakers may be numbered differently"
    assert entry["interval"][1] < 0
    assert (entry["num_seeds"], entry["comparisons"]) == (1, 1)
    assert run_here("compare", one, two) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["loss.lambda1", "1.0", "0.5"] in [line.split() for line in lines]
    [line] = [line for line in lines if line.startswith("cos_degrees") and "better" in line]
    assert "(Holm)" not in line
    assert lines[-1] == "intervals and p-values are for other test speakers, not for other seeds"


def test_holm_is_over_all_further_runs(tmp_path: Path, angles: np.ndarray) -> None:
    one, two, three = (
        finish(f"{tmp_path}/{name}", angles + shift) for name, shift in (("a", 0), ("b", 0.2), ("c", -1))
    )
    found = compare([one, two, three])
    assert found["settings"] == {}
    assert [each["figures"]["l1"]["comparisons"] for each in found["differences"]] == [2, 2]
    assert found["seconds"]["evaluate"] == [3.0, 3.0, 3.0]
    assert [(each["seconds"], each["gpu_hours"]) for each in found["spent"]] == [(6.0, 0.005)] * 3
    assert [each["usd"] for each in found["spent"]] == [0.003, 0.003, 0.003], "two stages of 3 s at 1.8 USD per hour"


def test_what_cannot_be_compared_says_why(
    tmp_path: Path, angles: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    one = finish(f"{tmp_path}/one", angles)
    another_net = finish(f"{tmp_path}/net", angles, weights=b"other")
    scaled = finish(f"{tmp_path}/scaled", angles, vggface__feature_norm=1.0)
    part = finish(f"{tmp_path}/part", angles[:10], clips=CLIPS[:10])
    others = finish(f"{tmp_path}/others", angles, clips=[*CLIPS[:-1], "new_0"])
    reasons = [each["reason"] for each in compare([one, another_net, scaled, part, others])["differences"]]
    assert ["VGGFace" in reason for reason in reasons] == [True, True, False, False]
    assert reasons[2] == "", "clips of the first run alone"
    assert reasons[3].startswith("measured on other test clips: 1 of 24 are not among those of")
    assert run_here("compare", one, another_net) == 0
    assert "net: their face features come from different VGGFace networks" in capsys.readouterr().out
    assert run_here("compare", one, one) == 1
    assert run_here("compare", one) == 1
    assert run_here("compare", one, f"{tmp_path}/nowhere") == 1
    page = tmp_path / "page.html"
    assert run_here("compare", one, part, another_net, "--out", page) == 0
    text = page.read_text()
    assert text.count('<th scope="row" role="rowheader">part</th>') == 1, "in the differences"
    assert "net: their face features come from different VGGFace networks" in text
    assert f'<data value="{angles.mean()}">' in text
    assert "chart-validation" in text
    times = text.partition('id="time-table"')[2].partition("</table>")[0]
    assert re.findall(r'rowheader">([^<]+)<', times)[-3:] == ["Sum", "GPU-hours", "USD"]
    assert times.count(">0.01<") == 3, "0.005 hours of a GPU in each run"
    storage.remove(f"{part}/evaluate/_SUCCESS.json")
    capsys.readouterr()
    assert run_here("compare", one, part) == 1
    assert "stage evaluate is not done" in capsys.readouterr().err
