"""Samples of a space, and the configurations that they stand for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from arspm.config import Config, ConfigError, config_error, override, quote_name, quote_value
from tune_spaces.domains import Choice, Label, Space, dimensions, is_number, options, quantile, shorten

Sample: TypeAlias = dict[str, Label]

_MAX_GRID = 10_000  # trials


def changes(space: Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a sample sets, name -> value, as `arspm.config.override` takes them.

    A number may be outside its range, as another sweep's best may be. Raises ConfigError for a sample of another
    space: a missing or unknown dimension, or an unknown label.
    """
    known = dimensions(space)
    names = {each.name for each in known}
    problems = [f"{quote_name(name)}: not a dimension of the space" for name in sample if name not in names]
    values: dict[str, Any] = {}
    for name, fields, domain in known:
        value = sample.get(name)
        if name not in sample:
            problems.append(f"{name}: missing in the sample")
        elif isinstance(domain, Choice):
            labels = options(domain)
            if isinstance(value, str | int | float) and value in labels:
                values |= _by_field(fields, labels[value])
            else:
                problems.append(f"{name}: {quote_value(value)} is none of {shorten(', '.join(map(str, labels)))}")
        elif is_number(value):
            values[name] = value
        else:
            problems.append(f"{name}: must be a number, got {quote_value(value)}")
    if problems:
        raise config_error(problems)
    return values


def grid(space: Space) -> list[Sample]:
    """Return every combination; the last dimension varies fastest.

    Raises ConfigError naming the dimensions that are ranges, or for more than 10,000 combinations.
    """
    labels: dict[str, list[Label]] = {}
    problems = []
    for name, _, domain in dimensions(space):
        if isinstance(domain, Choice):
            labels[name] = list(options(domain))
        else:
            problems.append(
                f"{name}: a grid needs a Choice, not {type(domain).__name__}; or use another search than grid"
            )
    if problems:
        raise config_error(problems)
    if (size := math.prod(map(len, labels.values()))) > _MAX_GRID:
        raise ConfigError(
            f"SPACE: a grid of {size:,} trials, at most {_MAX_GRID:,} are allowed; remove values, or use another search"
        )
    return [dict(zip(labels, values, strict=True)) for values in itertools.product(*labels.values())]


def random_samples(space: Space, num: int, seed: int) -> list[Sample]:
    """Return `num` independent samples; the same choice may repeat. Sample i depends on (seed, i) only."""
    known = dimensions(space)
    samples = []
    for index in range(num):
        numbers = np.random.default_rng([seed, index]).random(len(known)).tolist()
        samples.append({each.name: quantile(each.domain, number) for each, number in zip(known, numbers, strict=True)})
    return samples


def sample_of(space: Space, config: Config) -> Sample:
    """Return the values that a configuration has in the dimensions of a space that `check` accepts.

    A dimension is left out if the configuration's value is not one of the choices, or outside the range.
    """
    sample: Sample = {}
    for name, fields, domain in dimensions(space):
        if isinstance(domain, Choice):
            same = (label for label, value in options(domain).items() if _has(config, _by_field(fields, value)))
            if (label := next(same, None)) is not None:
                sample[name] = label
            continue
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if domain.low <= value <= domain.high:
            sample[name] = value
    return sample


def _by_field(fields: Sequence[str], value: Any) -> dict[str, Any]:
    return dict(zip(fields, value if len(fields) > 1 else (value,), strict=True))


def _has(config: Config, values: Mapping[str, Any]) -> bool:
    try:
        return override(config, values) == config  # `override` converts text as the fields do
    except ConfigError:
        return False
