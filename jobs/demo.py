"""All stages on this machine: a local head, synthetic clips, the chain, its report. `make demo` runs it."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arspm.report.words import format_duration
from cluster import head
from jobs import cli
from jobs.commands.chain import submit
from jobs.commands.data import synth

NUM_SPEAKERS, CLIPS_PER_SPEAKER = 240, 3
FPS = 2  # a face is looked for in three frames of a clip, and nobody watches these


def demo(folder: Path, preset: str, num_speakers: int) -> None:
    """Write synthetic clips beside the folder unless they exist, then run or resume the chain in the folder."""
    started = time.monotonic()
    clips = folder.with_name(folder.name + "-clips")
    own_head = head.current() is None
    try:
        with ThreadPoolExecutor(1) as beside:  # a head mostly waits while it starts
            running = beside.submit(head.up)
            if not clips.exists():
                print(f"writing clips of {num_speakers} synthetic speakers to {clips}", flush=True)
                synth(str(clips), num_speakers=num_speakers, clips_per_speaker=CLIPS_PER_SPEAKER, seed=0, fps=FPS)
            print(f"Ray answers at {running.result().address}", flush=True)
        submit(
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
        if own_head:
            head.down()
    print(f"finished in {format_duration(time.monotonic() - started)}; metrics: {folder / 'report' / 'metrics.json'}")
    print(f"open {(folder / 'report' / 'index.html').resolve().as_uri()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run directory (default: %(default)s)")
    parser.add_argument("--preset", default="demo", help="named configuration (default: %(default)s)")
    parser.add_argument(
        "--num-speakers", type=int, default=NUM_SPEAKERS, help="synthetic speakers (default: %(default)s)"
    )
    arguments = parser.parse_args()
    sys.exit(cli.readable(lambda: demo(arguments.run, arguments.preset, arguments.num_speakers)))
