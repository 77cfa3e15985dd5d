"""Measures whether memory grows with epochs or with the corpus: `python -m benchmarks.long_runs`.

Starts a local head of its own. There, `arspm submit` runs the chain stage by stage over a small corpus, and over one
`--times` as large: the same clips with other ids, so that each clip costs the same. The encoder trains for three epochs
on the small corpus and for `--epochs` on the large one. Trainings stream their rows, although they would cache a corpus
of this size: cached rows are pages of files, which the system takes back when it needs memory.

Every half second, the benchmark samples the anonymous memory of each process, and the size of the object store.
Anonymous memory is without the object store, and without the pages of files: torch's libraries alone are 200 MiB, which
count towards the unique set size only while a single process uses them.

Prints the peak in MiB per stage and kind of process, for both corpora; then medians over ten equal parts of the
encoder's training on the large corpus, which show whether memory grows.
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

import ray  # noqa: F401  makes its own copy of psutil importable
from psutil import Error, Process

from arspm.synthetic.films import CorpusSummary, write_corpus
from cluster.head import Head, client_env, down, up
from cluster.host import marked_processes

EVERY_SECONDS = 0.5
STORE_BYTES = 300_000_000
STAGES = ("preprocess", "features", "decoder", "encoder", "evaluate")  # each run includes the stages that it needs
SHORT_EPOCHS = 3
DRIVER, TRAINING, DATA, STORE = "driver", "training worker", "data task", "object store"
_MIB = 2**20
_STORED = re.compile(r"^ray_object_store_memory\{[^}]*\} (\S+)$", re.MULTILINE)
_ANONYMOUS = re.compile(r"^Anonymous: +(\d+) kB$", re.MULTILINE)

Sample = dict[str, float]  # MiB: anonymous memory of the largest process of each kind, size of the object store


class Memory(NamedTuple):
    """Memory samples of one stage and those that it needs, in order of time."""

    samples: list[Sample]

    def peak(self, kind: str) -> float:
        """Return the maximum for a kind of process, in MiB; 0 if there is no sample."""
        return max((sample[kind] for sample in self.samples if kind in sample), default=0.0)

    def course(self, kind: str) -> list[float]:
        """Return the medians of ten equal parts of the samples of a kind; the first part is start-up."""
        seen = [sample[kind] for sample in self.samples if kind in sample]
        tenth = max(1, len(seen) // 10)
        return [statistics.median(seen[begin : begin + tenth]) for begin in range(0, tenth * 10, tenth) if seen[begin:]]


class Watch:
    """Context manager that samples a head's memory in the background."""

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
                with contextlib.suppress(Error, OSError):  # it has ended
                    if kind := kind_of(process):
                        sample[kind] = max(sample.get(kind, 0.0), anonymous_mib(process.pid))
            with contextlib.suppress(OSError):
                sample[STORE] = stored_mib(self._head)
            self.samples.append(sample)


def anonymous_mib(pid: int) -> float:
    """Return a process's memory without pages of files and without shared memory. Raises OSError if it has ended."""
    [kib] = _ANONYMOUS.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return int(kib) / 1024


def kind_of(process: Process) -> str:
    """Return the kind of a head's process; "" for idle workers and Ray's own processes."""
    title = " ".join(process.cmdline())
    if re.search(r"-m jobs\.(?!chain)", title):
        return DRIVER
    if not title.startswith("ray::"):
        return ""
    if "RayTrainWorker" in title:
        return TRAINING
    return DATA if re.match(r"ray::_?(Map|Read)", title) else ""


def stored_mib(head: Head) -> float:
    """Return the size of the objects in the head's store, from the metrics that Ray exports to Prometheus."""
    [group] = json.loads(Path(head.session_dir, "prom_metrics_service_discovery.json").read_text())
    for target in group["targets"]:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as reply:
            if values := _STORED.findall(reply.read().decode()):
                return sum(map(float, values)) / _MIB
    return 0.0


def enlarge(made: CorpusSummary, times: int, folder: Path) -> Path:
    """Write a CSV and labels that list the same files `times` times, as different people's clips; return the CSV."""
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
    """Run the chain stage by stage and return the memory of each stage."""
    memory = {}
    for stage in STAGES:
        words = ["submit", "--csv", table, "--clips", clips, "--run", run, "--preset", "smoke", "--until", stage]
        words += ["--set", f"training.encoder.epochs={epochs}", "--set", "ingest.path=stream"]
        with Watch(head) as watch:
            done = subprocess.run(
                [Path(sys.executable).with_name("arspm"), *map(str, words)],
                env={**os.environ, **client_env(head)},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            raise SystemExit(f"{stage}: {done.stderr.strip().splitlines()[-1]}")
        memory[stage] = Memory(watch.samples)
    return memory


def run(speakers: int, times: int, epochs: int) -> tuple[dict[str, dict[str, Memory]], dict[str, float]]:
    """Return each stage's memory for the small and the large corpus, and the sizes of the corpora in MiB."""
    with tempfile.TemporaryDirectory(prefix="arspm-") as scratch:
        folder = Path(scratch)
        os.environ["ARSPM_HOME"] = str(folder / "home")  # a separate head, even if another one is running
        made = write_corpus(folder / "made", num_speakers=speakers, clips_per_speaker=2, seconds=(1.0, 1.5))
        memory, sizes = {}, {}
        metrics = {"RAY_enable_metrics_collection": "1", "RAY_metrics_report_interval_ms": "1000"}
        head = up(num_cpus=2, object_store_memory=STORE_BYTES, env=metrics)
        try:
            for name, copies, passes in (("small", 1, SHORT_EPOCHS), ("large", times, epochs)):
                table, run_folder = enlarge(made, copies, folder / name), folder / f"run-{name}"
                memory[name] = measure(head, made.clips_dir, table, run_folder, passes)
                tables = (run_folder / "corpus").rglob("*.parquet")
                sizes[name] = sum(file.stat().st_size for file in tables) / _MIB
        finally:
            down()
            shutil.rmtree(head.temp_dir, ignore_errors=True)
    return memory, sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_runs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--speakers", type=int, default=14, help="speakers in the small corpus, with two clips each (default: 14)"
    )
    parser.add_argument(
        "--times", type=int, default=20, help="size of the large corpus, as a multiple of the small one (default: 20)"
    )
    parser.add_argument(
        "--epochs", type=int, default=30, help="epochs of the encoder on the large corpus (default: 30)"
    )
    arguments = parser.parse_args()
    memory, sizes = run(arguments.speakers, arguments.times, arguments.epochs)
    print(f"corpus: {sizes['small']:.0f} and {sizes['large']:.0f} MiB; object store: {STORE_BYTES / _MIB:.0f} MiB")
    print("{:<11} {:<16} {:>11} {:>11} {:>6}".format("stage", "", "small, MiB", "large, MiB", "more"))
    for stage in STAGES:
        for kind in (DRIVER, TRAINING, DATA, STORE):
            small, large = (memory[name][stage].peak(kind) for name in ("small", "large"))
            if small or large:
                print(f"{stage:<11} {kind:<16} {small:>11.0f} {large:>11.0f} {large - small:>+6.0f}")
    print(f"encoder, large corpus, {arguments.epochs} epochs: median MiB of each tenth of the samples")
    for kind in (DRIVER, TRAINING, DATA, STORE):
        print(f"{kind:<16}", *(f"{each:>4.0f}" for each in memory["large"]["encoder"].course(kind)))


if __name__ == "__main__":
    main()
