"""What memory a long run and a large corpus take: `python -m benchmarks.long_runs`.

Two questions, put to a local head of its own: does training take more with every epoch, and does a stage take more of
a larger corpus? `arspm submit` runs the chain stage by stage, over a small corpus and over one `--times` as large: the
same clips under other ids, so that each costs the same. The encoder learns the large one for `--epochs` epochs, the
small one for three. Meanwhile each process of the head is looked at every half second: its unique set size, what would
be free if it ended, so without the object store's shared pages; and what Ray says is in that store.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import NamedTuple

import ray  # noqa: F401  it carries a psutil and makes it importable
from psutil import Error, Process

from arspm.synthetic.films import CorpusSummary, write_corpus
from cluster.head import Head, client_env, down, up
from cluster.host import marked_processes

EVERY_SECONDS = 0.5
STORE_BYTES = 300_000_000
STAGES = ("preprocess", "features", "decoder", "encoder", "evaluate")  # each with those that it needs
SHORT_EPOCHS = 3
DRIVER, TRAINING, DATA, STORE = "driver", "training worker", "data task", "object store"
_MIB = 2**20
_STORED = re.compile(r"^ray_object_store_memory\{[^}]*\} (\S+)$", re.MULTILINE)

Sample = dict[str, float]  # MiB of the largest process of each kind, and of the object store


class Memory(NamedTuple):
    """What one stage took, with those that it needs: samples in order."""

    samples: list[Sample]

    def peak(self, kind: str) -> float:
        return max((sample[kind] for sample in self.samples if kind in sample), default=0.0)

    def course(self, kind: str) -> list[float]:
        """Medians of ten equal parts of a kind's time, the first of which is start-up."""
        seen = [sample[kind] for sample in self.samples if kind in sample]
        tenth = max(1, len(seen) // 10)
        return [statistics.median(seen[begin : begin + tenth]) for begin in range(0, tenth * 10, tenth) if seen[begin:]]


class Watch:
    """Samples a head's memory while the block lasts."""

    def __init__(self, head: Head) -> None:
        self.samples: list[Sample] = []
        self._head, self._over = head, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            sample: Sample = {}
            for process in marked_processes(self._head.pid, self._head.id):
                with contextlib.suppress(Error):
                    if kind := kind_of(process):
                        sample[kind] = max(sample.get(kind, 0.0), process.memory_full_info().uss / _MIB)
            with contextlib.suppress(OSError):
                sample[STORE] = stored_mib(self._head)
            self.samples.append(sample)


def kind_of(process: Process) -> str:
    """What a head's process is for; "" for Ray's own and for those that do nothing."""
    title = " ".join(process.cmdline())
    if re.search(r"-m jobs\.(?!chain)", title):
        return DRIVER
    if not title.startswith("ray::"):
        return ""
    if "RayTrainWorker" in title:
        return TRAINING
    return DATA if re.match(r"ray::_?(Map|Read)", title) else ""


def stored_mib(head: Head) -> float:
    """What is in the head's object store, as Ray tells Prometheus, which it does every second."""
    [group] = json.loads(Path(head.session_dir, "prom_metrics_service_discovery.json").read_text())
    for target in group["targets"]:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as reply:
            if found := _STORED.findall(reply.read().decode()):
                return sum(map(float, found)) / _MIB
    return 0.0


def enlarge(made: CorpusSummary, times: int, folder: Path) -> Path:
    """A CSV and labels of the same files so many times over, each time as other people's clips; the CSV."""
    folder.mkdir()
    with made.clips_csv.open() as file:
        rows = list(csv.reader(file))
    with made.labels_csv.open() as file:
        names, *people = csv.reader(file)
    with (folder / "avspeech.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [f"{video}-{time}", start, end, *where, f"{video}_{start}_{end}.mp4"]
            for time in range(times)
            for video, start, end, *where in rows
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        key, identity = names.index("video_id"), names.index("identity")
        for time in range(times):
            for person in people:
                other = list(person)
                other[key] += f"-{time}"
                other[identity] += f"-{time}"
                writer.writerow(other)
    return folder / "avspeech.csv"


def measure(head: Head, clips: Path, table: Path, run: Path, epochs: int) -> dict[str, Memory]:
    """The memory of each stage of a run."""
    found = {}
    for stage in STAGES:
        words = ["submit", "--csv", table, "--clips", clips, "--run", run, "--preset", "smoke", "--until", stage]
        words += ["--set", f"training.encoder.epochs={epochs}"]
        with Watch(head) as watch:
            done = subprocess.run(
                [Path(sys.executable).with_name("arspm"), *map(str, words)],
                env={**os.environ, **client_env(head)},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            raise SystemExit(f"{stage}: {done.stderr.strip().splitlines()[-1]}")
        found[stage] = Memory(watch.samples)
    return found


def run(speakers: int, times: int, epochs: int) -> tuple[dict[str, dict[str, Memory]], dict[str, float]]:
    """The memory of each stage over the small corpus and the large one, and the corpora's size in MiB."""
    with tempfile.TemporaryDirectory(prefix="arspm-") as scratch:
        folder = Path(scratch)
        os.environ["ARSPM_HOME"] = str(folder / "home")  # a head of its own, whatever else runs
        made = write_corpus(folder / "made", num_speakers=speakers, clips_per_speaker=2, seconds=(1.0, 1.5))
        found, sizes = {}, {}
        metrics = {"RAY_enable_metrics_collection": "1", "RAY_metrics_report_interval_ms": "1000"}
        head = up(num_cpus=2, object_store_memory=STORE_BYTES, env=metrics)
        try:
            for name, copies, passes in (("small", 1, SHORT_EPOCHS), ("large", times, epochs)):
                table, place = enlarge(made, copies, folder / name), folder / f"run-{name}"
                found[name] = measure(head, made.clips_dir, table, place, passes)
                tables = (place / "corpus").rglob("*.parquet")
                sizes[name] = sum(file.stat().st_size for file in tables) / _MIB
        finally:
            down()
            shutil.rmtree(head.temp_dir, ignore_errors=True)
    return found, sizes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_runs", description=__doc__)
    parser.add_argument("--speakers", type=int, default=14, help="of two clips each, in the small corpus")
    parser.add_argument("--times", type=int, default=20, help="how much larger the large one is")
    parser.add_argument("--epochs", type=int, default=30, help="of the encoder over the large one")
    arguments = parser.parse_args()
    found, sizes = run(arguments.speakers, arguments.times, arguments.epochs)
    print(f"corpus: {sizes['small']:.0f} and {sizes['large']:.0f} MiB; object store: {STORE_BYTES / _MIB:.0f} MiB")
    print("{:<11} {:<16} {:>11} {:>11} {:>6}".format("stage", "", "small, MiB", "large, MiB", "more"))
    for stage in STAGES:
        for kind in (DRIVER, TRAINING, DATA, STORE):
            small, large = (found[name][stage].peak(kind) for name in ("small", "large"))
            if small or large:
                print(f"{stage:<11} {kind:<16} {small:>11.0f} {large:>11.0f} {large - small:>+6.0f}")
    print(f"MiB in the tenths of the encoder's {arguments.epochs} epochs of the large one")
    for kind in (DRIVER, TRAINING, DATA, STORE):
        print(f"{kind:<16}", *(f"{each:>4.0f}" for each in found["large"]["encoder"].course(kind)))


if __name__ == "__main__":
    main()
