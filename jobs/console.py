"""Show a running chain: progress bars with an ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from arspm.report.words import format_duration
from cluster import events
from jobs.verbosity import is_quiet

_ENDS = (events.Finished, events.Failed, events.Cancelled, events.Retry)
_PROBLEMS = (events.Failed, events.Cancelled, events.Retry, events.Warned)
LINE_SECONDS = 10.0  # between two progress lines of one stage, without a terminal


@contextmanager
def watch() -> Iterator[Callable[[events.Event], None]]:
    """Give a function that shows the chain's events while the block runs; with -q, failures and warnings only."""
    if is_quiet():
        yield _problems
    elif sys.stdout.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


def sentence(event: events.Event) -> str | None:
    """Return an event as one line of text; None if it is shown as a bar or not at all."""
    match event:
        case events.Started(attached=attached):
            return f"{event.stage}: {'attached to a running job' if attached else 'started'}"
        case events.Reused():
            return f"{event.stage}: already done, reused"
        case events.Finished(seconds=seconds):
            return f"{event.stage}: done in {format_duration(seconds)}"
        case events.Failed(error=error):
            return f"{event.stage}: FAILED: {error.removeprefix('error: ').removeprefix(event.stage + ': ')}"
        case events.Skipped(reason=reason):
            return f"{event.stage}: skipped, {reason.partition(':')[0]}"  # the failure itself has just been printed
        case events.Retry(error=error, retry=retry, max_retries=most, wait_seconds=wait):
            return f"{event.stage}: {error}; retry {retry} of {most} in {wait:.0f} s"
        case events.Cancelled(reason=reason):
            return f"{event.stage}: {reason}"
        case events.Warned(text=text):
            return f"{event.stage}: {text}"
    return None


@contextmanager
def _bars() -> Iterator[Callable[[events.Event], None]]:
    console = Console(highlight=False)
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(event: events.Event) -> None:
            if isinstance(event, events.Started):
                tasks[event.stage] = progress.add_task(event.stage, total=None, unit="", message="starting")
            elif isinstance(event, events.StageProgress) and event.stage in tasks:
                progress.update(
                    tasks[event.stage],
                    total=event.total,
                    completed=event.current,
                    unit=event.unit,
                    message=event.message,
                )
            elif isinstance(event, _ENDS) and event.stage in tasks:
                progress.remove_task(tasks.pop(event.stage))
            if (text := sentence(event)) and not isinstance(event, events.Started):
                progress.print(text, style="red" if isinstance(event, events.Failed) else None, markup=False)

        yield show


def _problems(event: events.Event) -> None:
    if isinstance(event, _PROBLEMS):
        print(sentence(event), flush=True)


def _lines() -> Callable[[events.Event], None]:
    last_printed: dict[str, float] = {}  # stage -> time

    def show(event: events.Event) -> None:
        if isinstance(event, events.StageProgress) and event.total:
            now = time.monotonic()
            if now - last_printed.get(event.stage, -LINE_SECONDS) < LINE_SECONDS:
                return
            last_printed[event.stage] = now
            print(f"{event.stage}: {progress_text(event)}", flush=True)
        elif text := sentence(event):
            print(text, flush=True)

    return show


def progress_text(event: events.StageProgress) -> str:
    """Return progress as text: `120 of 400 steps, epoch 3 of 9, about 3 min 00 s left`."""
    total = "" if event.total is None else f" of {event.total:.0f}"
    parts = [f"{event.current:.0f}{total} {event.unit}".rstrip(), event.message]
    if event.eta_seconds is not None:
        parts.append(f"about {format_duration(event.eta_seconds)} left")
    return ", ".join(part for part in parts if part)
