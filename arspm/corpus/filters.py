"""`data.filter`: select rows of a corpus by what was measured of them, without decoding again.

A filter is Python's syntax of comparisons between columns and constants, joined by `and`, `or` and `not`:
`face_score > 0.5 and voiced_seconds > 2`. Nothing else is allowed, and nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arspm.corpus import schema, tables

_LABELS = (schema.GENDER, schema.AGE, schema.IDENTITY)
_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_EXAMPLE = "write comparisons such as face_score > 0.5 and voiced_seconds > 2"


class Selection(NamedTuple):
    """Which rows of a split a filter keeps, (rows,). `removed`: condition -> rows for which it is not true."""

    keep: np.ndarray
    removed: dict[str, int]

    @property
    def figures(self) -> dict[str, Any]:
        """The numbers of clips, for a stage's manifest. Empty without a filter."""
        if not self.removed:
            return {}
        return {"filter": {"clips": len(self.keep), "kept": int(self.keep.sum()), "removed": self.removed}}


def check_filter(text: str) -> None:
    """Raise ValueError, in one line, if a filter is not valid. An empty text is no filter."""
    _conditions(text)


def select_rows(split: tables.Split, text: str) -> Selection:
    """Return which rows of a split a filter keeps. A comparison with a missing value is not true.

    The conditions are what the outermost `and` joins. Raises ValueError for an invalid filter, or if no row is kept.
    """
    conditions = _conditions(text)
    wanted = {node.id for condition in conditions for node in ast.walk(condition) if isinstance(node, ast.Name)}
    keep, removed = np.ones(split.num_rows, bool), {}
    columns: dict[str, Any] = {}
    for family, names in (("faces", _LABELS), ("measures", tuple(_columns()))):
        if used := sorted(wanted.intersection(names) - columns.keys()):
            table = tables.read_columns(split, family, used)
            columns |= {name: table[name] for name in used}
    for condition in conditions:
        true = np.asarray(pc.fill_null(_evaluate(condition, columns), False))
        removed[ast.unparse(condition)] = int((~true).sum())
        keep &= true
    if conditions and not keep.any():
        raise ValueError(describe(Selection(keep, removed).figures))
    return Selection(keep, removed)


def describe(figures: Mapping[str, Any]) -> str:
    """Return a sentence on `Selection.figures`."""
    counts = figures["filter"]
    removed = "; ".join(f"{condition} removes {count:,}" for condition, count in counts["removed"].items())
    return f"data.filter keeps {counts['kept']:,} of {counts['clips']:,} training clips: {removed}"


def _columns() -> dict[str, pa.DataType]:
    """Return the columns that a filter may use: those with one value, a number or a text, for each clip."""
    fields = [*schema.measures_schema(), *(schema.faces_schema().field(name) for name in _LABELS)]
    return {field.name: field.type for field in fields if not pa.types.is_list(field.type)}


def _conditions(text: str) -> list[ast.expr]:
    """Return the conditions of a filter, checked."""
    if not text.strip():
        return []
    try:
        expression = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text[:200]!r} cannot be read; {_EXAMPLE}") from None
    conditions = [expression]
    if isinstance(expression, ast.BoolOp) and isinstance(expression.op, ast.And):
        conditions = expression.values
    for condition in conditions:
        _check(condition)
    return conditions


def _check(node: ast.expr) -> None:
    """Raise ValueError unless a node is a comparison of columns and constants, or joins such comparisons."""
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand)
    elif isinstance(node, ast.Compare) and all(type(each) in _OPERATORS for each in node.ops):
        kinds = {_kind(each) for each in (node.left, *node.comparators)}
        if len(kinds) > 1:
            raise ValueError(f"{ast.unparse(node)!r} compares a number with a text")
        if not any(isinstance(each, ast.Name) for each in (node.left, *node.comparators)):
            raise ValueError(f"{ast.unparse(node)!r} has no column; {_EXAMPLE}")
    else:
        raise ValueError(f"{ast.unparse(node)[:200]!r} is not a comparison; {_EXAMPLE}")


def _kind(node: ast.expr) -> str:
    """Return whether a side of a comparison is a number or a text. Raises ValueError if it is neither."""
    columns = _columns()
    if isinstance(node, ast.Name):
        if node.id not in columns:
            raise ValueError(f"there is no column {node.id}; there are {', '.join(sorted(columns))}")
        return "text" if pa.types.is_string(columns[node.id]) else "number"
    value = _constant(node)
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    raise ValueError(f"{ast.unparse(node)[:200]!r} is no column, number or text in quotes; {_EXAMPLE}")


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return node.value if isinstance(node, ast.Constant) else None


def _evaluate(node: ast.expr, columns: dict[str, Any]) -> Any:
    """Return the value of a checked node for all rows; null where it depends on a missing value."""
    if isinstance(node, ast.BoolOp):
        join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        result = _evaluate(node.values[0], columns)
        for value in node.values[1:]:
            result = join(result, _evaluate(value, columns))
        return result
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return pc.invert(_evaluate(node.operand, columns))
    if isinstance(node, ast.Compare):
        sides = [_side(each, columns) for each in (node.left, *node.comparators)]
        results = [_OPERATORS[type(each)](*sides[i : i + 2]) for i, each in enumerate(node.ops)]
        for each in results[1:]:
            results[0] = pc.and_kleene(results[0], each)
        return results[0]
    raise AssertionError(ast.dump(node))


def _side(node: ast.expr, columns: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return columns[node.id]
    value = _constant(node)
    return pa.scalar(value if isinstance(value, str) else float(value))
