"""`arspm demo`: all stages on this machine, from synthetic speakers to the report."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError, presets
from jobs.commands.options import completing, examples

app = typer.Typer()

CLIPS_PER_SPEAKER = 3
FPS = 2  # a face is looked for in three frames of a clip, and nobody watches these


@app.command(epilog=examples("arspm demo", "arspm demo --run runs/tiny --preset smoke --num-speakers 14"))
def demo(
    run: Annotated[
        str, typer.Option(help="Run directory: a local path. The clips are written beside it.")
    ] = "runs/demo",
    preset: Annotated[
        str,
        typer.Option(
            help=f"Named configuration: {', '.join(presets.PRESETS)}.", autocompletion=completing(presets.PRESETS)
        ),
    ] = "demo",
    num_speakers: Annotated[int, typer.Option(min=1, help="Number of synthetic speakers.")] = 240,
) -> None:
    """Write clips of synthetic speakers, and run all stages on them, to the report.

    Needs nothing but this machine: it starts a Ray head, unless one is up, and stops it at the end. Run the same
    command again to resume.
    """
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    from arspm.report.words import format_duration
    from cluster import head
    from jobs.commands.chain import submit
    from jobs.commands.data import synth

    if storage.is_remote(run):
        raise ConfigError(f"--run {run}: the demo's clips are written beside its run, so it must be a local path")
    presets.preset(preset)  # an unknown name is an error before anything is written
    started, folder = time.monotonic(), Path(storage.absolute(run))
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
    print(f"open {(folder / 'report' / 'index.html').as_uri()}")
