"""Portraits of many recordings on Ray: with helpers, as beside a GPU, and without."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from arspm import SpeechPortrait, storage
from arspm.bulk import drawing, item_files, recordings
from arspm.config import Tasks
from arspm.corpus import schema, tables
from arspm.distributed import bulk, local
from tests.media.media_files import voice
from tests.untrained_run import write_untrained_run

INFER, HELP = Tasks(num_tasks=1, cpus=0.4), Tasks(num_tasks=2, cpus=0.2)


@pytest.mark.ray
@pytest.mark.parametrize("helpers", [HELP, None], ids=["with helpers", "actors alone"])
def test_ray_draws_recordings_and_corpora_as_one_process_does(
    driver: None, tmp_path: Path, write_corpus: Callable[..., Any], helpers: Tasks | None
):
    run = write_untrained_run(tmp_path / "run")
    corpus, _ = write_corpus({"test": (5, 3)}, feature_dim=64)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", voice(2.0), 16_000)
    (tmp_path / "in" / "b.wav").touch()
    items = [*recordings.find([str(tmp_path / "in"), corpus]).items()]
    model = SpeechPortrait.load(run)
    alone = [json.loads(each["result"]) for each in drawing.draw_all(model, items, str(tmp_path / "alone"))]
    on_ray = local.map_tables_with_actors(
        bulk._Drawer,
        (run, 0),
        items,
        INFER,
        read=functools.partial(item_files.read, model.config),
        write=functools.partial(item_files.write, str(tmp_path / "ray")),
        table_bytes=10**6,
        helpers=helpers,
    )
    assert [json.loads(each["result"]) for each in on_ray] == alone
    assert alone[0] == {"names": ["in/a"], "failures": [[f"{tmp_path}/in/b.wav", "an empty file"]]}
    assert sum(len(each["names"]) for each in alone) == 9
    written = storage.files_below(str(tmp_path / "ray"))
    assert written.keys() == storage.files_below(str(tmp_path / "alone")).keys()
    for path in written:
        if path.endswith(".parquet"):
            found, wanted = (
                schema.columns_of(tables.read_table(str(tmp_path / folder / path))) for folder in ("ray", "alone")
            )
            np.testing.assert_allclose(
                found[schema.SPEECH_FEATURE], wanted[schema.SPEECH_FEATURE], rtol=1e-4, atol=1e-5
            )
