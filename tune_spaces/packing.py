"""Spaces as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tune_spaces.domains import Choice, Domain, LogUniform, Space, Uniform, dimensions, options

_KINDS = {LogUniform: "loguniform", Uniform: "uniform", Choice: "choice"}
_DOMAINS: dict[str, type[Domain]] = {"Choice": Choice, "LogUniform": LogUniform, "Uniform": Uniform}


def describe(space: Space) -> dict[str, dict[str, Any]]:
    """Return dimension -> its kind, its fields, and low and high or, of a Choice, its labels as `values`."""
    described = {}
    for name, fields, domain in dimensions(space):
        extent: dict[str, Any] = (
            {"values": list(options(domain))}
            if isinstance(domain, Choice)
            else {"low": domain.low, "high": domain.high}
        )
        described[name] = {"kind": _KINDS[type(domain)], **extent, "fields": list(fields)}
    return described


def pack(space: Space) -> list[dict[str, Any]]:
    """Return the complete space as JSON, so that the sweep's job does not need the user's file."""
    packed = []
    for _, fields, domain in dimensions(space):
        arguments: dict[str, Any] = {}
        if not isinstance(domain, Choice):
            arguments = {"low": domain.low, "high": domain.high}
        elif isinstance(domain.values, Mapping):
            arguments = {"values": dict(domain.values)}
        else:
            arguments = {"values": list(domain.values)}
        packed.append({"fields": list(fields), "domain": type(domain).__name__, **arguments})
    return json.loads(json.dumps(packed))


def unpack(packed: Sequence[Mapping[str, Any]]) -> Space:
    """Return the space that `pack` packed."""
    space: Space = {}
    for entry in packed:
        fields = tuple(entry["fields"])
        arguments = {name: entry[name] for name in ("values", "low", "high") if name in entry}
        space[fields if len(fields) > 1 else fields[0]] = _DOMAINS[entry["domain"]](**arguments)
    return space
