"""A small finished run, written with the product's own writers."""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from arspm import storage
from arspm.config import TRAINED_STAGES, Config, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.runs import stages
from arspm.runs.usage import Nodes, Requested
from tests.report.measured import FIGURES, drawn, evaluated, judged_row, picture, row, six

SECONDS = {
    "preprocess": 49.758,
    "vggface": 91.382,
    "gender": 30.5,
    "features": 8.867,
    "prior": 0.308,
    "decoder": 83.833,
    "encoder": 3728.058,
    "oracle": 41.25,
    "evaluate": 10.258,
}


class Run(NamedTuple):
    uri: str
    config: Config
    evaluated: dict[str, Any]  # content of evaluate/metrics.json
    histories: dict[str, dict[str, Any]]


def write_run(
    folder: Path,
    *,
    labelled: bool = True,
    predicted: bool = False,
    dropped: list[dict[str, Any]] | None = None,
    older: bool = False,
) -> Run:
    """Write the outputs of the stages before the report, as far as the report reads them.

    `labelled`: whether labels.csv existed. `predicted`: whether a network of another run predicted the sex. `older`:
    as made by an earlier version, with Tables 4 and 5 only, and no record of what stages used.
    """
    uri = str(folder)
    config = override(
        preset("smoke"),
        {
            "data.csv": "/data/my clips.csv",
            "data.clips": "/data/clips",
            "seed": 7,
            "loss.lambda2": 0.05,
            "ingest.subset": 40,
            "resources.encoder.threads": None,
            "face_decoder.batch_norm": False,
            "gender.weights": "/runs/vox1" if predicted else "",
            "gender.min_confidence": 0.8 if predicted else 0.5,
        },
    )
    drops = dropped if dropped is not None else [make_drop(3, "no_face", "a_1.0_4.0", "")] * 5
    reasons = {drop["reason"]: 0 for drop in drops}
    for drop in drops:
        reasons[drop["reason"]] += 1
    splits = {
        name: {"rows": rows, "videos": rows // 3, "shards": [{"name": "shard-00000", "rows": rows, "ids": "0"}]}
        for name, rows in (("train", 1200), ("val", 30), ("test", 41))
    }
    manifest = {
        "num_rows": 1271 + len(drops),
        "num_clips": 1271,
        "num_dropped": len(drops),
        "dropped": reasons,
        "splits": splits,
    }
    storage.write_json(f"{uri}/corpus/manifest.json", manifest)
    table = pa.Table.from_pylist(drops, schema.dropped_schema())
    pq.write_table(table, folder / "corpus" / "dropped.parquet")

    portraits = []
    for number in range(3):
        entry = {"clip_id": f"video{number}_0.0_{number}.5"}
        for kind in ("real", "face_to_face", "portrait"):
            entry[kind] = f"evaluate/pictures/{number:03d}-{kind}.jpg"
            picture(f"{uri}/{entry[kind]}", 60 * number + 40)
        portraits.append(entry)
    draw = drawn(0)
    nothing = dict.fromkeys(FIGURES)
    found: dict[str, Any] = {
        "split": "test",
        "n": 41,
        "table4": [
            row("neutral+fc", six(1.0)),
            row("prior-only", six(1.05)),
            row("gender-prior-only", six(0.8) if labelled else nothing),
            row("shuffled-speech", six(1.3)),
            row(
                "face-to-face",
                nothing | {name: value for name, value in six(0.3).items() if name.startswith("portrait")},
            ),
        ],
        "judge": "logistic regression on VGGFace features of 96 training faces" if labelled else None,
        "table5": [judged_row(name, False, draw) for name in ("real", "face-to-face", "neutral+fc")]
        if labelled
        else None,
        "portraits": portraits,
    }
    if not older:
        found |= _measured(uri, labelled)
        found["speakers"] = {
            "train": _speakers(400, labelled, 1.4),
            "val": _speakers(10, labelled, 0.0352),
            "test": _speakers(14, labelled, None),
        }
        found["table4"].append(row("oracle", six(0.75)))
        for each in found["table4"]:
            each |= {"cos_degrees_learnt_share": None, "cos_degrees_learnt_share_interval": None}
        found["table4"][0] |= {"cos_degrees_learnt_share": 0.6311, "cos_degrees_learnt_share_interval": [0.502, 0.704]}
    storage.write_json(f"{uri}/evaluate/metrics.json", found)

    figures: dict[str, dict[str, Any]] = {key: {} for key in ("preprocess", "features", "oracle", "evaluate")}
    figures["prior"] = {
        "priors": {
            name: _prior(n)
            for name, n in (("neutral", 1200), ("female", 700), ("male", 500))
            if labelled or name == "neutral"
        }
    }
    if predicted:
        _predict(figures, found)
        storage.write_json(f"{uri}/evaluate/metrics.json", found)
    histories = {}
    for stage in TRAINED_STAGES:
        if stage == "gender" and not labelled:
            figures[stage] = {"trained": False, "reason": "labels.csv names no speaker of one sex"}
            continue
        if stage == "gender" and predicted:
            figures[stage] = {"weights": "/runs/vox1/gender/model.safetensors", "val_accuracy": None}
            continue
        histories[stage] = history = _history(stage)
        storage.write_json(f"{uri}/{stage}/history.json", history)
        figures[stage] = {"best_epoch": history["best_epoch"], **history["epochs"][history["best_epoch"] - 1]}
    figures["vggface"] |= {"feature_norm_before": 412.34, "feature_norm": 6.3}
    if labelled:
        removed = {"face_score > 0.5": 80, "voiced_seconds > 2": 30}
        figures["encoder"]["filter"] = {"clips": 1200, "kept": 1100, "removed": removed}
    for number, (stage, seconds) in enumerate(SECONDS.items()):
        fingerprint = f"{number:x}" * 64
        stages.commit(
            uri,
            stage,
            fingerprint=fingerprint,
            config=config,
            files={},
            seconds=seconds,
            figures=figures[stage],
            usage=None if older else requested(stage).used(seconds, ["A10G"] if stage in TRAINED_STAGES else []),
        )
    return Run(uri, config, found, histories)


def requested(stage: str) -> Requested:
    """What a stage requests: on spot nodes with a GPU where it trains a network, on one without where it does not.

    The nodes of gender have no price.
    """
    if stage == "prior":
        return Requested()
    if stage == "gender":
        return Requested(workers=1, least_workers=1, cpus=4, gpus=1, no_price="started by hand")
    if stage in TRAINED_STAGES:
        return Requested(workers=4, least_workers=1, cpus=48, gpus=4, nodes=_nodes("g5.4xlarge", 4, 0.6663))
    return Requested(workers=16, least_workers=16, cpus=16, nodes=_nodes("c6i.4xlarge", 1, 0.2807))


def _nodes(instance: str, number: int, usd_per_hour: float) -> Nodes:
    prices = "ray_cluster.yaml, prices of us-west-2, 2026-11-23"
    return Nodes(
        node_type=instance[:3],
        instance=instance,
        market="spot",
        number=number,
        usd_per_hour=number * usd_per_hour,
        prices=prices,
    )


def _predict(figures: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """Change figures to those of a female model whose speakers' sex was predicted, except for 12 training clips."""
    figures["prior"]["labels"] = {
        "train": {"labelled": 12, "predicted": 1100, "unknown": 88},
        "val": {"labelled": 0, "predicted": 30, "unknown": 0},
        "test": {"labelled": 0, "predicted": 38, "unknown": 3},
    }
    figures["prior"]["priors"]["female"]["num_predicted"] = 690
    figures["prior"]["priors"]["male"]["num_predicted"] = 500
    found["genders"] = {"labelled": 0, "predicted": 38, "unknown": 3, "selected_by_prediction": 20}
    for row_of_table4 in found["table4"]:
        row_of_table4["n"] = 20
    for row_of_table5 in found["table5"]:
        row_of_table5["n"] = 38
    found["gender_classifier"] = None


def _measured(uri: str, labelled: bool) -> dict[str, Any]:
    found = evaluated(uri, "neutral+fc")
    if labelled:
        return found
    reason = "dlib's HOG gives no landmarks; evaluate.landmarks names a YuNet file that does"
    return found | {"table6": None, "probes": None, "craniofacial": {"reason": reason}}


def make_drop(line: int, reason: str, clip_id: str | None, detail: str) -> dict[str, Any]:
    return {"row": line, "clip_id": clip_id, "reason": reason, "detail": detail}


def _prior(n: int) -> dict[str, Any]:
    points = [{"n": count, "l1": 90.0 / count} for count in (10, 50, 100) if count < n]
    return {"n": n, "gender_balanced": True, "clips": "ab" * 32, "convergence": points, "num_predicted": 0}


def _history(stage: str) -> dict[str, Any]:
    objective = {"decoder": "val_loss", "encoder": "val_cos_degrees"}.get(stage, "val_accuracy")
    values = {"decoder": (0.6, 0.3, 0.4), "encoder": (61.0, 36.5, 37.0)}.get(stage, (0.2, 0.875, 0.5))
    epochs = [
        {
            "train_loss": 3.0 - number,
            objective: value,
            "epoch": number + 1,
            "step": 10 * (number + 1),
            "clips_per_second": 51.2,
            "data_wait": 0.02,
        }
        for number, value in enumerate(values)
    ]
    return {"epochs": epochs, "losses": [[step, 3.0 / step] for step in range(1, 31)], "best_epoch": 2}


def _speakers(number: int, labelled: bool, hours: float | None) -> dict[str, Any]:
    """One split of `speakers`, with more women than men."""
    women = number // 2 + 1 if labelled else 0
    men = number - women if labelled else 0
    unknown = number - women - men
    age = {"young": women, "mid_age": men, "elder": 0, "unknown": unknown}
    sex = {"female": women, "male": men, "unknown": unknown}
    return {"clips": 3 * number, "speakers": number, "sex": sex, "age": age, "hours": hours}
