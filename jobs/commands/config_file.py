"""Read a configuration file: JSON, YAML or TOML, complete or only the fields that differ from a preset."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from arspm import storage
from arspm.config import Config, ConfigError, merge, presets
from arspm.storage.retries import first_line
from cluster.strict_yaml import load_yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 256 << 10
_DEFAULT = "paper"


def read_config(uri: str, preset: str | None) -> Config:
    """Return the configuration of a file, with a preset's value for each field that the file leaves out.

    preset: its name (default: the one that the file names, otherwise paper). Text is converted to the field's type, so
    `1e-4`, which YAML reads as text, is a number. Raises FileNotFoundError, or ConfigError that names the file and the
    field.
    """
    data = storage.read_bytes(storage.absolute(uri))
    try:
        tree = _parse(uri, data)
        if preset is None and tree.get("preset") in presets.PRESETS:
            preset = tree["preset"]
        return merge(presets.preset(preset or _DEFAULT), tree)
    except ConfigError as error:
        raise error.with_source(uri) from None


def _parse(uri: str, data: bytes) -> dict[str, Any]:
    """Return the content of a file by the end of its name; JSON if it is another one."""
    suffix = uri.rpartition(".")[2].lower()
    kind, read = _READERS.get(suffix, ("JSON", json.loads))
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"not a configuration: more than {_MAX_BYTES >> 10} KiB")
    try:
        tree = read(data.decode())
    except Exception as error:  # PyYAML's constructors raise anything
        raise ConfigError(f"not a configuration: the text is not {kind} ({first_line(error)[:200]})") from None
    if tree is None:  # an empty YAML file
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"not a configuration: the {kind} text is not an object with fields")
    return tree


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "yaml": ("YAML", load_yaml),
    "yml": ("YAML", load_yaml),
    "toml": ("TOML", tomllib.loads),
}
