"""Options and arguments that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from arspm.runs import find
from arspm.storage import uris
from cluster.errors import ClusterError

_RUN = "Run directory: a local path or s3://bucket/prefix."

Run = Annotated[str, typer.Option("--run", help=_RUN)]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=_RUN)]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="URL of the cluster's dashboard, http://HOST:8265 (default: the head that `arspm up` started).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit the driver as a job on the cluster, then exit.")]

MaxConcurrent = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of concurrent stages (default: as many as fit; no limit on a cluster that grows).",
    ),
]


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that offers those of the names that begin with what was typed, for a shell's completion."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def examples(*commands: str) -> str:
    """Return the epilog of a command's help, one example per line."""
    return "\n\n".join([f"Example{'s' if len(commands) > 1 else ''}:", *commands])


def parse_changes(texts: Sequence[str] | None) -> dict[str, str]:
    """Return the fields that `--set` changes, name -> text. Raises ConfigError."""
    for text in texts or ():
        if "=" not in text:
            raise ConfigError(f"--set {uris.display_uri(text)}: write it as name=value")
    return dict(text.split("=", 1) for text in texts or ())


def existing_run(uri: str) -> str:
    """Return the absolute URI of a run. Raises FileNotFoundError, with the nearest run, if there is none there."""
    run = storage.run_uri(uri)
    find.require_run(run)
    return run


def find_address(url: str | None) -> str:
    """Return the URL of the cluster's dashboard. Raises ClusterError when there is no cluster."""
    from cluster.head import find_head, heads_elsewhere

    address = find_head(url)
    if address is None:
        raise ClusterError(
            "no Ray head: start one on this machine with `arspm up`, or pass --ray-address" + heads_elsewhere()
        )
    return address
