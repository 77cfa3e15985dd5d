"""`arspm synth`: clips of synthetic speakers."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from jobs.commands.options import examples
from jobs.verbosity import is_quiet

app = typer.Typer()
PROGRESS_SECONDS = 5.0  # between two lines of progress


@app.command(
    epilog=examples(
        "arspm synth data/synthetic", "arspm synth data/other --num-speakers 240 --clips-per-speaker 3 --seed 1"
    )
)
def synth(
    out: Annotated[str, typer.Argument(help="New folder for clips/, avspeech.csv, labels.csv and speakers.parquet.")],
    num_speakers: Annotated[int, typer.Option(min=1, help="Number of synthetic speakers.")] = 100,
    clips_per_speaker: Annotated[int, typer.Option(min=1, help="Clips of each speaker.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed; another seed gives other speakers.")] = 0,
    fps: Annotated[int, typer.Option(min=1, help="Frames per second; half of them take half the time.")] = 10,
) -> None:
    """Write talking-head clips of synthetic speakers, in the AVSpeech format."""
    from arspm.synthetic.films import write_corpus

    out = storage.absolute(out)
    if storage.is_remote(out):
        raise ConfigError(f"{out}: synthetic speakers can only be written to a local folder")
    started = last_printed = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last_printed
        if is_quiet():
            return
        now = time.monotonic()
        if done and (now - last_printed > PROGRESS_SECONDS or done == total):
            last_printed = now
            print(f"{done} of {total} clips, about {(now - started) * (total - done) / done:.0f} s left", flush=True)

    summary = write_corpus(
        out, num_speakers=num_speakers, clips_per_speaker=clips_per_speaker, seed=seed, fps=fps, progress=show
    )
    print(f"wrote {summary.num_clips} clips of {summary.num_speakers} synthetic speakers to {out}")
