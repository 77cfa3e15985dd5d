"""The runs, ablations and sweeps below a URI, for `arspm runs`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from arspm import storage
from arspm.report.ablation_page import PAGE
from arspm.report.words import format_hundredths, format_value
from arspm.runs import drivers, find, spent, stages, sweeps
from arspm.storage import in_threads
from arspm.storage.retries import first_line
from jobs.view import ago, table


def describe_runs(runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return what storage says of each run; a run that cannot be read has an "error" instead."""
    return in_threads(_describe, runs)


def _describe(run: str) -> dict[str, Any]:
    try:
        manifests = {stage: stages.success(run, stage) for stage in stages.STAGES}
        done = {stage: manifest for stage, manifest in manifests.items() if manifest is not None}
        latest = next((done[stage] for stage in reversed(stages.STAGES) if stage in done), None)
        used = spent.total(spent.own_entries(run, done))
        evaluated, prepared, size = done.get("evaluate"), done.get("preprocess"), storage.folder_size(run)
        return {
            "run": run,
            "state": find.state(run, set(done)),
            "stages_done": [*done],
            "preset": latest.config.get("preset") if latest else None,
            "num_clips": prepared.figures.get("num_clips") if prepared else None,
            "cos_degrees": evaluated.figures.get("cos_degrees") if evaluated else None,
            "seconds": used.seconds,
            "gpu_hours": used.gpu_hours,
            "usd": used.usd,
            "ablations": [name for name in _ablations(run) if storage.exists(storage.join(run, name, PAGE))],
            "sweeps": sweeps.names(run),
            "bytes": size.num_bytes,
            "bytes_are_complete": size.complete,
            "changed": size.changed,
        }
    except (ValueError, OSError) as error:
        return {"run": run, "error": first_line(error)}


def _ablations(run: str) -> Iterator[str]:
    for name in storage.entries(run):
        if name == drivers.ABLATION or name.startswith(drivers.STUDY):
            yield name


def as_lines(found: Sequence[dict[str, Any]], uri: str) -> list[str]:
    """Return the runs as a table. uri: where they were looked for."""
    rows: list[tuple[str, ...]] = [
        ("run", "state", "stages", "preset", "clips", "degrees", "hours", "GPU-h", "USD", "GB", "changed", "")
    ]
    for each in found:
        name = each["run"].removeprefix(uri).strip("/") or each["run"]
        if "error" in each:
            rows.append((name, "unreadable", *[""] * (len(rows[0]) - 3), each["error"]))
            continue
        more = [*each["ablations"], *(f"sweep {sweep}" for sweep in each["sweeps"])]
        rows.append(
            (
                name,
                each["state"],
                f"{len(each['stages_done'])}/{len(stages.STAGES)}",
                each["preset"] or "-",
                "-" if each["num_clips"] is None else f"{each['num_clips']:,}",
                "-" if each["cos_degrees"] is None else format_value("cos_degrees", each["cos_degrees"]),
                f"{each['seconds'] / 3600:.2f}",
                "-" if each["gpu_hours"] is None else format_hundredths(each["gpu_hours"]),
                "-" if each["usd"] is None else format_hundredths(each["usd"]),
                ("" if each["bytes_are_complete"] else "> ") + f"{each['bytes'] / 1e9:.3f}",
                "-" if each["changed"] is None else ago(time.time() - each["changed"]),
                ", ".join(more),
            )
        )
    return table(rows)
