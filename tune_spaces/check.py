"""Refuse a space that would give a trial an invalid configuration, before any trial starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from arspm.config import Config, ConfigError, config_error, field_names, override
from tune_spaces.domains import Choice, Dimension, Label, Space, dimensions, faults, options, shorten
from tune_spaces.samples import Sample, changes, random_samples

_MAX_COMBINATIONS = 4096  # up to here every combination is tried
_NUM_DRAWN = 512  # samples that are tried where there are more combinations, or infinitely many


def check(space: Space, config: Config, seed: int = 0, *, varies: Sequence[str]) -> None:
    """Raise ConfigError if the space is invalid, or if one of its samples makes `config` invalid.

    `varies`: the sections and fields that the swept stage reads; "seed" is always allowed. Ranges are for float
    fields only. All combinations of choices and of range ends are tried if there are at most 4096, otherwise each
    value once. If that is not the complete space and nothing was refused, 512 samples drawn with `seed` are tried too.
    The error has the first twenty problems, one per line.
    """
    problems, valid = faults(space)
    unknown = [field for each in valid for field in each.fields if field not in field_names()]
    if unknown:
        try:
            override(config, dict.fromkeys(unknown))
        except ConfigError as error:  # its text suggests similar names
            problems += str(error).splitlines()
    usable: Space = {}
    for dimension in valid:
        own_problems = _other_stages(dimension, unknown, varies)
        known = not own_problems and not set(dimension.fields) & set(unknown)
        if known and not isinstance(dimension.domain, Choice) and not _is_float(dimension.fields[0]):
            own_problems = [f"{dimension.name}: {type(dimension.domain).__name__} is for float fields; use Choice here"]
        problems += own_problems
        if known and not own_problems:
            usable[dimension.fields if len(dimension.fields) > 1 else dimension.fields[0]] = dimension.domain
    problems += _refused_samples(usable, config, seed)
    if problems:
        raise config_error(problems)


def _other_stages(dimension: Dimension, unknown: Sequence[str], varies: Sequence[str]) -> list[str]:
    """Return a problem for each field that belongs to a stage before the swept one."""
    allowed = tuple(dict.fromkeys(("seed", *varies)))
    return [
        f"{field}: belongs to another stage, which a sweep reuses from the run, so another value needs another run; "
        f"a sweep may vary {', '.join(allowed)}"
        for field in dimension.fields
        if field not in unknown and not any(f"{field}.".startswith(f"{each}.") for each in allowed)
    ]


def _refused_samples(space: Space, config: Config, seed: int) -> list[str]:
    """Return each problem of the tried samples, with the first sample that has it."""
    samples_of: dict[str, list[Sample]] = {}
    num_tried = 0
    for samples in _tried(space, seed):
        if samples_of:  # a range that starts too low would be reported again for each number drawn from it
            break
        for sample in samples:
            num_tried += 1
            try:
                override(config, changes(space, sample))
            except ConfigError as error:
                for line in str(error).splitlines():
                    samples_of.setdefault(line, []).append(sample)
    return [
        f"{line}; in {len(samples)} of {num_tried} samples tried, the first "
        + shorten(", ".join(f"{name} = {value}" for name, value in samples[0].items()))
        for line, samples in samples_of.items()
    ]


def _tried(space: Space, seed: int) -> Iterator[list[Sample]]:
    """Yield all combinations of choices and range ends, or each of these once; then drawn samples, if not complete."""
    ends: dict[str, list[Label]] = {
        name: list(options(domain)) if isinstance(domain, Choice) else [domain.low, domain.high]
        for name, _, domain in dimensions(space)
    }
    few = math.prod(map(len, ends.values())) <= _MAX_COMBINATIONS
    if few:
        yield [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
    else:
        first = {name: values[0] for name, values in ends.items()}
        yield [first | {name: value} for name, values in ends.items() for value in values]
    if not few or not all(isinstance(domain, Choice) for domain in space.values()):
        yield random_samples(space, _NUM_DRAWN, seed)


def _is_float(field: str) -> bool:
    model: Any = Config
    *path, leaf = field.split(".")
    for part in path:
        model = model.model_fields[part].annotation
    return model.model_fields[leaf].annotation is float
