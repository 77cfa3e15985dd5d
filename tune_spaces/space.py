"""What a sweep may vary, as data: fields of the configuration, each with the values that it may take.

    from tune_spaces.space import Choice, LogUniform, Space

    SPACE: Space = {
        "loss.lambda1": LogUniform(0.1, 10),
        "speech_encoder.cbam": Choice(["channel_first", "none"]),
        ("prior.kind", "speech_encoder.fusion"): Choice({"none": ("none", "fc"), "neutral": ("neutral", "sum")}),
    }

A *dimension* is one entry. Its name is the field's, or the names of those that move together joined by "+". A
*sample* gives every dimension a number or a label, so it is plain JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import pkgutil
import sys
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import tune_spaces
from arspm.config import Config, ConfigError, config_error, field_names, override, quote_name, quote_value
from arspm.storage import uris
from tune_spaces.domains import (
    Choice,
    Dimension,
    Domain,
    Label,
    LogUniform,
    Space,
    Uniform,
    at,
    dimensions,
    faults,
    is_number,
    options,
)

__all__ = [
    "Choice",
    "Dimension",
    "Domain",
    "Label",
    "LogUniform",
    "Sample",
    "Space",
    "Uniform",
    "changes",
    "check",
    "describe",
    "dimensions",
    "grid",
    "load",
    "random_samples",
    "sample_of",
    "shipped",
]

Sample: TypeAlias = dict[str, Label]

_KINDS = {LogUniform: "loguniform", Uniform: "uniform", Choice: "choice"}
_ALL = 4096  # combinations that are all tried
_DRAWN = 512  # samples that are tried where there are more, or endlessly many
_MAX_GRID = 10_000  # trials
_MAX_TOLD = 500  # characters of a sample, or of an error's own words


def shipped() -> list[str]:
    """The names of the spaces that come with the system."""
    found = sorted(module.name for module in pkgutil.iter_modules(tune_spaces.__path__))
    return [name for name in found if hasattr(importlib.import_module(f"tune_spaces.{name}"), "SPACE")]


def load(name_or_path: str) -> tuple[str, Space]:
    """The name and the space that a shipped space's name, or the path of a user's own .py file, stands for.

    The file is run, and must define SPACE. Raises ConfigError, or FileNotFoundError where there is no such file.
    """
    if not name_or_path.endswith(".py"):
        if name_or_path not in shipped():
            raise ConfigError(
                f"{quote_name(name_or_path)}: there is no such space; there are {', '.join(shipped())}, "
                "and a file of your own is named by its path, ending in .py"
            )
        return name_or_path, importlib.import_module(f"tune_spaces.{name_or_path}").SPACE
    path, told = Path(name_or_path), uris.display_uri(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"{told}: there is no such file; a space of your own is a local .py file")
    try:
        defined = _defined(path)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{told}{_cause(error, path)}") from error
    if "SPACE" not in defined:
        raise ConfigError(f"{told}: it defines no SPACE; write SPACE = {{field: domain}}, as docs/sweeps.md shows")
    problems, _ = faults(defined["SPACE"])
    if problems:
        raise config_error(problems).with_source(told)
    return path.stem, defined["SPACE"]


def _defined(path: Path) -> dict[str, Any]:
    """Run a program; the names that it defines.

    Not by runpy, which runs archives and compiled code too, whatever they are called.
    """
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    module = types.ModuleType("<space>")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where a dataclass looks for what its types name
    try:
        exec(code, vars(module))
    finally:
        del sys.modules[module.__name__]
    return vars(module)


def _cause(error: BaseException, path: Path) -> str:
    """An error of a user's file in one line, after the file's own line that led to it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, message = error.lineno, error.msg
    else:
        inside = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, message = inside[-1].lineno if inside else None, ""
        with contextlib.suppress(Exception):  # of a class of the user's own
            message = uris.redact_text(str(error))
    message = _short(" ".join(message.split()))
    message = message if message.isprintable() else repr(message)
    return f"{f', line {line}' if line else ''}: {type(error).__name__}: {message or 'no message'}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]} ..."


def check(space: Space, config: Config, seed: int = 0, *, varies: Sequence[str]) -> None:
    """Refuse a space that would give a trial something that cannot be.

    `varies`: the sections and fields that the swept stage reads; "seed" is always allowed. Numbers from a range are
    for fractional fields only. Samples are tried on `config`: all combinations of choices and of ranges' ends up to
    4096 of them, else each of these once; and, where that is not all there is and none was refused, 512 samples drawn
    with the seed. Raises ConfigError with the first twenty problems, a line each.
    """
    problems, sound = faults(space)
    unknown = [field for each in sound for field in each.fields if field not in field_names()]
    if unknown:
        try:
            override(config, dict.fromkeys(unknown))
        except ConfigError as error:  # it names the fields that are near
            problems += str(error).splitlines()
    usable: Space = {}
    for name, fields, domain in sound:
        found = [
            f"{field}: belongs to another stage, whose work a sweep takes from the run as it is, so another value "
            f"needs another run; a sweep may vary {', '.join(dict.fromkeys(('seed', *varies)))}"
            for field in fields
            if field not in unknown and not any(f"{field}.".startswith(f"{each}.") for each in ("seed", *varies))
        ]
        known = not found and not set(fields) & set(unknown)
        if known and not isinstance(domain, Choice) and not _is_fractional(fields[0]):
            found = [f"{name}: {type(domain).__name__} is for fields of fractional numbers; use Choice here"]
        problems += found
        if known and not found:
            usable[fields if len(fields) > 1 else fields[0]] = domain
    problems += _refusals(usable, config, seed)
    if problems:
        raise config_error(problems)


def _refusals(space: Space, config: Config, seed: int) -> list[str]:
    """What the configuration says to the samples of a space, each with the first sample that it says it to."""
    found: dict[str, list[Sample]] = {}
    num_tried = 0
    for samples in _tried(space, seed):
        if found:  # a range that begins too low would be told again with each number drawn from there
            break
        for sample in samples:
            num_tried += 1
            try:
                override(config, changes(space, sample))
            except ConfigError as error:
                for line in str(error).splitlines():
                    found.setdefault(line, []).append(sample)
    return [
        f"{line}; in {len(samples)} of {num_tried} samples tried, the first "
        + _short(", ".join(f"{name} = {value}" for name, value in samples[0].items()))
        for line, samples in found.items()
    ]


def _tried(space: Space, seed: int) -> Iterator[list[Sample]]:
    """All combinations of choices and ranges' ends, or each of these once; then drawn samples if there are others."""
    ends: dict[str, list[Label]] = {
        name: list(options(domain)) if isinstance(domain, Choice) else [domain.low, domain.high]
        for name, _, domain in dimensions(space)
    }
    few = math.prod(map(len, ends.values())) <= _ALL
    if few:
        yield [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
    else:
        first = {name: values[0] for name, values in ends.items()}
        yield [first | {name: value} for name, values in ends.items() for value in values]
    if not few or not all(isinstance(domain, Choice) for domain in space.values()):
        yield random_samples(space, _DRAWN, seed)


def _is_fractional(field: str) -> bool:
    model: Any = Config
    *path, leaf = field.split(".")
    for part in path:
        model = model.model_fields[part].annotation
    return model.model_fields[leaf].annotation is float


# --- samples


def changes(space: Space, sample: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a sample sets, name -> value, as `arspm.config.override` takes them.

    A number is not held to its range, which another sweep's best may lie outside of. Raises ConfigError for a sample
    of another space: a dimension too many or too few, a label that is none.
    """
    known = dimensions(space)
    named = {each.name for each in known}
    problems = [f"{quote_name(name)}: not a dimension of the space" for name in sample if name not in named]
    found: dict[str, Any] = {}
    for name, fields, domain in known:
        value = sample.get(name)
        if name not in sample:
            problems.append(f"{name}: the sample has no value of it")
        elif isinstance(domain, Choice):
            labels = options(domain)
            if isinstance(value, str | int | float) and value in labels:
                found |= _assigned(fields, labels[value])
            else:
                problems.append(f"{name}: {quote_value(value)} is none of {_short(', '.join(map(str, labels)))}")
        elif is_number(value):
            found[name] = value
        else:
            problems.append(f"{name}: a number, got {quote_value(value)}")
    if problems:
        raise config_error(problems)
    return found


def grid(space: Space) -> list[Sample]:
    """Every combination, the last dimension fastest.

    Raises ConfigError naming the dimensions that are ranges, and for more combinations than a sweep has trials.
    """
    labels: dict[str, list[Label]] = {}
    problems = []
    for name, _, domain in dimensions(space):
        if isinstance(domain, Choice):
            labels[name] = list(options(domain))
        else:
            problems.append(f"{name}: a grid needs a Choice, not {type(domain).__name__}; or search at random")
    if problems:
        raise config_error(problems)
    if (size := math.prod(map(len, labels.values()))) > _MAX_GRID:
        raise ConfigError(
            f"SPACE: a grid of {size:,} trials; at most {_MAX_GRID:,}: leave values out, or search at random"
        )
    return [dict(zip(labels, each, strict=True)) for each in itertools.product(*labels.values())]


def random_samples(space: Space, num: int, seed: int) -> list[Sample]:
    """`num` samples, each drawn apart, so that choices may repeat. The i-th follows from (seed, i) alone."""
    known = dimensions(space)
    found = []
    for index in range(num):
        parts = np.random.default_rng([seed, index]).random(len(known)).tolist()
        found.append({each.name: at(each.domain, part) for each, part in zip(known, parts, strict=True)})
    return found


def sample_of(space: Space, config: Config) -> Sample:
    """The values that a configuration has in a space's dimensions. The space is one that `check` passes.

    A dimension is left out where the configuration's value is none of a Choice's, or outside a range.
    """
    found: Sample = {}
    for name, fields, domain in dimensions(space):
        if isinstance(domain, Choice):
            same = (label for label, value in options(domain).items() if _has(config, _assigned(fields, value)))
            if (label := next(same, None)) is not None:
                found[name] = label
            continue
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if domain.low <= value <= domain.high:
            found[name] = value
    return found


def describe(space: Space) -> dict[str, dict[str, Any]]:
    """The space in JSON: dimension -> its kind, its fields, and low and high, or a Choice's labels as values."""
    found = {}
    for name, fields, domain in dimensions(space):
        extent: dict[str, Any] = (
            {"values": list(options(domain))}
            if isinstance(domain, Choice)
            else {"low": domain.low, "high": domain.high}
        )
        found[name] = {"kind": _KINDS[type(domain)], **extent, "fields": list(fields)}
    return found


def _assigned(fields: Sequence[str], value: Any) -> dict[str, Any]:
    return dict(zip(fields, value if len(fields) > 1 else (value,), strict=True))


def _has(config: Config, wanted: Mapping[str, Any]) -> bool:
    try:
        return override(config, wanted) == config  # which reads text as the fields do
    except ConfigError:
        return False
