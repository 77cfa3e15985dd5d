"""Mutations of files: of their bytes, of fields of JSON and safetensors headers, and of cells of tables.

Each mutation is a function of (random generator, a good file's bytes, another file's bytes) and returns mutated bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, bytes], bytes]

# Texts that an untrusted file may contain.
ODD_TEXTS = (
    "",
    " ",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "..",
    "C:\\x",
    "file:///etc/passwd",
    "x" * 5000,
    "\u202eabc",
    "\n",
    "nan",
    "-inf",
    "1e999",
    "-1",
    "１２",
    "1_0",
    "'; DROP TABLE",
    "<script>",
    "${HOME}",
    "__class__",
    "#REF!",
    '"',
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3], {"a": {"b": []}}),
    *ODD_TEXTS,
)
DEEP = b"[" * 100_000 + b"]" * 100_000  # JSON that is nested deeper than any parser goes
# Extreme numbers for sizes in headers, and the formats in which headers store numbers.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 60_000, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63 - 1, 2**64 - 1)
_FORMATS = {"<H": 2, ">H": 2, "<I": 4, ">I": 4, "<Q": 8, ">Q": 8}


# --- of bytes


def flip(rng: Random, data: bytes, _: bytes) -> bytes:
    """Flip one to eight bits."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def scramble(rng: Random, data: bytes, _: bytes) -> bytes:
    """Overwrite a part with random bytes."""
    begin, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 256))
    return data[:begin] + rng.randbytes(length) + data[begin + length :]


def truncate(rng: Random, data: bytes, _: bytes) -> bytes:
    return data[: rng.choice((0, 1, rng.randrange(64), rng.randrange(len(data)), len(data) - 1))]


def duplicate(rng: Random, data: bytes, _: bytes) -> bytes:
    begin, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:end] + data[begin:]


def insert(rng: Random, data: bytes, _: bytes) -> bytes:
    at = rng.randrange(len(data))
    more = rng.choice((b"\0" * rng.randrange(1, 4096), rng.randbytes(rng.randrange(1, 64)), b"\xff" * 16))
    return data[:at] + more + data[at:]


def remove(rng: Random, data: bytes, _: bytes) -> bytes:
    begin, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:begin] + data[end:]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """Join the beginning of one file and the end of another."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def extreme_size(rng: Random, data: bytes, _: bytes) -> bytes:
    """Write an extreme number where a header may have a size: near the beginning or the end."""
    form = rng.choice(list(_FORMATS))
    reach = min(len(data), rng.choice((32, 256, 4096, len(data))))
    at = rng.randrange(reach)
    at = at if rng.random() < 0.7 else len(data) - 1 - at
    number = struct.pack(form, rng.choice(_EXTREMES) % 2 ** (8 * _FORMATS[form]))
    return data[:at] + number + data[at + len(number) :]


BYTES: tuple[Mutation, ...] = (
    flip,
    flip,
    scramble,
    truncate,
    duplicate,
    insert,
    remove,
    splice,
    extreme_size,
    extreme_size,
)


# --- of JSON


def json_field(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change one or two fields: another value, no value, another name, or a duplicate."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        tree = odd_tree(rng, tree)
    return json.dumps(tree).encode()


def odd_tree(rng: Random, tree: Any) -> Any:
    """Return a tree of plain values with one change, more likely in its depth."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return rng.choice(ODD_VALUES)
    key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    if rng.random() < 0.7 and isinstance(tree[key], dict | list):
        changed: Any = {key: odd_tree(rng, tree[key])}
    else:
        changed = rng.choice(({key: rng.choice(ODD_VALUES)}, {}, {key: tree[key], rng.choice(ODD_TEXTS): 1}))
    if isinstance(tree, dict):
        return {name: value for name, value in tree.items() if name != key} | changed
    return [*tree[:key], *changed.values(), *tree[key + 1 :]]


def json_nest(rng: Random, data: bytes, _: bytes) -> bytes:
    """Return deeply nested brackets, alone or in place of a value."""
    deep = b"[" * 100_000 + b"]" * rng.choice((0, 100_000))
    at = data.find(b": ", rng.randrange(len(data)))
    return deep if at < 0 or rng.random() < 0.5 else data[: at + 2] + deep + b"," + data[at + 2 :]


JSON: tuple[Mutation, ...] = (*BYTES, *[json_field] * 20, json_nest)


# --- of tables


def table_cell(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change a cell, or the number of cells in a line."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    mark = "\t" if "\t" in lines[at] else ","
    cells = lines[at].split(mark)
    odd = rng.choice((*ODD_TEXTS, "x" * 200_000, "9" * 5000, "0." + "0" * 5000 + "1"))
    column = rng.randrange(len(cells))
    times = rng.choice((0, 1, 1, 1, 2, 1000))
    cells[column : column + rng.choice((0, 1, 1, 1, 2))] = [odd if times < 1000 else odd[:20]] * times
    lines[at] = mark.join(cells)
    return "\n".join(lines).encode()


def table_line(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change the order or the number of lines, or the line ends."""
    lines = data.splitlines()
    rng.shuffle(lines)
    many = lines * rng.choice((0, 1, 2, 50))
    return rng.choice((b"\n", b"\r\n", b"\r", b"\n\n", b"\0", b"\x85", b"\x0c")).join(many)


def table_encoding(rng: Random, data: bytes, _: bytes) -> bytes:
    return data.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp500")))


TABLE: tuple[Mutation, ...] = (*BYTES, *[table_cell] * 12, table_line, table_line, table_encoding)


# --- of safetensors


def safetensors_header(rng: Random, data: bytes, _: bytes) -> bytes:
    """Change a field of the header, and update the header's length."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json_field(rng, data[8 : 8 + length], b"")
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


SAFETENSORS: tuple[Mutation, ...] = (*BYTES, *[safetensors_header] * 10)
