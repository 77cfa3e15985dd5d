"""How much a command prints: the options `-q` and `-v`, which every command has."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

_VERBOSE = 1
_level = 0


def is_quiet() -> bool:
    """Return whether progress is to be left out: only results, warnings and errors are printed."""
    return _level < 0


def is_verbose() -> bool:
    """Return whether an error is to be printed with its traceback."""
    return _level >= _VERBOSE


def _be_quiet(value: bool) -> None:
    global _level
    if value:
        _level = -1


def _be_verbose(count: int) -> None:
    global _level
    if count:
        _level = count
        level = logging.INFO if count == _VERBOSE else logging.DEBUG
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)


def options(
    quiet: Annotated[
        bool,
        typer.Option(
            "-q",
            "--quiet",
            help="Print results, warnings and errors only.",
            callback=_be_quiet,
            expose_value=False,
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            show_default=False,
            help="Print log lines, and the traceback of an error; -vv: also those of libraries at DEBUG.",
            callback=_be_verbose,
            expose_value=False,
        ),
    ] = 0,
) -> None:
    """The options, as the signature of a command."""
