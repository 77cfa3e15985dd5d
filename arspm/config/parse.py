"""Convert text and plain values to a configuration. Errors name the field and what to do."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter, ValidationError

from arspm.config.tree import Config, field_names, is_section
from arspm.storage import uris

_MAX_PROBLEMS = 20  # in one error
_MAX_CHARACTERS = 100  # of a name or a value in an error
_SHORT_REPR = reprlib.Repr()  # the first items of each list, three levels deep
_SHORT_REPR.maxlevel, _SHORT_REPR.maxlong, _SHORT_REPR.maxother = 3, 1000, 1000
_SHORT_REPR.maxstring = 10_000  # long enough for `uris.redact_text` to recognize URIs


class ConfigError(ValueError):
    """An invalid configuration: one line for each problem, with the field's name."""

    def with_source(self, source: str) -> ConfigError:
        """Return the same error with the file's name before each line."""
        return ConfigError("\n".join(f"{source}: {line}" for line in str(self).splitlines()))


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of the configuration with `changes`: dotted name -> value, or text of a value.

    Text is converted to the field's declared type ("0.1", "true", "null"; a number field accepts "1e-4"), so that the
    command line and sweeps share this function. Raises one ConfigError that lists all problems.
    """
    tree = config.model_dump()
    problems: list[str] = []
    for name, value in changes.items():
        if len(problems) > _MAX_PROBLEMS:
            break
        *path, leaf = name.split(".")
        branch: Any = tree
        model: Any = Config
        for part in path:
            branch = branch.get(part) if isinstance(branch, dict) and is_section(model, part) else None
            model = model.model_fields[part].annotation if branch is not None else None
            if branch is None:
                break
        if branch is None or leaf not in model.model_fields or is_section(model, leaf):
            problems.append(_unknown(name))
            continue
        try:
            branch[leaf] = _typed(model.model_fields[leaf], value)
        except ValidationError as error:
            problems += [f"{name}: {each['msg']} (got {quote_value(value)})" for each in error.errors()]
    if problems:
        raise config_error(problems)
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Return the configuration of a tree of plain values. Raises one ConfigError that lists all problems."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = []
        for each in error.errors()[: _MAX_PROBLEMS + 1]:
            name = ".".join(map(str, each["loc"]))
            if each["type"] == "extra_forbidden":
                problems.append(_unknown(name))
            else:
                message = each["msg"].removeprefix("Value error, ")
                problems.append(f"{name}: {message} (got {quote_value(each['input'])})" if name else message)
        raise config_error(problems) from None


def merge(config: Config, tree: Mapping[str, Any]) -> Config:
    """Return a copy of the configuration with the fields of a nested tree, such as that of a YAML file.

    Text is converted as in `override`. Fields that the tree leaves out stay. Raises one ConfigError that lists all
    problems.
    """
    merged = config.model_dump()
    problems: list[str] = []
    _merge_section(Config, merged, tree, "", problems)
    if problems:
        raise config_error(problems)
    return from_dict(merged)


def _merge_section(
    model: Any, section: dict[str, Any], tree: Mapping[str, Any], prefix: str, problems: list[str]
) -> None:
    """Put the tree's fields into the plain values of a section; add a line to `problems` for each that does not fit.

    An unknown field stays in it: the model rejects it, or knows it from earlier versions.
    """
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(name, str) and is_section(model, name):
            if isinstance(value, Mapping):
                _merge_section(model.model_fields[name].annotation, section[name], value, f"{path}.", problems)
            else:
                problems.append(_unknown(path))
        elif isinstance(value, str) and name in model.model_fields:
            try:
                section[name] = _typed(model.model_fields[name], value)
            except ValidationError as error:
                problems += [f"{path}: {each['msg']} (got {quote_value(value)})" for each in error.errors()]
        elif isinstance(name, str):
            section[name] = value
        else:
            problems.append(f"{quote_name(str(path))}: not a name of a field")


def require_workers(config: Config, groups: Iterable[str]) -> None:
    """Raise ConfigError if the numbers of workers of these stages do not fit their lanes.

    groups: the stages that will run; "trial" for a sweep. What will not run is not looked at.
    """
    if problems := [line for group in groups for line in config.worker_problems(group)]:
        raise config_error(problems)


def dump(config: Config) -> str:
    """Return the configuration as JSON text, which `load` reads."""
    return config.model_dump_json(indent=2)


def load(text: str | bytes) -> Config:
    """Return the configuration in JSON text. Raises ConfigError."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a configuration: the text is not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError("not a configuration: the JSON text is not an object")
    return from_dict(tree)


def _typed(field: Any, value: Any) -> Any:
    """Return a value of the field's type, from text or a plain value. Raises pydantic's ValidationError."""
    kind: TypeAdapter[Any] = TypeAdapter(Annotated[(field.annotation, field)])
    if not isinstance(value, str):
        return kind.validate_python(value)
    optional = type(None) in get_args(field.annotation)
    if optional and value.lower() in ("null", "none"):
        return None
    is_list = value.startswith("[") and field.annotation is not str  # a path may start with a bracket
    return kind.validate_json(value) if is_list else kind.validate_strings(value)


def _unknown(name: str) -> str:
    """Return the error line for a name that is not a field, with similar names."""
    inside = [each for each in field_names() if each.startswith(f"{name}.")]
    if inside:
        return f"{name}: a section, not a field; its fields: {', '.join(inside)}"
    close = difflib.get_close_matches(name[:_MAX_CHARACTERS], field_names(), n=3, cutoff=0.6)
    section = name.rpartition(".")[0]
    beside = [each for each in field_names() if each.rpartition(".")[0] == section]
    hint = f"did you mean {' or '.join(close)}?" if close else f"valid: {', '.join(beside or Config.model_fields)}"
    return f"{quote_name(name)}: there is no such field; {hint}"


def quote_name(name: str) -> str:
    """Return an untrusted name for an error message: unchanged if short and printable, otherwise `quote_value`."""
    return uris.redact_text(name) if name.isprintable() and len(name) <= _MAX_CHARACTERS else quote_value(name)


def quote_value(value: Any) -> str:
    """Return an untrusted value for an error message: one short line, without credentials."""
    if isinstance(value, str):
        text = repr(uris.redact(value)[:_MAX_CHARACTERS])
    else:
        try:
            text = " ".join(uris.redact_text(_SHORT_REPR.repr(value)).split())
        except (ValueError, RecursionError):  # e.g. an integer with thousands of digits
            text = f"a value of type {type(value).__name__}"
        text = text if text.isprintable() else repr(text)
    return text if len(text) <= 2 * _MAX_CHARACTERS else f"{text[: 2 * _MAX_CHARACTERS]} ..."


def config_error(problems: list[str]) -> ConfigError:
    """Return one error that lists the first 20 problems."""
    more = ["and more problems"] if len(problems) > _MAX_PROBLEMS else []
    return ConfigError("\n".join([*problems[:_MAX_PROBLEMS], *more]))
