"""Prints the rows that ways of reading give: python -m tests.benchmarks.rows_of_ways FOLDER WAY...

A line of JSON for each way: a digest of each row -> how often it came, over two epochs. In a process of its own,
because LitData changes how Python starts processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import ray
import torch

from arspm.config import override
from arspm.config.presets import PRESETS
from arspm.corpus import schema, tables
from arspm.distributed.data.readings import Reading
from benchmarks.feed import write_corpus
from benchmarks.reading import RAY_WAYS
from benchmarks.ways import WAYS, reading_of

CONFIG = override(PRESETS["paper"], {"data.rows_per_shard": 24, "data.rows_per_group": 8, "ingest.window_rows": 4})
CLIPS, EPOCHS = 48, 2


def write(folder: Path) -> Reading:
    """Write a corpus of two shards, in which no two clips are the same, and return how it is read."""
    run = folder / "waveform"
    if not run.exists():
        write_corpus(CONFIG, CLIPS, run)
        shard = str(run / "corpus" / "train" / "speech" / "shard-00001.parquet")
        table = tables.read_table(shard)
        index = table.schema.get_field_index(schema.WAVEFORM)
        values = schema.tensors(table[schema.WAVEFORM], schema.tensor_type(table.schema.field(index)))
        table = table.set_column(index, table.schema.field(index), schema.tensor_column(-values))
        tables.write_table(shard, table, CONFIG.data.rows_per_group)
    return reading_of(CONFIG, run)


def rows(name: str, reading: Reading) -> Counter[str]:
    """Return the digests of the rows that a way gives, of the speech and, unless it reads speech only, the feature."""
    found: Counter[str] = Counter()
    for epoch in WAYS[name](reading, EPOCHS):
        for batch in epoch:
            if isinstance(batch, torch.Tensor):
                batch = {schema.WAVEFORM: batch}
            columns = [batch[column].numpy() for column in (schema.WAVEFORM, schema.FACE_FEATURE) if column in batch]
            for parts in zip(*columns, strict=True):
                content = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
                found[hashlib.sha256(content).hexdigest()] += 1
    return found


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    os.environ["ARSPM_CACHE"] = str(folder / "cache")
    reading = write(folder)
    if RAY_WAYS & set(names):
        ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, logging_level="error")
    for name in names:
        print(json.dumps({"way": name, "rows": rows(name, reading)}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
