"""The `arspm` command."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from arspm.config import ConfigError
from arspm.runs.lease import LeaseHeld, LeaseLost
from arspm.storage.retries import without_credentials
from cluster import exit_codes
from cluster.errors import ClusterError
from cluster.exit_codes import ExitCode
from jobs import verbosity
from jobs.commands import (
    ablation,
    chain,
    corpus,
    data,
    demo,
    doctor,
    download,
    gc,
    head,
    portraits,
    running,
    runs,
    sweep,
)

commands = typer.Typer(
    callback=verbosity.options,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train models that draw an average-looking portrait from a voice, on a Ray cluster. "
    "A portrait correlates with a voice; it identifies no one.",
    epilog="\n\n".join(["Exit codes:", *exit_codes.table(), "Every command, with examples: arspm COMMAND --help"]),
)
for group in (demo, doctor, head, data, download, chain, running, runs, corpus, gc, ablation, sweep, portraits):
    commands.add_typer(group.app)


def _with_verbosity(root: Any) -> Any:
    """Give every command the options -q and -v of `arspm` itself, so that they may stand before or after its name."""
    shared = [option for option in root.params if option.name in ("quiet", "verbose")]
    for command in root.commands.values():
        command.params += shared
    return root


app = _with_verbosity(typer.main.get_command(commands))


def main() -> None:
    """Run the command line."""
    sys.exit(readable(app))


def readable(command: Callable[[], object]) -> int:
    """Run `command` and return its exit code. Expected errors are printed, one line per problem."""
    try:
        code = command()
    except typer.Exit as ended:
        return ended.exit_code
    except (ConfigError, ClusterError, LeaseHeld, LeaseLost, ValueError, OSError) as error:
        if verbosity.is_verbose():
            print(without_credentials(traceback.format_exc()), file=sys.stderr)
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return ExitCode.FAILED
    return code if isinstance(code, int) else ExitCode.DONE


if __name__ == "__main__":
    main()
