"""`arspm pictures` and `arspm generate`: portraits as files."""

from __future__ import annotations

from typing import Annotated

import typer

from arspm import storage
from jobs.commands.options import Run, examples, existing_run

app = typer.Typer()


@app.command(epilog=examples("arspm pictures --run runs/one --out pictures"))
def pictures(
    run: Run, out: Annotated[str, typer.Option(help="Folder to write the pictures and index.csv to.")]
) -> None:
    """Write the test split's real faces and portraits as files, with a table for a judge to fill in."""
    from jobs.pictures import INDEX, export

    out = storage.absolute(out)
    count = export(existing_run(run), out)
    print(f"wrote {count} pictures to {out}; fill in the gender and age columns of {INDEX}")
    print(f"then measure them: arspm submit ... --set evaluate.judge={storage.join(out, INDEX)}")


@app.command(
    epilog=examples(
        "arspm generate --run runs/one --out portraits voice.wav", "arspm generate --run runs/one --out portraits *.mp4"
    )
)
def generate(
    recordings: Annotated[list[str], typer.Argument(help="Recordings of speech: wav, flac, mp3, mp4, ...")],
    run: Run,
    out: Annotated[str, typer.Option(help="Folder to write the portraits to.")],
) -> None:
    """Draw a portrait for each recording: an average-looking face that fits the voice, nobody's likeness."""
    from jobs.generate import generate as draw

    recordings = [storage.absolute(recording) for recording in recordings]
    for uri in draw(existing_run(run), recordings, storage.absolute(out)):
        print(uri)
