"""Export a run's pictures as files, for people and for judges outside this system."""

from __future__ import annotations

import csv
import io

from arspm import storage
from arspm.corpus import schema, tables
from arspm.runs import stages

INDEX = "index.csv"


def export(run: str, out: str) -> int:
    """Write the test split's real faces, their reconstructions by the decoder, and the portraits; return their number.

    Writes `OUT/<pictures>/<clip id>.jpg` and `OUT/index.csv` with the columns clip_id, pictures, file, gender and age.
    The last two are empty; once a judge has filled them in, `evaluate.judge` takes the file. Raises FileNotFoundError
    if the run was not evaluated.
    """
    stages.finished_config(run, "evaluate")
    evaluated = stages.folder(run, "evaluate")
    model = storage.read_json(storage.join(evaluated, "metrics.json"))["model"]
    split = tables.open_split(stages.corpus(run), "test")
    column_of = {"face-to-face": schema.FACE_TO_FACE_JPEG, model: schema.PORTRAIT_JPEG}
    index = io.StringIO()
    rows = csv.writer(index, lineterminator="\n")
    rows.writerow(("clip_id", "pictures", "file", "gender", "age"))
    count = 0
    for shard, name in enumerate(split.shards):
        predictions = storage.join(evaluated, "predictions", f"test-{name}.parquet")
        table = tables.read_table(predictions, [schema.CLIP_ID, *column_of.values()])
        real = tables.read_columns(split.only(shard), "faces", (schema.FACE_JPEG,))[schema.FACE_JPEG]
        columns = {"real": real} | {pictures: table[column] for pictures, column in column_of.items()}
        for pictures, column in columns.items():
            for clip, jpeg in zip(table[schema.CLIP_ID].to_pylist(), column.to_pylist(), strict=True):
                file = f"{pictures}/{clip}.jpg"
                storage.write_bytes(storage.join(out, file), jpeg)
                rows.writerow((clip, pictures, file, "", ""))
                count += 1
    storage.write_bytes(storage.join(out, INDEX), index.getvalue().encode())
    return count
