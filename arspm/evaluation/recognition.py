"""Measures of portraits that other work on faces from speech reports, in the space of any face embedder.

They follow the published program of SF2F (Bai et al. 2022): a portrait is compared with the mean embedding of its
speaker's real faces, and the gallery has one such mean for each speaker.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from arspm.evaluation import metrics
from arspm.evaluation.retrieval import TOP_K, ranks, recall_at_k

NUM_PARTS = 5  # of the pictures, over which SF2F reports mean and standard deviation of the score


def identities(embeddings: np.ndarray, speakers: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Return the mean of the unit embeddings of each speaker's real faces, (names, embedding).

    embeddings: (rows, embedding). speakers: (rows,). names: the speakers, sorted, each with at least one row.
    """
    members = np.searchsorted(names, speakers)
    sums = np.zeros((len(names), embeddings.shape[1]))
    np.add.at(sums, members, unit(embeddings))
    return sums / np.bincount(members, minlength=len(names))[:, None]


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Return the embeddings with norm 1, in float64. A zero vector stays zero."""
    values = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1.0)


def portrait_row(
    model: str, portraits: np.ndarray, gallery: np.ndarray, truth: np.ndarray, *, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Return mean cosine, L1 and L2 of portraits to their speakers, and R@K in the gallery, with 95 % intervals.

    portraits: (rows, embedding); their unit vectors are compared. gallery: (speakers, embedding), from `identities`.
    truth: (rows,), the index of each portrait's speaker in the gallery. R@K is by cosine. The bootstrap is over
    speakers.
    """
    own, found = gallery[truth], unit(portraits)
    nearer, tied = ranks(found, gallery, truth, "cosine")
    values = {
        "cosine": (found * unit(own)).sum(axis=1),
        "l1": np.abs(found - own).sum(axis=1),
        "l2": np.linalg.norm(found - own, axis=1),
        **{f"r{k}": recall_at_k(nearer, tied, k, len(gallery), len(gallery)) for k in TOP_K},
    }
    row: dict[str, Any] = {"model": model, "n": len(found), "gallery": len(gallery)}
    for name, each in values.items():
        row[name], row[f"{name}_interval"] = metrics.mean_and_interval(
            each, truth, num_resamples=num_resamples, seed=seed
        )
    return row


def random_row(num_faces: int) -> dict[str, Any]:
    """Return the row of random guesses, whose R@K is K / num_faces."""
    row: dict[str, Any] = {"model": "random", "n": None, "gallery": num_faces}
    for name in ("cosine", "l1", "l2"):
        row |= {name: None, f"{name}_interval": None}
    for k in TOP_K:
        row |= {f"r{k}": min(1.0, k / num_faces), f"r{k}_interval": None}
    return row


def vggface_score(logits: np.ndarray, seed: int) -> tuple[float, float] | None:
    """Return SF2F's VGGFace Score of pictures, and its standard deviation over five parts of them.

    It is the inception score with a classifier of faces: exp of the mean Kullback-Leibler divergence between p(identity
    | picture) and its mean over the pictures. The pictures are shuffled and divided into five parts; the score is the
    mean over the parts. It is at least 1, and at most the number of identities or of pictures in a part. SF2F's
    classifier is the ResNet-50 of VGGFace2 with 8,631 identities; scores of other classifiers are not comparable.

    logits: (pictures, identities), before the softmax. None if there are fewer pictures than parts.
    """
    if len(logits) < NUM_PARTS:
        return None
    values = np.asarray(logits, np.float64)[np.random.default_rng(seed).permutation(len(logits))]
    log_p = values - values.max(axis=1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    bounds = np.arange(NUM_PARTS + 1) * len(values) // NUM_PARTS
    scores = []
    for begin, end in pairwise(bounds):
        part = log_p[begin:end]
        mean = np.exp(part).mean(axis=0)
        divergence = np.where(mean > 0, np.exp(part) * (part - np.log(np.maximum(mean, 1e-300))), 0.0).sum(axis=1)
        scores.append(float(np.exp(divergence.mean())))
    return float(np.mean(scores)), float(np.std(scores))
