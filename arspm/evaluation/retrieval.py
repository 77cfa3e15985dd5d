"""Retrieval: is the speaker's face among the K nearest of a gallery? (recall at K, as Speech2Face measures it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom

from arspm.evaluation import metrics

RECALLS = (1, 2, 5, 10)
DISTANCES = ("cosine", "l1", "l2")

_MAX_QUERIES = 256  # whose distances to the whole gallery are held at a time


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
    """Recall at 1, 2, 5 and 10 of each query's face, by cosine, L1 and L2, with the row of chance.

    queries: (rows, feature). gallery: (num_speakers, feature), one face of each speaker. truth: (rows,), the position
    in the gallery of each query's speaker. speakers: (rows,), the groups of the bootstrap. gallery_sizes: None is all
    speakers; a size above their number is left out.

    A gallery of fewer speakers is not drawn: the figure is the expectation over every gallery of that size that holds
    the speaker (`recalls`). Chance is K of the gallery's size, and needs no interval. Every distance takes
    rows * num_speakers * feature steps.

    Raises ValueError for a truth outside the gallery.
    """
    num_faces = len(gallery)
    if ((truth < 0) | (truth >= num_faces)).any():
        raise ValueError(f"truth must be positions in a gallery of {num_faces}, got {truth.min()} to {truth.max()}")
    wanted = [num_faces if size is None else size for size in gallery_sizes]
    sizes = [size for size in dict.fromkeys(wanted) if size <= num_faces]
    places = {distance: ranks(queries, gallery, truth, distance) for distance in DISTANCES}
    found = []
    for size in sizes:
        for distance, (nearer, tied) in places.items():
            row: dict[str, Any] = {"distance": distance, "gallery": size, "n": len(queries)}
            for recall in RECALLS:
                hits = recalls(nearer, tied, recall, size, num_faces)
                row[f"r{recall}"], row[f"r{recall}_interval"] = metrics.mean_and_interval(
                    hits, speakers, num_resamples=num_resamples, seed=seed
                )
            found.append(row)
        chance: dict[str, Any] = {"distance": "random", "gallery": size, "n": len(queries)}
        for recall in RECALLS:
            chance |= {f"r{recall}": min(1.0, recall / size), f"r{recall}_interval": None}
        found.append(chance)
    return found


def ranks(queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray, distance: str) -> tuple[np.ndarray, np.ndarray]:
    """How many other faces are nearer to each query than its own, and how many are as near, (rows,) each.

    distance: one of DISTANCES, in float64. The cosine's order is that of the Euclidean distance of unit vectors.
    """
    q, g = (torch.tensor(np.asarray(values), dtype=torch.float64) for values in (queries, gallery))
    if distance == "cosine":
        q, g = (torch.nn.functional.normalize(values, dim=1) for values in (q, g))
    nearer, tied = np.empty(len(q), np.int64), np.empty(len(q), np.int64)
    for start in range(0, len(q), _MAX_QUERIES):
        here = slice(start, start + _MAX_QUERIES)
        # Not by matrix products: they are quicker, but two equal faces must be equally far.
        apart = torch.cdist(q[here], g, p=1.0 if distance == "l1" else 2.0, compute_mode="donot_use_mm_for_euclid_dist")
        own = apart.gather(1, torch.as_tensor(truth[here, None]))
        nearer[here] = (apart < own).sum(dim=1).numpy()
        tied[here] = (apart == own).sum(dim=1).numpy() - 1
    return nearer, tied


def recalls(nearer: np.ndarray, tied: np.ndarray, recall: int, size: int, num_faces: int) -> np.ndarray:
    """The chance that each query's face is among the `recall` nearest of a random gallery of `size`, (rows,).

    The gallery holds the speaker and size - 1 of the num_faces - 1 others, every such choice alike; so the number of
    nearer ones in it is hypergeometric. Faces that are as near stand before the speaker's or after it in any order,
    all orders alike: with t of them, the mean over 0 to t more that are nearer.
    """
    hit = hypergeom.cdf(recall - 1, num_faces - 1, np.arange(num_faces), size - 1)
    before = np.concatenate([[0.0], np.cumsum(hit)])
    return (before[nearer + tied + 1] - before[nearer]) / (tied + 1)
