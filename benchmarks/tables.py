"""The tables of docs/performance.md, made from docs/performance.json by `python -m benchmarks`.

A table stands between `<!-- bench:NAME -->` and `<!-- /bench -->`, where NAME is that of a benchmark. Everything
else on the page is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu_hours import CLIPS, GPUS, LARGE_BATCH
from benchmarks.results import Section, Spread
from benchmarks.ways import BASE, OURS

_MARKED = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def rewrite(page: str, sections: Mapping[str, Section]) -> str:
    """Return the page with the tables of these sections. Raises ValueError if the page has no place for one of them."""
    places = [name for _, name, _ in _MARKED.findall(page)]
    for name in sections:
        if name in TABLES and places.count(name) != 1:
            raise ValueError(f"docs/performance.md: {places.count(name)} places <!-- bench:{name} -->; it needs one")

    def table(match: re.Match[str]) -> str:
        name = match[2]
        return f"{match[1]}{render(name, sections[name])}{match[3]}" if name in sections else match[0]

    return _MARKED.sub(table, page)


def render(name: str, section: Section) -> str:
    """Return a benchmark's line about its run, and its tables."""
    return f"{_about(section)}\n\n{TABLES[name](section)}\n"


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(section: Section) -> str:
    machine = section["machine"]
    parts = [
        f"`{section['command']}`, {section['date']}, commit {section['commit']}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['gpu'] or 'no GPU'}",
        f"Python {machine['python']}, torch {machine['torch']}, Ray {machine['ray']}, pyarrow {machine['pyarrow']}",
        f"load {machine['load']} before it, {section['seconds'] / 60:.0f} min",
    ]
    return "; ".join(parts) + "."


def _range(found: Spread, form: str = ".2f") -> str:
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def _reading(section: Section) -> str:
    tables = []
    for storage, figures in section["figures"].items():
        rows = []
        for name, way in figures["ways"].items():
            shown = f"**`{name}`**" if name in OURS else name
            of = "1" if name == BASE else _range(way["of_pyarrow"])
            first, highest = way["first_ms"]["median"], way["highest_first_ms"]
            rows.append([shown, _range(way["rows_per_second"], ",.0f"), of, f"{first:,.1f}", f"{highest:,.0f}"])
        titles = [f"{storage}s, {figures['row_bytes'] / 1000:.0f} kB a row", "rows/s", f"of {BASE}"]
        tables.append(grid([*titles, "first batch, ms", "highest"], rows))
        tables.append(f"Filling the cache: {_range(figures['fill'], ',.0f')} rows/s.")
    return "\n\n".join(tables)


def _overhead(section: Section) -> str:
    rows = [
        [
            stage,
            _range(figures["clips_per_second"], ".1f"),
            _range(figures["bare_clips_per_second"], ".1f"),
            _range(section["ratios"][f"{stage}: fit / bare loop"], ".3f"),
            _range(section["ratios"][f"{stage}: fit / bare loop, processor time"], ".3f"),
        ]
        for stage, figures in section["figures"].items()
    ]
    return grid(["network", "clips/s", "bare loop", "ratio", "ratio of processor times"], rows)


def _clip_seconds(section: Section) -> str:
    titles = ["clip", "every frame", "decoded", "prepared", "every frame / prepared"]
    names = ("every_frame", "decoded", "prepared")
    rows = [
        [
            kind,
            *(_range(figures[name]) for name in names),
            _range(section["ratios"][f"{kind}: decoding every frame / preparing"]),
        ]
        for kind, figures in section["figures"].items()
    ]
    return grid(titles, rows)


def _planning(section: Section) -> str:
    figures = section["figures"]
    rows = [
        [step, f"{each['seconds']:.1f}", f"{each['cpu_seconds']:.1f}", f"{each['peak_gib']:.2f}"]
        for step, each in figures["steps"].items()
    ]
    title = f"{figures['rows']:,} rows, {figures['files']:,} with a file"
    return grid([title, "seconds", "of processor time", "peak memory so far, GiB"], rows)


def _growth(section: Section) -> str:
    rows = section["figures"]
    return grid(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows])


def _feed(section: Section) -> str:
    rows = [
        [
            each["stored"],
            str(each["batch"]),
            each["path"] + (f", {each['readers']} tasks" if each["path"] == "stream" else ""),
            _range(each["clips_per_second"], ",.0f"),
            _range(each["no_reading"], ",.0f"),
            _range(ratio, ".2f"),
            _range(each["wait"], ".0%"),
        ]
        for each, ratio in zip(section["figures"], section["ratios"].values(), strict=True)
    ]
    return grid(["stored", "batch", "rows by", "clips/s", "no reading", "ratio", "wait"], rows)


def _paper_size(section: Section) -> str:
    rows = [
        [each["network"], f"{each['parameters']:,}", f"{each['seconds_median']:.3g}", f"{each['peak_gib']:.1f}"]
        for each in section["figures"]
    ]
    return grid(["network", "parameters", "seconds per step", "peak GiB"], rows)


def _scaling(section: Section) -> str:
    figures = section["figures"]
    check = grid(
        ["workers", "predicted, clips/s", "measured, clips/s", "predicted / measured"],
        [
            [size, _range(each["predicted"], ".1f"), _range(each["measured"], ".1f"), _range(each["ratio"])]
            for size, each in figures["check"].items()
        ],
    )
    reduces = figures["all_reduce"]
    calls = grid(
        ["all-reduce, ms", *(f"{int(size) / 1024:,.0f} KiB" for size in next(iter(reduces.values())))],
        [
            [f"{size} workers", *(f"{1000 * each['median']:.2f}" for each in own.values())]
            for size, own in reduces.items()
        ],
    )
    large = f"{LARGE_BATCH} clips on each GPU:"
    parts = [check, calls, "Batch of 16, as in the paper:", _hours(figures["paper_batch"])]
    return "\n\n".join([*parts, large, _hours(figures["large_batch"])])


def _hours(rows: Sequence[Mapping[str, Any]]) -> str:
    found = {(row["clips"], row["gpus"]): f"{_short(row['hours']['all'])} h, ${row['usd']['all']:,.0f}" for row in rows}
    return grid(
        ["clips", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)],
        [[f"{clips:,}", *(found.get((clips, gpus), "-") for gpus in GPUS)] for clips in CLIPS],
    )


def _short(hours: float) -> str:
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


TABLES: dict[str, Callable[[Section], str]] = {
    "reading": _reading,
    "overhead": _overhead,
    "clip_seconds": _clip_seconds,
    "planning": _planning,
    "growth": _growth,
    "feed": _feed,
    "paper_size": _paper_size,
    "scaling": _scaling,
}
