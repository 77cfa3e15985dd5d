"""The `arspm` command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from arspm.config import ConfigError
from arspm.runs.lease import LeaseHeld, LeaseLost
from cluster.errors import ClusterError
from jobs.commands import ablation, chain, corpus, data, download, head, portraits, running, sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models that draw an average-looking portrait from a voice, on a Ray cluster. "
    "A portrait correlates with a voice; it identifies no one.",
)
for group in (head, data, download, chain, running, corpus, ablation, sweep, portraits):
    app.add_typer(group.app)


def main() -> None:
    """Run the command line."""
    sys.exit(readable(app))


def readable(command: Callable[[], object]) -> int:
    """Run `command` and return its exit status. Expected errors are printed, one line per problem."""
    try:
        command()
    except typer.Exit as ended:
        return ended.exit_code
    except (ConfigError, ClusterError, LeaseHeld, LeaseLost, ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
