"""Find a space by name, or run a user's own file that defines one."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import tune_spaces
from arspm.config import ConfigError, config_error, quote_name
from arspm.storage import uris
from tune_spaces.domains import Space, faults, shorten


def shipped() -> list[str]:
    """Return the names of the spaces in this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(tune_spaces.__path__))
    return [name for name in names if hasattr(importlib.import_module(f"tune_spaces.{name}"), "SPACE")]


def load(name_or_path: str) -> tuple[str, Space]:
    """Return the name and the space of a shipped space's name, or of the path of a user's own .py file.

    The file is run and must define SPACE. Raises ConfigError, or FileNotFoundError if there is no such file.
    """
    if not name_or_path.endswith(".py"):
        if name_or_path not in shipped():
            raise ConfigError(
                f"{quote_name(name_or_path)}: no such space; the spaces are {', '.join(shipped())}, "
                "or give the path of your own file, ending in .py"
            )
        return name_or_path, importlib.import_module(f"tune_spaces.{name_or_path}").SPACE
    path, displayed = Path(name_or_path), uris.display_uri(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"{displayed}: no such file; a space of your own is a local .py file")
    try:
        names = _run(path)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{displayed}{_cause(error, path)}") from error
    if "SPACE" not in names:
        raise ConfigError(f"{displayed}: defines no SPACE; write SPACE = {{field: domain}}, as docs/sweeps.md shows")
    problems, _ = faults(names["SPACE"])
    if problems:
        raise config_error(problems).with_source(displayed)
    return path.stem, names["SPACE"]


def _run(path: Path) -> dict[str, Any]:
    """Run a Python source file and return the names that it defines.

    runpy is not used: it would also run archives and compiled code, whatever the file's name.
    """
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    module = types.ModuleType("<space>")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses resolve annotations through it
    try:
        exec(code, vars(module))
    finally:
        del sys.modules[module.__name__]
    return vars(module)


def _cause(error: BaseException, path: Path) -> str:
    """Return an error of a user's file as one line, with the line number in that file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, message = error.lineno, error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, message = frames[-1].lineno if frames else None, ""
        with contextlib.suppress(Exception):  # str() of the user's own exception class may fail
            message = uris.redact_text(str(error))
    message = shorten(" ".join(message.split()))
    message = message if message.isprintable() else repr(message)
    return f"{f', line {line}' if line else ''}: {type(error).__name__}: {message or 'no message'}"
