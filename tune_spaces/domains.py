"""The domains of a space's dimensions, and what is wrong with a space before any configuration is asked."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from arspm.config import quote_name, quote_value

MAX_VALUES = 1000  # of all Choices of a space together: each is tried before a sweep begins
MAX_TEXT = 200  # characters of a label, or of a value that is text


@dataclass(frozen=True)
class LogUniform:
    """A number from `low` to `high`, its logarithm uniform."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of `values`, or of the values of a mapping label -> value; a tuple of values where several fields move.

    A value is text, a number, true or false, or None. Without a label it stands for itself, but true, false and None
    as "true", "false" and "null", and a tuple as its values joined by "+".
    """

    values: Sequence[Any] | Mapping[str, Any]


Domain: TypeAlias = LogUniform | Uniform | Choice
Space: TypeAlias = dict[str | tuple[str, ...], Domain]
Label: TypeAlias = str | int | float


class Dimension(NamedTuple):
    """An entry of a space. `name`: its fields' names, joined by "+"."""

    name: str
    fields: tuple[str, ...]
    domain: Domain


def dimensions(space: Space) -> list[Dimension]:
    """The entries of a space, in its order."""
    found = []
    for key, domain in space.items():
        fields = (key,) if isinstance(key, str) else key
        found.append(Dimension("+".join(fields), fields, domain))
    return found


def options(domain: Choice) -> dict[Label, Any]:
    """A Choice's values by what a sample calls them."""
    if isinstance(domain.values, Mapping):
        return dict(domain.values.items())
    return {_label(value): value for value in domain.values}


def at(domain: Domain, part: float) -> Label:
    """The number or label of a domain below which this part of the chance lies; 0 <= part < 1."""
    if isinstance(domain, Choice):
        labels = list(options(domain))
        return labels[int(part * len(labels))]
    if isinstance(domain, Uniform):
        value = domain.low * (1 - part) + domain.high * part
    else:
        value = math.exp(math.log(domain.low) * (1 - part) + math.log(domain.high) * part)
    return min(max(value, float(domain.low)), float(domain.high))  # rounding may lead out


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def faults(space: Any) -> tuple[list[str], list[Dimension]]:
    """What is wrong with a space, a line each, and the dimensions with which nothing is."""
    if not isinstance(space, dict) or not space:
        return ["SPACE: must be a dict with at least one entry, field: domain"], []
    problems: list[str] = []
    sound: list[Dimension] = []
    seen: dict[str, str] = {}  # field -> the dimension that has it
    for key, domain in space.items():
        fields = (key,) if isinstance(key, str) else key
        if not isinstance(fields, tuple) or not fields or not all(_is_text(each) and each for each in fields):
            problems.append(
                f"{quote_value(key)}: a key is a field's name, or a tuple of names of fields that move together"
            )
            continue
        name = _named(fields)
        found = _domain_faults(domain, len(fields))
        if isinstance(key, tuple) and len(key) == 1:
            found.append(f"a tuple of one field; write {quote_value(key[0])} alone")
        for field, times in Counter(fields).items():
            if times > 1:
                found.append(f"{quote_name(field)} is named twice")
            if field in seen:
                found.append(f"{quote_name(field)} is varied by {seen[field]} too; keep one of them")
            seen.setdefault(field, name)
        problems += [f"{name}: {problem}" for problem in found]
        if not found:
            sound.append(Dimension("+".join(fields), fields, domain))
    num_values = sum(len(each.domain.values) for each in sound if isinstance(each.domain, Choice))
    if num_values > MAX_VALUES:
        problems.append(f"SPACE: {num_values} values in all its Choices; at most {MAX_VALUES}, a range for more")
    return problems, sound


def _named(fields: Sequence[str]) -> str:
    """A dimension's name as an error has it."""
    name = "+".join(map(quote_name, fields[:20]))
    return name if len(fields) <= 20 and len(name) <= 500 else f"{name[:500]} ..."


def _domain_faults(domain: Any, num_fields: int) -> list[str]:
    if isinstance(domain, Choice):
        return _choice_faults(domain, num_fields)
    if not isinstance(domain, LogUniform | Uniform):
        return [f"a domain is LogUniform(low, high), Uniform(low, high) or Choice(values), got {quote_value(domain)}"]
    if num_fields > 1:
        return ["fields that move together take a Choice of tuples"]
    low, high = domain.low, domain.high
    if not _is_finite(low) or not _is_finite(high):
        return [f"low and high must be finite numbers, got {quote_value(low)} and {quote_value(high)}"]
    problems = [] if low < high else [f"low must be under high, got {quote_value(low)} and {quote_value(high)}"]
    if isinstance(domain, LogUniform) and low <= 0:
        problems.append(f"the low of a LogUniform must be above 0, got {quote_value(low)}")
    return problems


def _choice_faults(domain: Choice, num_fields: int) -> list[str]:
    given = domain.values
    if not isinstance(given, Sequence | Mapping) or isinstance(given, str | bytes | bytearray):
        return [f"a Choice takes a list of values or a mapping label -> value, got {quote_value(given)}"]
    named = isinstance(given, Mapping)
    values = list(itertools.islice(given.values() if isinstance(given, Mapping) else given, MAX_VALUES + 1))
    if not values:
        return ["a Choice of nothing; give at least one value"]
    if len(values) > MAX_VALUES:
        return [f"a Choice of more than {MAX_VALUES} values; a range has endlessly many"]
    problems = []
    if named:
        problems += [f"a label is text, got {quote_value(each)}" for each in given if not (_is_text(each) and each)]
    for value in values:
        parts = value if num_fields > 1 else (value,)
        if not isinstance(parts, tuple | list) or len(parts) != num_fields:
            problems.append(f"each value is a tuple of {num_fields}, one for each field, got {quote_value(value)}")
        elif not all(part is None or isinstance(part, bool) or _is_text(part) or _is_finite(part) for part in parts):
            problems.append(f"a value is text, a finite number, true or false, or None, got {quote_value(value)}")
    if problems:
        return problems
    texts = [*(given if named else ()), *itertools.chain.from_iterable(values if num_fields > 1 else [values])]
    longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
    if longest > MAX_TEXT:
        return [f"a label or a value of {longest} characters; at most {MAX_TEXT}"]
    if named:
        return []
    return [f"{quote_value(each)} is there twice" for each, times in Counter(map(_label, values)).items() if times > 1]


def _label(value: Any) -> Label:
    if isinstance(value, tuple | list):
        return "+".join(str(_label(part)) for part in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]  # as `--set` takes them
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_finite(value: Any) -> bool:
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False
