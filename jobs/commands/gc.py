"""`arspm gc`: free the space of what nothing needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from arspm import storage
from jobs.commands.options import examples

app = typer.Typer()


@app.command(epilog=examples("arspm gc runs/one", "arspm gc s3://bucket/runs --yes"))
def gc(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A run, or a folder with runs, up to three folders down.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False,
) -> None:
    """Remove what nothing needs: partial checkpoints, orphaned attempts, expired leases, leftovers of stopped stages.

    Says what and how much, then asks. Keeps what finished stages list and what a stopped stage resumes from. Leaves a
    run alone while somebody works on it. Needs no cluster; see also `arspm prune`.
    """
    from arspm.runs.find import runs_below
    from jobs.garbage import find_garbage, held_by, remove

    uri = storage.absolute(uri)
    found, complete = runs_below(uri)
    if not found:
        raise FileNotFoundError(f"{uri}: no run here, or up to three folders below")
    garbage = {}
    for run in found:
        if holder := held_by(run):
            print(f"{run}: left alone, because {holder}")
        elif pieces := find_garbage(run):
            garbage[run] = pieces
            for piece in pieces:
                print(f"{piece.num_bytes / 1e9:10.3f} GB  {storage.join(run, piece.folder)}: {piece.what}")
    if not complete:
        print(f"there are more runs below {uri}: name a folder below it")
    number = sum(len(piece.files) for pieces in garbage.values() for piece in pieces)
    size = sum(piece.num_bytes for pieces in garbage.values() for piece in pieces) / 1e9
    if not number:
        print(f"{uri}: nothing to remove")
        return
    if not yes:
        typer.confirm(f"remove {number:,} files, {size:.3f} GB?", abort=True)
    for run, pieces in garbage.items():
        remove(run, pieces)
    print(f"removed {number:,} files, {size:.3f} GB")
