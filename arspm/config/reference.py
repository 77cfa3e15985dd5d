"""The reference of all settings, from the code: `python -m arspm.config.reference > docs/configuration.md`."""

from __future__ import annotations

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from arspm.config.fields import IS_URI, Section
from arspm.config.presets import PRESETS
from arspm.config.tree import Config, settings

_HEAD = """# Configuration

A configuration is a preset plus changes, `--set name=value`. Names and values are checked before anything runs: an
unknown name is an error that shows the nearest names. A letter in parentheses is a reading of the paper, see
[paper.md](paper.md). This page is generated: `python -m arspm.config.reference > docs/configuration.md`.
"""


def markdown() -> str:
    """Return the page: a table for each section of `Config`, and the changes that each preset makes to the defaults."""
    parts = [_HEAD, *_section("", Config)]
    parts += [
        "## Presets",
        "",
        "What each preset changes. Everything else has the default value of the tables above.",
        "",
    ]
    defaults = settings(Config())
    for name, config in PRESETS.items():
        own = sorted(settings(config).items())
        changes = [(f"`{field}`", _code(value)) for field, value in own if value != defaults[field]]
        parts += [f"### `{name}`", "", *_table(("setting", "value"), changes), ""]
    return "\n".join(parts).rstrip() + "\n"


def _section(prefix: str, section: type[Section]) -> Iterator[str]:
    """Yield the lines of a section's heading, description and table, and then those of the sections in it.

    Sections of the same type have one table, for example `training.<vggface|gender|decoder|encoder>`.
    """
    comments, schema = _comments(section), section.model_json_schema()["properties"]
    inner = {name: kind for name, field in section.model_fields.items() if (kind := _section_of(field))}
    if prefix:
        yield from (f"## `{prefix}`", "", " ".join((inspect.getdoc(section) or "").split()), "")
    rows = [
        (f"`{prefix}.{name}`".replace("`.", "`"), _values(field, schema[name]), _code(field.default), comments[name])
        for name, field in section.model_fields.items()
        if name not in inner
    ]
    if rows:
        yield from (*_table(("setting", "values", "default", "meaning"), rows), "")
    for group in dict.fromkeys(inner.values()):
        names = [name for name, annotation in inner.items() if annotation is group]
        path = names[0] if len(names) == 1 else f"<{'|'.join(names)}>"
        yield from _section(f"{prefix}.{path}".lstrip("."), group)


def _section_of(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _comments(section: type[Section]) -> dict[str, str]:
    """Return what the comments say about each field: those on the lines above it and those on its own lines."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not (issubclass(owner, Section) and owner is not Section):
            continue
        source = inspect.getsource(owner)
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        [definition] = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                first = node.lineno
                while first - 1 in by_line and source.splitlines()[first - 2].lstrip().startswith("#"):
                    first -= 1
                lines = (by_line.get(line) for line in range(first, (node.end_lineno or node.lineno) + 1))
                found[node.target.id] = " ".join(line for line in lines if line)
    return found


def _values(field: FieldInfo, schema: dict[str, Any]) -> str:
    """Return which values a field accepts, in words, from its JSON schema."""
    if any(item is IS_URI for item in field.metadata):
        return "URI"
    return ", or ".join(_alternative(each) for each in schema.get("anyOf", [schema]))


def _alternative(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        return "a range `[low, high]`"
    words = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text", "null": "`null`"}
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if key in schema
    ]
    if "multipleOf" in schema:
        bounds.append(f"a multiple of {schema['multipleOf']}")
    return " ".join([words[str(kind)], ", ".join(bounds)]).strip()


def _code(value: Any) -> str:
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`" if value != "" else "empty"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


if __name__ == "__main__":
    print(markdown(), end="")
