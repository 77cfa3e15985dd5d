"""The whole chain on this machine: local head, made-up clips, stages, report. `make demo` runs it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cluster import head
from jobs import cli
from jobs.console import format_duration

NUM_SPEAKERS, CLIPS_PER_SPEAKER = 240, 3


def demo(folder: Path, preset: str, num_speakers: int) -> None:
    """Make the clips unless they are there, then run or finish the chain in `<folder>`."""
    begun = time.monotonic()
    clips = folder.with_name(folder.name + "-clips")
    if not clips.exists():
        print(f"drawing {num_speakers} made-up people and their voices into {clips}", flush=True)
        cli.synth(str(clips), num_speakers=num_speakers, clips_per_speaker=CLIPS_PER_SPEAKER, seed=0)
    started = head.current() is None
    print(f"Ray answers at {head.up().address}", flush=True)
    try:
        cli.submit(
            run=str(folder),
            csv=str(clips / "avspeech.csv"),
            clips=str(clips / "clips"),
            labels=None,
            preset=preset,
            config=None,
            set_=None,
            until=None,
            detach=False,
            ray_address=None,
        )
    finally:
        if started:
            head.down()
    print(f"all in {format_duration(time.monotonic() - begun)}; figures: {folder / 'report' / 'metrics.json'}")
    print(f"open {(folder / 'report' / 'index.html').resolve().as_uri()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--num-speakers", type=int, default=NUM_SPEAKERS)
    arguments = parser.parse_args()
    sys.exit(cli.readable(lambda: demo(arguments.run, arguments.preset, arguments.num_speakers)))
