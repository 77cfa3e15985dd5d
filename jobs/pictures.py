"""A run's pictures as files, for eyes and judges outside this system."""

from __future__ import annotations

import csv
import io

from arspm import storage
from arspm.corpus import schema, tables
from arspm.runs import stages

INDEX = "index.csv"


def export(run: str, out: str) -> int:
    """Write the real faces, what the decoder makes of them, and the portraits of the test split; how many pictures.

    `OUT/<pictures>/<clip id>.jpg`, and `OUT/index.csv` with the columns clip_id, pictures, file, gender and age, the
    last two empty: filled in by a judge it is what `evaluate.judge` takes. Raises FileNotFoundError where the run was
    not evaluated.
    """
    stages.finished_config(run, "evaluate")
    place = stages.folder(run, "evaluate")
    model = storage.read_json(storage.join(place, "metrics.json"))["model"]
    split = tables.open_split(stages.corpus(run), "test")
    drawn = {"face-to-face": schema.FACE_TO_FACE_JPEG, model: schema.PORTRAIT_JPEG}
    index = io.StringIO()
    rows = csv.writer(index, lineterminator="\n")
    rows.writerow(("clip_id", "pictures", "file", "gender", "age"))
    count = 0
    for shard, name in enumerate(split.shards):
        predictions = storage.join(place, "predictions", f"test-{name}.parquet")
        table = tables.read_table(predictions, [schema.CLIP_ID, *drawn.values()])
        real = tables.read_columns(split.only(shard), "faces", (schema.FACE_JPEG,))[schema.FACE_JPEG]
        columns = {"real": real} | {pictures: table[column] for pictures, column in drawn.items()}
        for pictures, column in columns.items():
            for clip, jpeg in zip(table[schema.CLIP_ID].to_pylist(), column.to_pylist(), strict=True):
                file = f"{pictures}/{clip}.jpg"
                storage.write_bytes(storage.join(out, file), jpeg)
                rows.writerow((clip, pictures, file, "", ""))
                count += 1
    storage.write_bytes(storage.join(out, INDEX), index.getvalue().encode())
    return count
