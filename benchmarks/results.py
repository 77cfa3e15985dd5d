"""What a benchmark measured, as JSON: figures, ratios with their spread, and the machine; and which ratios dropped.

A *ratio* compares two ways of doing the same, measured in turns in one run, so that other programs on the machine hit
both. It is larger if we are faster. Its spread is the range between the quartiles of its repeats.

A ratio has *dropped* if its new median is more than 15 % below the lower quartile that it had before:

    new median < 0.85 x old lower quartile

A ratio that was measured before and is missing now counts as dropped, too. Ratios from machines with different numbers
of cores or other GPUs are not compared.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

MAX_DROP = 0.15  # beyond the spread
ROOT = Path(__file__).parents[1]

Spread = dict[str, Any]  # "median", "low", "high", "values"
Section = dict[str, Any]  # of one benchmark: "command", "machine", "figures", "ratios" and more


def spread(values: Iterable[float]) -> Spread:
    """Return the median, the quartiles ("low", "high") and the values, to four digits. Needs at least one value."""
    found = [float(f"{value:.4g}") for value in values]
    low, median, high = (
        statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else [found[0], found[0], found[0]]
    )
    return {name: float(f"{value:.4g}") for name, value in (("median", median), ("low", low), ("high", high))} | {
        "values": found
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of the ratios of two ways' speeds, repeat by repeat."""
    return spread(own / other for own, other in zip(ours, theirs, strict=True))


def write(path: Path | None, figures: Any, found: Mapping[str, Spread]) -> None:
    """Write a benchmark's figures and ratios as JSON, for `python -m benchmarks`. No path: write nothing."""
    if path is not None:
        path.write_text(json.dumps({"figures": figures, "ratios": dict(found)}, indent=2))


def dropped(name: str, old: Section, new: Section) -> list[str]:
    """Return one line for each ratio of a benchmark that dropped, by the rule above."""
    if other_machine(old, new):
        return []
    lines = []
    for ratio, before in old["ratios"].items():
        now = new["ratios"].get(ratio)
        limit = (1 - MAX_DROP) * before["low"]
        was = f"it was {before['median']:.3g} ({before['low']:.3g} to {before['high']:.3g})"
        if now is None:
            lines.append(f"{name}: {ratio} is no longer measured; {was}")
        elif now["median"] < limit:
            lines.append(f"{name}: {ratio} dropped to {now['median']:.3g}, below {limit:.3g}; {was}")
    return lines


def other_machine(old: Section, new: Section) -> str:
    """Return how the machines of two measurements differ, so that their ratios cannot be compared; "" if they can."""
    parts = [
        f"{what}: {old['machine'][what]} before, {new['machine'][what]} now"
        for what in ("cores", "gpu")
        if old["machine"][what] != new["machine"][what]
    ]
    return "; ".join(parts)


def machine() -> dict[str, Any]:
    """Return what was measured on: processor, cores, memory, GPU, versions, and the load before the measurement."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "ray", "pyarrow", "numpy")}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **versions,
        "load": round(os.getloadavg()[0], 1),
    }


def about(command: str) -> Section:
    """Return a section without figures: the command, the date, the commit and the machine."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": machine(),
    }


def committed(path: Path) -> dict[str, Section]:
    """Return the sections of a results file as of the last commit; as the file has them, outside of a repository.

    The commit counts, because a second run would otherwise be compared with the first one, which may have been slow.
    """
    shown = _git("show", f"HEAD:{path.resolve().relative_to(ROOT)}") if path.resolve().is_relative_to(ROOT) else None
    if shown is None:
        shown = path.read_text() if path.exists() else "{}"
    return json.loads(shown)


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    changes = _git("status", "--porcelain", "--", "arspm", "benchmarks") or ""
    return head.strip() + (" with changes" if changes.strip() else "")


def _git(*words: str) -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
