"""Stage prior: the mean face features (neutral, female, male), and how they converge with the number of faces."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from arspm import storage
from arspm.config import Config
from arspm.corpus import filters, schema, tables
from arspm.corpus.genders import read_genders
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from arspm.training.prior import choose_rows, convergence, running_means
from jobs.stage import main


def prior(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Average the face features of the training split (eq. 3) and measure Table 1."""
    train = tables.open_split(stages.corpus(run), "train")
    kept = np.flatnonzero(filters.select_rows(train, config.data.filter).keep)
    by_split = {
        name: read_genders(tables.open_split(stages.corpus(run), name), config.gender.label_confidence)
        for name in schema.SPLITS
    }
    genders = by_split["train"].take(kept)
    means, by_count, table = {}, {}, {}
    for name, choice in choose_rows(genders.names, config.prior.num_faces, config.seed).items():
        chosen = tables.read_rows(train, {"features": (schema.FACE_FEATURE,)}, kept[choice.rows])
        values = chosen[schema.FACE_FEATURE].astype("float32")
        for count, mean in running_means(values).items():
            by_count[f"{name}/{count}"] = means[name] = torch.from_numpy(
                mean.astype("float32")
            )  # the last count is all faces
        table[name] = {
            "n": len(values),
            "gender_balanced": choice.balanced,
            "num_predicted": int(genders.predicted[choice.rows].sum()),
            "clips": tables.ids_hash(chosen[schema.CLIP_ID].to_pylist()),
            "convergence": convergence(values),
        }
    files = {}
    with TemporaryDirectory() as folder:
        for file, weights in ((artifacts.PRIORS, means), (artifacts.PRIORS_BY_COUNT, by_count)):
            checkpoint.write_weights(Path(folder, file), weights)
            files[f"prior/{file}"] = storage.upload(Path(folder, file), storage.join(run, "prior", file))
    return files, {"priors": table, "labels": {name: each.counts for name, each in by_split.items()}}


if __name__ == "__main__":
    main("prior", prior)
