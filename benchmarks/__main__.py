"""Measures the figures of docs/performance.md: `python -m benchmarks [NAME ...]`, or `make bench`.

Runs each benchmark in a process of its own, one after the other, on a machine that should do nothing else. Writes the
figures, with spread, command, commit and machine, to docs/performance.json, and the tables of docs/performance.md. Then
compares all ratios with those of the last commit. Exits with 1 and one line per ratio if ratios dropped by more than
15 % beyond their spread; benchmarks/results.py has the exact rule.

Without names, it runs all that finish in 20 minutes together on two cores; `feed` needs a GPU. By name only, for lack
of time: `growth` (15 min) and `paper_size` (10 min).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import results, tables

JSON, PAGE = results.ROOT / "docs/performance.json", results.ROOT / "docs/performance.md"
FOLDER = "FOLDER"


class Program(NamedTuple):
    """How to run a benchmark. `words`: its arguments, where FOLDER stands for a new one; `quick`: more, for a try.

    `times`: how often it is run; the last run counts. `when`: "always", "gpu" (if there is one), or "named" only.
    """

    words: tuple[str, ...]
    quick: tuple[str, ...] = ()
    times: int = 1
    when: str = "always"


PROGRAMS = {
    "reading": Program((FOLDER,), ("--clips", "384", "--epochs", "1", "--repeats", "1")),
    "overhead": Program(("--threads", "1"), ("--rounds", "2", "--steps", "2")),
    "clip_seconds": Program((FOLDER, "--long-seconds", "60", "--rounds", "5"), ("--rounds", "1")),
    # The first run writes the inputs. The second measures without their memory.
    "planning": Program((FOLDER,), ("--rows", "20000", "--files", "2000"), times=2),
    "feed": Program((), ("--clips", "384", "--epochs", "2", "--rows", "16", "--readers", "4"), when="gpu"),
    "growth": Program((FOLDER,), ("--rows", "100"), when="named"),
    "paper_size": Program((), ("gender", "--steps", "1"), when="named"),
    "scaling": Program((), ("--rounds", "1")),  # last: the prediction takes results of the others
}


def run(name: str, folder: Path, quick: bool) -> results.Section:
    """Run a benchmark and return what it measured. Raises SystemExit with one line if it fails."""
    program = PROGRAMS[name]
    words = ["-m", f"benchmarks.{name}", *program.words, *(program.quick if quick else ())]
    section = results.about(" ".join(["python", *words]))
    found = folder / f"{name}.json"
    command = [
        sys.executable,
        *(str(folder / name) if word == FOLDER else word for word in words),
        "--json",
        str(found),
    ]
    started = time.monotonic()
    for _ in range(program.times):
        done = subprocess.run(command, cwd=results.ROOT)
        if done.returncode:
            raise SystemExit(f"error: {section['command']} ended with status {done.returncode}; its output is above")
    shutil.rmtree(folder / name, ignore_errors=True)
    return section | {"seconds": round(time.monotonic() - started)} | json.loads(found.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(PROGRAMS)}")
    parser.add_argument("--quick", action="store_true", help="try each with little data; write and compare nothing")
    parser.add_argument("--folder", type=Path, help="where temporary files of 10 GB go (default: the system's folder)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in PROGRAMS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    wanted = {"always", "gpu"} if torch.cuda.is_available() else {"always"}
    names = arguments.names or [name for name, program in PROGRAMS.items() if program.when in wanted]
    before = results.committed(JSON)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="arspm-bench-", dir=arguments.folder) as folder:
        for name in names:
            print(f"\n{name}", flush=True)
            section = run(name, Path(folder), arguments.quick)
            if arguments.quick:
                continue
            sections = (json.loads(JSON.read_text()) if JSON.exists() else {}) | {name: section}
            sections = {each: sections[each] for each in PROGRAMS if each in sections}
            JSON.write_text(json.dumps(sections, indent=1) + "\n")
            PAGE.write_text(tables.rewrite(PAGE.read_text(), {name: section}))
            if name in before:
                lines += results.dropped(name, before[name], section)
                if difference := results.other_machine(before[name], section):
                    print(f"{name}: not compared with the last commit; {difference}")
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
