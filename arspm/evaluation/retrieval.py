"""Retrieval: R@K, the fraction of queries whose own face is among the K nearest of a gallery (as in Speech2Face)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom

from arspm.evaluation import metrics

TOP_K = (1, 2, 5, 10)
DISTANCES = ("cosine", "l1", "l2")

_MAX_QUERIES = 256  # queries per block of distances, to bound memory


def retrieval(
    queries: np.ndarray,
    gallery: np.ndarray,
    truth: np.ndarray,
    speakers: np.ndarray,
    *,
    gallery_sizes: Sequence[int | None] = (100, None),
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return R@1, R@2, R@5 and R@10 by cosine, L1 and L2 distance, and of random guesses, for each gallery size.

    queries: (rows, feature). gallery: (num_speakers, feature), one face per speaker. truth: (rows,), the index in the
    gallery of each query's speaker. speakers: (rows,), the groups of the bootstrap. gallery_sizes: None stands for all
    speakers; larger sizes are left out.

    Smaller galleries are not sampled: R@K is the exact expectation over all galleries of that size that contain the
    speaker (`recall_at_k`). A random guess has R@K = K / size and no interval. The cost of each distance is
    O(rows * num_speakers * feature).

    Raises ValueError if `truth` contains an index outside the gallery.
    """
    num_faces = len(gallery)
    if ((truth < 0) | (truth >= num_faces)).any():
        raise ValueError(f"truth must be positions in a gallery of {num_faces}, got {truth.min()} to {truth.max()}")
    sizes = dict.fromkeys(num_faces if size is None else size for size in gallery_sizes)
    ranks_by_distance = {distance: ranks(queries, gallery, truth, distance) for distance in DISTANCES}
    rows = []
    for size in (size for size in sizes if size <= num_faces):
        for distance, (nearer, tied) in ranks_by_distance.items():
            row: dict[str, Any] = {"distance": distance, "gallery": size, "n": len(queries)}
            for k in TOP_K:
                hits = recall_at_k(nearer, tied, k, size, num_faces)
                row[f"r{k}"], row[f"r{k}_interval"] = metrics.mean_and_interval(
                    hits, speakers, num_resamples=num_resamples, seed=seed
                )
            rows.append(row)
        random_row: dict[str, Any] = {"distance": "random", "gallery": size, "n": len(queries)}
        for k in TOP_K:
            random_row |= {f"r{k}": min(1.0, k / size), f"r{k}_interval": None}
        rows.append(random_row)
    return rows


def ranks(queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray, distance: str) -> tuple[np.ndarray, np.ndarray]:
    """Return how many other faces are nearer to each query than its own, and how many are tied, (rows,) each.

    distance: one of DISTANCES, in float64. Cosine distance orders faces as the Euclidean distance of unit vectors does.
    """
    q, g = (torch.tensor(np.asarray(values), dtype=torch.float64) for values in (queries, gallery))
    if distance == "cosine":
        q, g = (metrics.unit_vectors(values) for values in (q, g))
    power = 1.0 if distance == "l1" else 2.0
    nearer, tied = np.empty(len(q), np.int64), np.empty(len(q), np.int64)
    for start in range(0, len(q), _MAX_QUERIES):
        block = slice(start, start + _MAX_QUERIES)
        # No matrix products: they are faster, but rounding would make equal faces differ in distance.
        apart = torch.cdist(q[block], g, p=power, compute_mode="donot_use_mm_for_euclid_dist")
        own = apart.gather(1, torch.as_tensor(truth[block, None]))
        nearer[block] = (apart < own).sum(dim=1).numpy()
        tied[block] = (apart == own).sum(dim=1).numpy() - 1
    return nearer, tied


def recall_at_k(nearer: np.ndarray, tied: np.ndarray, k: int, size: int, num_faces: int) -> np.ndarray:
    """Return the probability that each query's face is among the k nearest of a random gallery of `size`, (rows,).

    The gallery contains the speaker and size - 1 of the num_faces - 1 others, each choice equally likely, so the number
    of nearer faces in it is hypergeometric. Ties are ordered at random: with t tied faces, the result is the mean over
    0 to t additional nearer faces.
    """
    if num_faces == 1:
        return np.ones(len(nearer))  # for which scipy's distribution has no value
    hit = hypergeom.cdf(k - 1, num_faces - 1, np.arange(num_faces), size - 1)
    before = np.concatenate([[0.0], np.cumsum(hit)])
    return (before[nearer + tied + 1] - before[nearer]) / (tied + 1)
