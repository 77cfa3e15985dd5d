"""The evaluate stage: measure the trained model on the test split and write metrics.json and pictures."""

from __future__ import annotations

from typing import Any

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed import measures, portraits, predictions, recognition
from arspm.distributed.data import infer
from arspm.distributed.predictions import REAL, Networks
from arspm.evaluation import speakers, table4
from arspm.runs import stages
from arspm.training import artifacts

METRICS = "metrics.json"
CLIPS = "clips.parquet"  # each test clip's distances, for comparing models on the same clips


def evaluate(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the trained model, the trivial rows and, for synthetic speakers, the oracle on the test split.

    Returns the files written (path relative to the run -> size and hash) and the model's main figures.
    """
    table, files = infer.predict(config, run)
    test = predictions.gather(config, run, table)
    networks = Networks(artifacts.load_face_decoder(run, config), artifacts.load_vggface(run, config))
    bootstrap: dict[str, Any] = {"num_resamples": config.evaluate.num_resamples, "seed": config.seed}
    name = predictions.model_name(config)
    oracle = predictions.oracle_rows(run, test)
    oracle_stage = stages.success(run, "oracle")
    rows, distances = measures.table4_rows(config, run, test, networks, oracle, bootstrap)
    pictures = predictions.pictures_of(test, run, name)
    results: dict[str, Any] = {
        "split": "test",
        "model": name,
        "n": len(table),
        "n_speakers": len(set(test.speakers)),
        "speakers": speakers.describe(stages.corpus(run)),
        "genders": test.genders.counts | {"selected_by_prediction": test.num_selected_by_prediction},
        "table4": rows,
        "oracle": None if oracle is None or oracle_stage is None else oracle_stage.figures,
        "gender_classifier": measures.gender_accuracy(run, test, bootstrap),
        **measures.judge_tables(config, run, test, pictures, bootstrap),
        "retrieval": measures.retrieval_rows(test, bootstrap),
        "recognition": recognition.recognized(config, run, test, networks, pictures, bootstrap),
        "similarity": {
            kind: table4.similarity(test.columns[column], test.speakers, **bootstrap)
            for kind, column in (
                (REAL, schema.FACE_FEATURE),
                ("speech", schema.SPEECH_FEATURE),
                ("portrait", schema.PORTRAIT_FEATURE),
            )
        },
        "speech_length": measures.speech_length_rows(test, bootstrap),
        "probes": measures.probe_rows(config, run, test, pictures, bootstrap),
        "craniofacial": measures.craniofacial_correlations(config, run, test, pictures, bootstrap),
        "prior_pictures": portraits.write_prior_pictures(run, networks, files),
        "portraits": portraits.write_portraits(config, run, test, networks, files),
    }
    files[f"evaluate/{CLIPS}"] = tables.write_table(storage.join(run, "evaluate", CLIPS), distances, len(distances))
    files[f"evaluate/{METRICS}"] = storage.write_json(storage.join(run, "evaluate", METRICS), results)
    return files, {figure: rows[0][figure] for figure in ("l1", "l2", "cos_degrees", "n")}
