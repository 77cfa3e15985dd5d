"""Text and plain values to a configuration, and configuration errors that name the field and what to do."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter, ValidationError

from arspm.config.tree import Config, field_names, is_section
from arspm.storage import uris

_TOLD_PROBLEMS = 20
_LONGEST = 100  # characters of a name or a value in an error
_BRIEF = reprlib.Repr()  # of a value, however large: the first few of each list in it, three deep
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxlong, _BRIEF.maxother = (
    3,
    10_000,
    1000,
    1000,
)  # texts whole, see places.bare


class ConfigError(ValueError):
    """A configuration that cannot be: one line a problem, each with the field's name."""

    def with_source(self, source: str) -> ConfigError:
        """The same of what stands in a file, which each line names."""
        return ConfigError("\n".join(f"{source}: {line}" for line in str(self).splitlines()))


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A new configuration with `changes`, a mapping from dotted names to values or to text.

    Text is read by the field's declared type ("0.1", "true", "null"; a number field takes "1e-4"), so one function
    serves the command line and a sweep. Raises ConfigError with every problem at once.
    """
    tree = config.model_dump()
    problems: list[str] = []
    for name, value in changes.items():
        if len(problems) > _TOLD_PROBLEMS:
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
    """The configuration of a tree of plain values. Raises ConfigError with every problem at once."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = []
        for each in error.errors()[: _TOLD_PROBLEMS + 1]:
            name = ".".join(map(str, each["loc"]))
            if each["type"] == "extra_forbidden":
                problems.append(_unknown(name))
            else:
                message = each["msg"].removeprefix("Value error, ")
                problems.append(f"{name}: {message} (got {quote_value(each['input'])})" if name else message)
        raise config_error(problems) from None


def dump(config: Config) -> str:
    """JSON text of the whole configuration; `load` reads it back."""
    return config.model_dump_json(indent=2)


def load(text: str | bytes) -> Config:
    """The configuration of JSON text. Raises ConfigError."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a configuration: the text is not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError("not a configuration: the JSON text is not an object")
    return from_dict(tree)


def _typed(field: Any, value: Any) -> Any:
    """A value of the field's type, from text or from a plain value. Raises pydantic's ValidationError."""
    kind: TypeAdapter[Any] = TypeAdapter(Annotated[(field.annotation, field)])
    if not isinstance(value, str):
        return kind.validate_python(value)
    optional = type(None) in get_args(field.annotation)
    if optional and value.lower() in ("null", "none"):
        return None
    is_list = value.startswith("[") and field.annotation is not str  # a path may begin so
    return kind.validate_json(value) if is_list else kind.validate_strings(value)


def _unknown(name: str) -> str:
    inside = [each for each in field_names() if each.startswith(f"{name}.")]
    if inside:
        return f"{name}: a section, not a field; its fields: {', '.join(inside)}"
    close = difflib.get_close_matches(name[:_LONGEST], field_names(), n=3, cutoff=0.6)
    section = name.rpartition(".")[0]
    beside = [each for each in field_names() if each.rpartition(".")[0] == section]
    hint = f"did you mean {' or '.join(close)}?" if close else f"valid: {', '.join(beside or Config.model_fields)}"
    return f"{quote_name(name)}: there is no such field; {hint}"


def quote_name(name: str) -> str:
    """A name that anybody may have written: as it is, if that is short and printable, else as `quote_value`."""
    return uris.redact_text(name) if name.isprintable() and len(name) <= _LONGEST else quote_value(name)


def quote_value(value: Any) -> str:
    """A value that anybody may have written, in a line."""
    if isinstance(value, str):
        text = repr(uris.redact(value)[:_LONGEST])
    else:
        try:
            text = " ".join(uris.redact_text(_BRIEF.repr(value)).split())
        except (ValueError, RecursionError):  # a number of thousands of digits
            text = f"a value of type {type(value).__name__}"
        text = text if text.isprintable() else repr(text)
    return text if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST]} ..."


def config_error(problems: list[str]) -> ConfigError:
    """The error of these problems, of which the first are told."""
    more = ["and more problems"] if len(problems) > _TOLD_PROBLEMS else []
    return ConfigError("\n".join([*problems[:_TOLD_PROBLEMS], *more]))
