"""The measures of evaluate: Tables 4 to 6 of the paper and what the paper leaves out, on the test split.

`bootstrap`: the number of resamples and the seed of every confidence interval.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema
from arspm.distributed.data import infer
from arspm.distributed.data.oracle import true_causes
from arspm.distributed.data.preprocess import YUNET
from arspm.distributed.predictions import REAL, Networks, Predictions, ages_of, model_name, training_faces
from arspm.evaluation import craniofacial, judges, metrics, probes, retrieval, table4
from arspm.evaluation.judges import Pictures
from arspm.media.models import model_file
from arspm.runs import stages
from arspm.training import artifacts

MAX_QUERIES = 1000  # of the retrieval test; from a larger split, this many are drawn with the seed


def table4_rows(
    config: Config,
    run: str,
    test: Predictions,
    networks: Networks,
    oracle: np.ndarray | None,
    bootstrap: dict[str, Any],
) -> tuple[list[dict[str, Any]], pa.Table]:
    """Return Table 4's rows over the selected clips, the model's first, and the model's distances clip by clip.

    oracle: the oracle's feature for each clip of the test split, or None.
    """
    selected, name = test.selected, model_name(config)
    truth, speakers = test.columns[schema.FACE_FEATURE][selected], test.speakers[selected]
    rows: list[dict[str, Any]] = []
    distances = {}
    for row_name, (feature, portrait) in _answers(config, run, test, networks, oracle).items():
        rows.append(
            table4.table4_row(row_name, truth, speakers, feature=feature, portrait=portrait, **bootstrap)
            | {"cos_degrees_learnt_share": None, "cos_degrees_learnt_share_interval": None}
        )
        distances[row_name] = table4.distances(truth, feature, portrait)
    if oracle is not None:
        model, prior, best = (distances[each]["cos_degrees"] for each in (name, "prior-only", "oracle"))
        fraction, interval = table4.learnt_fraction(model, prior, best, speakers, **bootstrap)
        rows[0] |= {"cos_degrees_learnt_share": fraction, "cos_degrees_learnt_share_interval": interval}
    ids = test.table[schema.CLIP_ID].combine_chunks().filter(pa.array(selected))
    return rows, pa.table({schema.CLIP_ID: ids, schema.SPEAKER: pa.array(speakers), **distances[name]})


def _answers(
    config: Config, run: str, test: Predictions, networks: Networks, oracle: np.ndarray | None
) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
    """Return the answer of each row of Table 4 for the selected clips.

    name -> the estimated face features, and VGGFace's features of their portraits; None for what a row does not have.
    """
    columns, selected = test.columns, test.selected
    priors = {name: mean.numpy() for name, mean in artifacts.load_priors(run).items()}
    drawn = dict(zip(priors, networks.redrawn(np.stack(list(priors.values()))), strict=True))
    heard, confidence = (
        test.table[name].to_numpy()[selected] for name in (schema.HEARD_GENDER, schema.HEARD_CONFIDENCE)
    )
    speech, portrait = columns[schema.SPEECH_FEATURE][selected], columns[schema.PORTRAIT_FEATURE][selected]
    others = table4.other_speakers(test.speakers[selected], config.seed)
    neutral = np.zeros(len(heard), np.int64)
    answers: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {
        model_name(config): (speech, portrait),
        "prior-only": (priors["neutral"][None][neutral], drawn["neutral"][None][neutral]),
        "gender-prior-only": (None, None),
        "shuffled-speech": (None, None) if others is None else (speech[others], portrait[others]),
        "face-to-face": (None, columns[schema.FACE_TO_FACE_FEATURE][selected]),
    }
    if set(schema.GENDERS) <= set(priors) and (heard >= 0).all():
        # As FacePrior does: neutral where the prediction is not sure enough.
        choice = np.where(confidence < np.float32(config.gender.min_confidence), len(schema.GENDERS), heard)
        means, pictures = (
            np.stack([of[name] for name in (*schema.GENDERS, "neutral")])[choice] for of in (priors, drawn)
        )
        answers["gender-prior-only"] = means, pictures
    if oracle is not None:
        videos = test.table[schema.VIDEO_ID].to_numpy(zero_copy_only=False)
        _, first, inverse = np.unique(videos, return_index=True, return_inverse=True)
        answers["oracle"] = oracle[selected], networks.redrawn(oracle[first])[inverse][selected]
    return answers


def gender_accuracy(run: str, test: Predictions, bootstrap: dict[str, Any]) -> dict[str, Any] | None:
    """Return the gender classifier's accuracy by split, on labels only. None without a classifier or labels."""
    stage, labelled = stages.success(run, "gender"), test.labels >= 0
    predicted = test.table[schema.HEARD_GENDER].to_numpy()
    if stage is None or (predicted < 0).all() or not labelled.any():
        return None
    correct = (predicted == test.labels)[labelled].astype(float)
    mean, interval = metrics.mean_and_interval(correct, test.speakers[labelled], **bootstrap)
    splits = {split: stage.figures.get(f"{split}_accuracy") for split in ("train", "val")}
    return {**splits, "test": mean, "test_interval": interval, "n": len(correct)}


def judge_tables(
    config: Config, run: str, test: Predictions, pictures: list[Pictures], bootstrap: dict[str, Any]
) -> dict[str, Any]:
    """Return Tables 5 and 6 and the judge's description. Each is None without a judge, or without labels for it."""
    setting = config.evaluate.judge
    with ExitStack() as stack:
        if setting != "classifier":
            setting = str(stack.enter_context(storage.local_copy(setting)))
        faces = training_faces(config, run) if setting == "classifier" else {}
        judge = judges.make_judge(
            setting,
            features=faces.get(schema.FACE_FEATURE),
            genders=faces[schema.GENDER].classes if faces else None,
            ages=ages_of(faces[schema.AGE].to_pylist()) if faces else None,
        )
        if judge is None:
            return {"judge": None, "table5": None, "table6": None}
        judged = {each.name: judge(each) for each in pictures}
        description = judge.description  # read after judging: it may name pictures that could not be judged
    if faces and (num_predicted := int(faces[schema.GENDER].predicted.sum())):
        description += f"; the sex of {num_predicted} of these faces is predicted from the voice"
    ages = ages_of(test.table[schema.AGE].to_pylist())
    return {
        "judge": description,
        "table5": judges.table5(judged, test.genders.classes, test.speakers, **bootstrap),
        "table6": judges.table6(judged, ages, test.speakers, **bootstrap),
    }


def retrieval_rows(test: Predictions, bootstrap: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how well a clip's speech feature retrieves its speaker's face.

    The gallery has one face per speaker: that of the speaker's first clip.
    """
    _, first, truth = np.unique(test.speakers, return_index=True, return_inverse=True)
    gallery = test.columns[schema.FACE_FEATURE][first]
    rows = np.arange(len(truth))
    if len(rows) > MAX_QUERIES:
        rows = np.sort(np.random.default_rng(bootstrap["seed"]).choice(rows, MAX_QUERIES, replace=False))
    queries = test.columns[schema.SPEECH_FEATURE][rows]
    return retrieval.retrieval(queries, gallery, truth[rows], test.speakers[rows], **bootstrap)


def speech_length_rows(test: Predictions, bootstrap: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the model's distances on the first seconds of the speech, for each length."""
    truth, speakers = test.columns[schema.FACE_FEATURE][test.selected], test.speakers[test.selected]
    lengths = {seconds: infer.shorter_feature(seconds) for seconds in infer.SHORTER_SECONDS}
    lengths[schema.SPEECH_SECONDS] = schema.SPEECH_FEATURE
    rows = []
    for seconds, column in lengths.items():
        feature = test.columns[column][test.selected]
        row = table4.table4_row("", truth, speakers, feature=feature, portrait=None, **bootstrap)
        figures = {key: value for key, value in row.items() if not key.startswith("portrait") and key != "model"}
        rows.append({"seconds": seconds, **figures})
    return rows


def probe_rows(
    config: Config, run: str, test: Predictions, pictures: list[Pictures], bootstrap: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """Return how well linear probes read the true causes from the pictures. None for real speakers."""
    if not config.oracle.speakers:
        return None
    faces = training_faces(config, run)
    return probes.probes(
        faces[schema.FACE_FEATURE],
        true_causes(config.oracle.speakers, faces[schema.VIDEO_ID].to_pylist()),
        {each.name: each.features for each in pictures},
        true_causes(config.oracle.speakers, test.table[schema.VIDEO_ID].to_pylist()),
        test.speakers,
        **bootstrap,
    )


@contextlib.contextmanager
def landmark_finder(config: Config, run: str) -> Iterator[str | None]:
    """Yield the local path of the YuNet file that finds landmarks in pictures; None if none is configured."""
    uri = config.evaluate.landmarks or config.face.detector
    if not config.evaluate.landmarks and uri == "yunet":  # the copy with which the run's faces were found
        uri = storage.join(stages.folder(run, "preprocess"), YUNET)
        uri = uri if storage.exists(uri) else ""
    if uri == "yunet":
        yield str(model_file(uri))
    elif uri.endswith(".onnx"):
        with storage.local_copy(uri) as path:
            yield str(path)
    else:
        yield None


def craniofacial_correlations(
    config: Config, run: str, test: Predictions, pictures: list[Pictures], bootstrap: dict[str, Any]
) -> dict[str, Any]:
    """Return correlations of facial measurements between real faces and portraits, or the reason why there are none."""
    with landmark_finder(config, run) as path:
        if path is None:
            return {"reason": "dlib's HOG gives no landmarks; set evaluate.landmarks=yunet, or to a YuNet file"}
        real, portrait = (craniofacial.landmarks(pictures[index].jpegs, path) for index in (0, -1))
    detected = {  # the fraction of pictures in which a face was detected
        name: float(1 - np.isnan(points).any(axis=(1, 2)).mean())
        for name, points in ((REAL, real), ("portrait", portrait))
    }
    return {"rows": craniofacial.correlations(real, portrait, test.speakers, **bootstrap), "found": detected}
