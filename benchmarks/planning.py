"""How long a corpus of AVSpeech's size takes to plan, and how much memory: python -m benchmarks.planning FOLDER.

Writes a CSV of 2.6 million rows and 300,000 empty files into a new folder. The second run lists the files and stores
the inventory, as `arspm submit` does. Then it reads, matches, splits and plans the rows, as preprocessing does before
it decodes anything. `--clips s3://bucket/clips` puts the files, of one byte each, on S3 instead.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from arspm import storage
from arspm.config import Config, override
from arspm.distributed.data.shards import assign_splits, content_keys, plan_shards
from arspm.media.datasets import read_dataset
from arspm.runs import inventory
from benchmarks import results

ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
ROWS_PER_VIDEO = 9  # AVSpeech: 2.6 million rows of 290,000 videos


@contextmanager
def timed(what: str, figures: dict[str, dict[str, float]]) -> Iterator[None]:
    """Print how long the block takes, and its processor time and peak memory, and add them to the figures."""
    started, before = time.monotonic(), time.process_time()
    yield
    figures[what] = {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - before, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    shown = figures[what]
    print(f"{what}: {shown['seconds']:.1f} s; peak memory so far {shown['peak_gib']:.2f} GiB", flush=True)


def write_inputs(folder: Path, num_rows: int, num_files: int, clips: str) -> None:
    """Write avspeech.csv with AVSpeech's six decimals, and the clips as a downloader does: a subfolder per video."""
    rng = np.random.default_rng(0)
    num_videos = -(-num_rows // ROWS_PER_VIDEO)
    videos = ["".join(row) for row in ALPHABET[rng.integers(0, 64, (num_videos, 11))]]
    owners = rng.permutation(np.arange(num_rows) % num_videos)
    starts = rng.integers(0, 30_000, num_rows) / 30
    lengths = rng.integers(90, 300, num_rows) / 30
    chosen = set(rng.choice(num_rows, num_files, replace=False).tolist())
    paths = []
    with (folder / "avspeech.csv").open("w") as csv:
        for row, (owner, start, length) in enumerate(zip(owners, starts, lengths, strict=True)):
            video, end = videos[owner], start + length
            csv.write(f"{video},{start:.6f},{end:.6f},0.512500,0.386111\n")
            if row in chosen:
                paths.append(f"v{owner % 1000}/{video}_{start:.3f}_{end:.3f}.mp4")
    if storage.is_remote(clips):
        fs, root = storage.filesystem(clips)
        for begin in range(0, len(paths), 2000):
            fs.pipe({f"{root}/{path}": b"x" for path in paths[begin : begin + 2000]}, batch_size=64)
        return
    for path in paths:
        file = Path(clips, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="new folder for the inputs; reused if it exists")
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    parser.add_argument("--clips", help="folder of the files, local or on S3 (default: FOLDER/clips)")
    arguments = parser.parse_args()
    clips, run = arguments.clips or f"{arguments.folder}/clips", f"{arguments.folder}/run"
    if not arguments.folder.exists():
        arguments.folder.mkdir(parents=True)
        write_inputs(arguments.folder, arguments.rows, arguments.files, clips)
        print("wrote the inputs; run the same command again to measure without their memory")
        return
    figures: dict[str, dict[str, float]] = {}
    config = override(Config(), {"data.csv": f"{arguments.folder}/avspeech.csv", "data.clips": clips})
    with timed("listing and hash", figures):
        listed = inventory.find_inputs(config)
    with timed("inventory: write and read", figures):
        inventory.write_inventory(run, config.data, "f", listed.trees)
        trees = inventory.read_inventory(run, config.data, "f")
    with timed("rows, files and labels", figures):
        dataset = read_dataset(config.data, trees)
    usable = dataset.rows.usable()
    with timed("splits and shards", figures):
        split_of, _ = assign_splits(usable.table["video_id"].unique().to_pylist(), 0.02, 0.02)
        shards = plan_shards(usable, content_keys(usable, config), split_of, config.data.rows_per_shard)
    results.write(arguments.json, {"rows": len(dataset.rows), "files": len(usable), "steps": figures}, {})
    print(f"{len(dataset.rows):,} rows, {len(usable):,} with a file, {len(shards):,} shards")


if __name__ == "__main__":
    main()
