"""Portraits in the space of face recognizers: VGGFace, and a user's ONNX network (`evaluate.recognizer`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch

from arspm import storage
from arspm.config import Config, read_recognizer_input
from arspm.corpus import schema
from arspm.distributed.data import infer
from arspm.distributed.measures import landmark_finder
from arspm.distributed.predictions import FACE_TO_FACE, REAL, Networks, Predictions, model_name
from arspm.evaluation import craniofacial, recognition, table4
from arspm.evaluation.judges import Pictures
from arspm.evaluation.recognizers import Recognizer
from arspm.media.alignment import template
from arspm.training import artifacts

MAX_QUERIES = 1000  # portraits that are compared; of more, this many are drawn with the seed
MAX_FACES = 10  # real faces of one speaker that are averaged: the first


class _Space(NamedTuple):
    """Embeddings of pictures in one space, (rows, embedding) each. `logits`: by kind of pictures, None without them."""

    description: dict[str, Any]
    real: np.ndarray  # of the rows `faces`
    portrait: np.ndarray  # of the rows `queries`
    face_to_face: np.ndarray  # of the rows `queries`
    priors: dict[str, np.ndarray]  # (embedding,) each
    logits: dict[str, np.ndarray] | None  # of the rows `first`


class _Sample(NamedTuple):
    """Rows of the test split."""

    queries: np.ndarray  # the portraits that are compared
    faces: np.ndarray  # up to MAX_FACES of each speaker
    first: np.ndarray  # the first clip of each speaker: for the VGGFace Score, as SF2F has one portrait per identity


def recognized(
    config: Config, run: str, test: Predictions, networks: Networks, pictures: list[Pictures], bootstrap: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the measures of other work for each space: VGGFace's, and the recognizer's if there is one.

    pictures: of `predictions.pictures_of`. A model of one sex is measured on that sex; the gallery always has all test
    speakers. Raises ValueError or FileNotFoundError, in one line, for an unusable recognizer.
    """
    sample = _sample(test, bootstrap["seed"])
    spaces = [_vggface_space(run, test, networks, sample)]
    if config.evaluate.recognizer:
        spaces.append(_recognizer_space(config, run, networks, pictures, sample))
    return [_measures(config, test, sample, space, bootstrap) for space in spaces]


def _sample(test: Predictions, seed: int) -> _Sample:
    queries = np.flatnonzero(test.selected)
    if len(queries) > MAX_QUERIES:
        queries = np.sort(np.random.default_rng(seed).choice(queries, MAX_QUERIES, replace=False))
    order = np.argsort(test.speakers, kind="stable")
    _, begins, counts = np.unique(test.speakers[order], return_index=True, return_counts=True)
    faces = [order[begin : begin + min(count, MAX_FACES)] for begin, count in zip(begins, counts, strict=True)]
    chosen = np.flatnonzero(test.selected)
    _, first = np.unique(test.speakers[chosen], return_index=True)
    return _Sample(queries, np.concatenate(faces), chosen[first])


def _measures(
    config: Config, test: Predictions, sample: _Sample, space: _Space, bootstrap: dict[str, Any]
) -> dict[str, Any]:
    """Return the rows and scores of one space."""
    names, truth = np.unique(test.speakers, return_inverse=True)
    gallery = recognition.identities(space.real, test.speakers[sample.faces], names)
    heard = test.table[schema.HEARD_GENDER].to_numpy()[sample.queries]
    others = table4.other_speakers(test.speakers[sample.queries], config.seed)
    answers: dict[str, np.ndarray] = {model_name(config): space.portrait}
    answers["prior-only"] = np.repeat(space.priors["neutral"][None], len(sample.queries), axis=0)
    if set(schema.GENDERS) <= set(space.priors) and (heard >= 0).all():
        answers["gender-prior-only"] = np.stack([space.priors[sex] for sex in schema.GENDERS])[heard]
    if others is not None:
        answers["shuffled-speech"] = space.portrait[others]
    answers[FACE_TO_FACE] = space.face_to_face
    rows = [
        recognition.portrait_row(name, each, gallery, truth[sample.queries], **bootstrap)
        for name, each in answers.items()
    ]
    scores = []
    for kind, logits in (space.logits or {}).items():
        score, sd = recognition.vggface_score(logits, config.seed) or (None, None)
        scores.append({"pictures": kind, "n": len(logits), "score": score, "score_sd": sd})
    identities = None if space.logits is None else next(iter(space.logits.values())).shape[1]
    return {
        **space.description,
        "rows": [*rows, recognition.random_row(len(names))],
        "identities": identities,
        "scores": scores,
    }


@torch.no_grad()
def _vggface_space(run: str, test: Predictions, networks: Networks, sample: _Sample) -> _Space:
    columns = {
        REAL: test.columns[schema.FACE_FEATURE],
        FACE_TO_FACE: test.columns[schema.FACE_TO_FACE_FEATURE],
        "portrait": test.columns[schema.PORTRAIT_FEATURE],
    }
    means = {name: mean.numpy() for name, mean in artifacts.load_priors(run).items()}

    def logits(features: np.ndarray) -> np.ndarray:
        return networks.vggface.identity_logits(torch.from_numpy(features.astype(np.float32))).numpy()

    return _Space(
        {"space": "VGGFace", "about": "of this run"},
        columns[REAL][sample.faces],
        columns["portrait"][sample.queries],
        columns[FACE_TO_FACE][sample.queries],
        dict(zip(means, networks.redrawn(np.stack(list(means.values()))), strict=True)),
        {kind: logits(features[sample.first]) for kind, features in columns.items()},
    )


def _recognizer_space(
    config: Config, run: str, networks: Networks, pictures: list[Pictures], sample: _Sample
) -> _Space:
    uri = storage.absolute(config.evaluate.recognizer)
    declared = read_recognizer_input(uri)
    means = artifacts.load_priors(run)
    drawn = infer.to_jpegs(networks.draw(np.stack([mean.numpy() for mean in means.values()])))
    jpegs = {REAL: pictures[0].jpegs, FACE_TO_FACE: pictures[1].jpegs, "portrait": pictures[2].jpegs, "prior": drawn}
    rows = {REAL: sample.faces, FACE_TO_FACE: sample.queries, "portrait": sample.queries}
    with ExitStack() as stack:
        path = stack.enter_context(storage.local_copy(uri))
        recognizer, sha256 = Recognizer(path, declared), storage.describe(str(path))["sha256"]
        aligned_in_corpus = declared.alignment != "arcface" or config.face.crop == "aligned"
        find = None if aligned_in_corpus else stack.enter_context(landmark_finder(config, run))
        found: dict[str, float] = {}

        def embed(kind: str, indices: Sequence[int]) -> Any:
            chosen = [jpegs[kind][index] for index in indices]
            points = np.repeat(template(schema.FACE_SIZE, config.face.margin)[None], len(chosen), axis=0)
            if find is not None:
                detected = craniofacial.landmarks(chosen, find)
                missing = np.isnan(detected).any(axis=(1, 2))
                points = np.where(missing[:, None, None], points, detected)
                found.setdefault(kind, float(1 - missing.mean()))
            return recognizer(chosen, points)

        spaces = {kind: embed(kind, indices.tolist()).embeddings for kind, indices in rows.items()}
        priors = dict(zip(means, embed("prior", range(len(drawn))).embeddings, strict=True))
        logits = None
        if declared.logits:
            logits = {kind: embed(kind, sample.first.tolist()).logits for kind in (REAL, FACE_TO_FACE, "portrait")}
    description = {
        "space": uri.rsplit("/", 1)[-1],
        "about": _alignment(config, declared.alignment, found),
        "input": declared.model_dump(mode="json"),
        "sha256": sha256,
        "landmarks_found": found,
    }
    return _Space(description, spaces[REAL], spaces["portrait"], spaces[FACE_TO_FACE], priors, logits)


def _alignment(config: Config, alignment: str, found: dict[str, float]) -> str:
    """Return in words how the pictures were aligned."""
    if alignment == "crop":
        return "given crops of the pictures, without alignment"
    if config.face.crop == "aligned":
        return "given faces aligned by their landmarks (face.crop=aligned)"
    if not found:
        return (
            "given faces as if all had an average face's landmarks, because no detector of landmarks is configured "
            "(face.crop=aligned, or evaluate.landmarks)"
        )
    return (
        f"given faces aligned by landmarks, which were found in {100 * found[REAL]:.1f} % of the real faces and "
        f"{100 * found['portrait']:.1f} % of the portraits; the others have an average face's"
    )
