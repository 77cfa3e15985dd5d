"""`arspm up` and `arspm down`: a Ray head on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.options import examples

app = typer.Typer()


@app.command(epilog=examples("arspm up", "arspm up --cpus 4"))
def up(
    cpus: Annotated[int | None, typer.Option(help="Number of CPUs that Ray may use (default: all).")] = None,
) -> None:
    """Start a Ray head on this machine. It listens on loopback only and requires a token."""
    from cluster import head

    print(f"Ray answers at {head.up(num_cpus=cpus).address}; `arspm down` stops it")


@app.command(epilog=examples("arspm down"))
def down() -> None:
    """Stop the Ray head that `arspm up` started, and all its jobs."""
    from cluster import head

    stopped = head.down()
    nothing = f"nothing to stop{head.heads_elsewhere()}"
    print(nothing if stopped is None else f"stopped the Ray head at {stopped.address}")
