"""The predictions of a gender network, by Ray Data's actors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from arspm import storage
from arspm.config import override
from arspm.corpus import schema, tables
from arspm.distributed import local
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import checkpoint
from jobs import gender
from tests.distributed.conftest import Prepared

pytestmark = pytest.mark.ray


def test_predictions_on_a_cluster_are_those_of_one_process(prepared: Prepared, copy_run: Callable[[str], str]) -> None:
    torch.manual_seed(0)
    run = copy_run("run")
    checkpoint.write_weights(
        prepared.run.parent / "heard.safetensors", speech_portrait.gender_classifier(prepared.config).state_dict()
    )
    config = override(prepared.config, {"gender.weights": f"{prepared.run.parent}/heard.safetensors"})
    num_clips = prepared.figures["num_clips"]

    def heard() -> dict[str, tuple[list[str], np.ndarray]]:
        found = {}
        for name in schema.SPLITS:
            split = tables.open_split(stages.corpus(run), name)
            table = tables.read_columns(split, "genders", (schema.PREDICTED_GENDER, schema.GENDER_CONFIDENCE))
            found[name] = table[schema.PREDICTED_GENDER].to_pylist(), table[schema.GENDER_CONFIDENCE].to_numpy()
        return found

    files, figures = gender.gender(config, run, "f" * 64)
    assert (figures["num_predicted"], figures["num_reused"]) == (num_clips, 0)
    assert 0 <= figures["val_accuracy"] <= 1  # these clips have labels
    assert files == {path: storage.describe(storage.join(run, path)) for path in files}
    on_cluster = heard()
    assert gender.gender(config, run, "f" * 64)[1]["num_reused"] == num_clips
    storage.remove(storage.join(stages.corpus(run), "receipts", "genders"))
    with local.in_process():
        assert gender.gender(config, run, "f" * 64)[1]["num_reused"] == 0
    for split, (names, confidences) in heard().items():
        assert names == on_cluster[split][0]
        np.testing.assert_allclose(confidences, on_cluster[split][1], rtol=1e-4)
