"""What a corpus costs when its table grows and shrinks: python -m benchmarks.growth FOLDER.

Films synthetic speakers, then runs `arspm submit --until preprocess` on a local head for tables of 2,000, 3,000, 4,000,
5,000 and 4,500 rows, then with other labels and other fractions, in one run. Prints what each step did for how many
clips. Takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from arspm.synthetic.films import write_corpus
from benchmarks import results

ROWS_PER_VIDEO, SECONDS, STEP = 10, 1.5, 1.0  # rows overlap by half a second
ARSPM = [sys.executable, "-m", "jobs.cli"]


def write_inputs(folder: Path, num_rows: int) -> list[list[str]]:
    """Write whole videos named by their ids, and labels.csv. Returns the rows, in random order of the videos."""
    length = STEP * (ROWS_PER_VIDEO - 1) + SECONDS
    made = write_corpus(
        folder, num_speakers=num_rows // ROWS_PER_VIDEO, clips_per_speaker=1, seconds=(length, length + 0.5)
    )
    with made.clips_csv.open() as file:
        videos = list(csv.reader(file))
    rows = []
    for video, start, end, x, y in videos:
        (made.clips_dir / f"{video}_{start}_{end}.mp4").rename(made.clips_dir / f"{video}.mp4")
        rows += [[video, f"{begin:.6f}", f"{begin + SECONDS:.6f}", x, y] for begin in range(ROWS_PER_VIDEO)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--rows", type=int, default=5000, help="(default: 5000)")
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    folder, count = arguments.folder, arguments.rows
    rows = write_inputs(folder, count)
    labels = (folder / "labels.csv").read_text()
    steps: list[tuple[str, int, list[str]]] = [
        (f"{part:.0%} of the rows", int(count * part), []) for part in (0.4, 0.6, 0.8, 1.0, 0.9)
    ]
    steps += [("one row more", int(count * 0.9) + 1, [])]
    steps += [("other labels for a speaker", int(count * 0.9) + 1, [])]
    steps += [("5 % to test in place of 2 %", int(count * 0.9) + 1, ["--set", "data.test_fraction=0.05"])]
    figures: list[dict[str, Any]] = []
    subprocess.run([*ARSPM, "up"], check=True)
    print("| step | rows | reused | relabelled | copied | decoded | seconds |\n|---|---|---|---|---|---|---|")
    try:
        for name, number, settings in steps:
            with (folder / "table.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows[:number])
            if name.startswith("other labels"):
                (folder / "labels.csv").write_text(labels.replace(",female,", ",male,", 1))
            run = [*ARSPM, "submit", "--run", str(folder / "run"), "--csv", str(folder / "table.csv")]
            run += ["--clips", str(folder / "clips"), "--preset", "demo", "--until", "preprocess", *settings]
            done = subprocess.run([*run, "--set", "face.num_frames=2"], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
            manifest = json.loads((folder / "run/preprocess/_SUCCESS.json").read_text())
            work = manifest["figures"]["work"]
            figures.append({"step": name, "rows": number, **work, "seconds": round(manifest["seconds"], 1)})
            cells = figures[-1].values()
            print("|", " | ".join(map(str, cells)), "|", flush=True)
        subprocess.run([*ARSPM, "prune", str(folder / "run"), "--yes"], check=True)
    finally:
        subprocess.run([*ARSPM, "down"], check=True)
    results.write(arguments.json, figures, {})


if __name__ == "__main__":
    main()
