"""The domains of a space's dimensions, and the problems of a space that need no configuration to be found."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from arspm.config import quote_name, quote_value

MAX_VALUES = 1000  # of all Choices of a space together: each is tried before a sweep starts
MAX_TEXT = 200  # characters of a label or of a text value
_MAX_SHOWN = 500  # characters of user text in an error


@dataclass(frozen=True)
class LogUniform:
    """A number from `low` to `high`, uniform in its logarithm."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`, uniform."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of `values`: a list, or a mapping label -> value. If several fields vary together, a value is a tuple.

    A value is text, a number, a bool or None. Without a mapping, a value is its own label; True, False and None have
    the labels "true", "false" and "null", and a tuple has its labels joined by "+".
    """

    values: Sequence[Any] | Mapping[str, Any]


Domain: TypeAlias = LogUniform | Uniform | Choice
Space: TypeAlias = dict[str | tuple[str, ...], Domain]
Label: TypeAlias = str | int | float


class Dimension(NamedTuple):
    """An entry of a space. `name`: the names of its fields, joined by "+"."""

    name: str
    fields: tuple[str, ...]
    domain: Domain


def dimensions(space: Space) -> list[Dimension]:
    """Return the entries of a space, in its order."""
    entries = [((key,) if isinstance(key, str) else key, domain) for key, domain in space.items()]
    return [Dimension("+".join(fields), fields, domain) for fields, domain in entries]


def options(domain: Choice) -> dict[Label, Any]:
    """Return a Choice's values by label."""
    if isinstance(domain.values, Mapping):
        return dict(domain.values.items())
    return {_label(value): value for value in domain.values}


def quantile(domain: Domain, probability: float) -> Label:
    """Return the number or label at a quantile of the domain's distribution; 0 <= probability < 1."""
    if isinstance(domain, Choice):
        labels = list(options(domain))
        return labels[int(probability * len(labels))]
    if isinstance(domain, Uniform):
        value = domain.low * (1 - probability) + domain.high * probability
    else:
        value = math.exp(math.log(domain.low) * (1 - probability) + math.log(domain.high) * probability)
    return min(max(value, float(domain.low)), float(domain.high))  # rounding may leave the range


def shorten(text: str) -> str:
    """Return the text, cut to what an error shows of it."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def faults(space: Any) -> tuple[list[str], list[Dimension]]:
    """Return the problems of a space, one line each, and its valid dimensions."""
    if not isinstance(space, dict) or not space:
        return ["SPACE: must be a dict with at least one entry, field: domain"], []
    problems: list[str] = []
    valid: list[Dimension] = []
    seen: dict[str, str] = {}  # field -> name of its dimension
    for key, domain in space.items():
        fields = (key,) if isinstance(key, str) else key
        if not isinstance(fields, tuple) or not fields or not all(_is_text(each) and each for each in fields):
            problems.append(
                f"{quote_value(key)}: a key must be a field's name, or a tuple of names of fields that vary together"
            )
            continue
        name = _displayed(fields)
        own_problems = _domain_faults(domain, len(fields))
        if isinstance(key, tuple) and len(key) == 1:
            own_problems.append(f"a tuple of one field; write {quote_value(key[0])} without the tuple")
        for field, times in Counter(fields).items():
            if times > 1:
                own_problems.append(f"{quote_name(field)} is in the key twice")
            if field in seen:
                own_problems.append(f"{quote_name(field)} is also varied by {seen[field]}; keep one of them")
            seen.setdefault(field, name)
        problems += [f"{name}: {problem}" for problem in own_problems]
        if not own_problems:
            valid.append(Dimension("+".join(fields), fields, domain))
    num_values = sum(len(each.domain.values) for each in valid if isinstance(each.domain, Choice))
    if num_values > MAX_VALUES:
        problems.append(
            f"SPACE: {num_values} values in all Choices, at most {MAX_VALUES} are allowed; use a range for more"
        )
    return problems, valid


def _displayed(fields: Sequence[str]) -> str:
    """Return a dimension's name for an error."""
    name = "+".join(map(quote_name, fields[:20]))
    return shorten(name) if len(fields) <= 20 else f"{name[:_MAX_SHOWN]} ..."


def _domain_faults(domain: Any, num_fields: int) -> list[str]:
    if isinstance(domain, Choice):
        return _choice_faults(domain, num_fields)
    if not isinstance(domain, LogUniform | Uniform):
        return [
            f"a domain must be LogUniform(low, high), Uniform(low, high) or Choice(values), got {quote_value(domain)}"
        ]
    if num_fields > 1:
        return ["fields that vary together need a Choice of tuples"]
    low, high = domain.low, domain.high
    if not _is_finite(low) or not _is_finite(high):
        return [f"low and high must be finite numbers, got {quote_value(low)} and {quote_value(high)}"]
    problems = [] if low < high else [f"low must be less than high, got {quote_value(low)} and {quote_value(high)}"]
    if isinstance(domain, LogUniform) and low <= 0:
        problems.append(f"low of a LogUniform must be greater than 0, got {quote_value(low)}")
    return problems


def _choice_faults(domain: Choice, num_fields: int) -> list[str]:
    collection = domain.values
    if not isinstance(collection, Sequence | Mapping) or isinstance(collection, str | bytes | bytearray):
        return [f"a Choice takes a list of values or a mapping label -> value, got {quote_value(collection)}"]
    labelled = isinstance(collection, Mapping)
    all_values = collection.values() if isinstance(collection, Mapping) else collection
    values = list(itertools.islice(all_values, MAX_VALUES + 1))
    if not values:
        return ["a Choice without values; give at least one"]
    if len(values) > MAX_VALUES:
        return [f"a Choice of more than {MAX_VALUES} values; use a range"]
    problems = []
    if labelled:
        problems += [
            f"a label must be text, got {quote_value(each)}" for each in collection if not (_is_text(each) and each)
        ]
    for value in values:
        parts = value if num_fields > 1 else (value,)
        if not isinstance(parts, tuple | list) or len(parts) != num_fields:
            problems.append(f"each value must be a tuple of {num_fields}, one per field, got {quote_value(value)}")
        elif not all(part is None or isinstance(part, bool) or _is_text(part) or _is_finite(part) for part in parts):
            problems.append(f"a value must be text, a finite number, a bool or None, got {quote_value(value)}")
    if problems:
        return problems
    texts = [*(collection if labelled else ()), *itertools.chain.from_iterable(values if num_fields > 1 else [values])]
    longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
    if longest > MAX_TEXT:
        return [f"a label or a value of {longest} characters; at most {MAX_TEXT} are allowed"]
    if labelled:
        return []
    return [f"{quote_value(each)} is listed twice" for each, times in Counter(map(_label, values)).items() if times > 1]


def _label(value: Any) -> Label:
    if isinstance(value, tuple | list):
        return "+".join(str(_label(part)) for part in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]  # as `--set` writes them
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_finite(value: Any) -> bool:
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False
