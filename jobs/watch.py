"""The live screen of a run, `arspm watch`: stages with progress, drivers, ablations and sweeps."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from arspm.report.words import format_duration, format_gpus, format_hundredths
from arspm.runs import lease, stages
from cluster.events import StageProgress
from cluster.job import Job
from jobs.run_jobs import name_of
from jobs.spending import running_usage, spent_lines
from jobs.status import Status, look, other_lines, spending_of, stage_line, state_lines
from jobs.view import row, table

REFRESH_SECONDS = 2.0
LINE_SECONDS = 10.0  # between two blocks of lines, without a terminal
_RATE_SECONDS = 30.0  # the rate is that of the last half minute
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 20  # of the bar and of the curve, in characters
_LOSS = re.compile(r"\bloss ([\d.]+(?:e[+-]?\d+)?)")


class _Seen(NamedTuple):
    """What was seen of a job: times with progress, and the loss by progress."""

    points: list[tuple[float, float]]
    losses: dict[float, float]


def watch(run: str, address: str | None) -> None:
    """Show the state of everything in a run until nothing of it runs.

    On a terminal a screen is redrawn; otherwise the lines that have changed are printed. Raises FileNotFoundError if
    there is no such run.
    """
    seen: dict[str, _Seen] = {}
    console = Console(highlight=False)
    if not console.is_terminal:
        _print_changes(run, address)
        return
    found = look(run, address)
    with Live(screen(found, seen), console=console, auto_refresh=False) as live:
        while _runs(found):
            time.sleep(REFRESH_SECONDS)
            found = look(run, address)
            live.update(screen(found, seen), refresh=True)


def _print_changes(run: str, address: str | None) -> None:
    """Print the lines that change; what the run has used, which always changes, when a stage has ended and at last."""
    printed: set[str] = set()
    done: list[str] | None = None
    while True:
        found = look(run, address)
        lines, before, done = state_lines(found), done, [name for name, (has, _) in found.manifests.items() if has]
        ended = not _runs(found)
        shown = [line for line in lines if line not in printed]
        for line in shown + (spent_lines(spending_of(found)) if ended or before not in (None, done) else []):
            print(line, flush=True)
        printed = set(lines)
        if ended:
            return
        time.sleep(LINE_SECONDS)


def _runs(found: Status) -> bool:
    return any(job.active for job in found.view.jobs) or lease.last_sign(found.view.run)[0]


def screen(found: Status, seen: dict[str, _Seen]) -> Text:
    """Return the screen. `seen` holds what earlier screens showed, and is updated: rates and curves need it."""
    view, running = found.view, dict[str, list[str]]()
    for job in view.jobs:
        if job.active and (records := found.progress.get(job.submission_id)):
            running[name_of(job)] = _cells(job, records, seen)
    shown = dict(zip(running, table([*running.values()]), strict=True))
    lines = [Text(view.run, style="bold")]
    for name in dict.fromkeys([*stages.STAGES, *running]):
        if name in shown:
            lines.append(Text(row(name, shown[name])))
        else:
            text = stage_line(view, name, *found.manifests[name])
            lines.append(Text(row(name, text), style=_style(text)))
    return Text("\n").join([*lines, *map(Text, other_lines(found) + spent_lines(spending_of(found)))])


def _cells(job: Job, records: list[StageProgress], seen: dict[str, _Seen]) -> list[str]:
    """Return the cells of a running job: bar, amount, rate, time left, GPUs, cost, curve of the loss, message."""
    latest, usage = records[-1], running_usage(job)
    points, losses = seen.setdefault(job.submission_id, _Seen([], {}))
    points.append((time.monotonic(), latest.current))
    while points[-1][0] - points[0][0] > _RATE_SECONDS:
        points.pop(0)
    losses.update({each.current: float(loss[1]) for each in records if (loss := _LOSS.search(each.message))})
    filled = round(_WIDTH * min(1.0, latest.current / latest.total)) if latest.total else 0
    total = "" if latest.total is None else f" of {latest.total:,.0f}"
    return [
        "━" * filled + "·" * (_WIDTH - filled),
        f"{latest.current:,.0f}{total} {latest.unit}",
        rate(points, latest.unit),
        "" if latest.eta_seconds is None else f"{format_duration(latest.eta_seconds)} left",
        format_gpus(usage.gpus) if usage else "",
        f"{format_hundredths(usage.usd)} USD" if usage and usage.usd is not None else "",
        sparkline([losses[step] for step in sorted(losses)], _WIDTH),
        latest.message,
    ]


def rate(points: list[tuple[float, float]], unit: str) -> str:
    """Return the rate between the first and the last of the points (seconds, progress), such as `12.3 steps/s`."""
    (begin, before), (end, after) = points[0], points[-1]
    return f"{(after - before) / (end - begin):.1f} {unit}/s" if end > begin and after > before else ""


def sparkline(values: list[float], width: int) -> str:
    """Return values as a curve of at most `width` characters, from the lowest to the highest bar.

    More values than characters are averaged in equal parts. "" for less than two values.
    """
    if len(values) < 2:
        return ""
    width = min(width, len(values))
    edges = [len(values) * part // width for part in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def _style(text: str) -> str:
    return "red" if text.startswith(("failed", "died")) else "green" if text.startswith("done") else "dim"
