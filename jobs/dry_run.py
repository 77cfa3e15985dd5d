"""What `arspm submit` would do: which stages are reused, which would run and why, for how long and for how much."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arspm.config import TRAINED_STAGES, Config, presets, require_workers
from arspm.report.words import format_duration
from arspm.runs import adopted, stages
from arspm.runs.gender_weights import find_gender_weights
from cluster.chain_cost import Market, Nodes
from cluster.graph import Stage, select_stages
from jobs import speeds, workload
from jobs.preflight import require_report
from jobs.stage_cost import worker_groups
from jobs.submission import trained_stages

_MOST_CHANGES = 3  # named as the reason why a stage runs
_OWN, _OTHER = "this run's own speed", ", with other settings"
_ONLY_AMOUNT = re.compile(r"data\.|oracle\.speakers|seed|training\.\w+\.epochs")  # settings that change no unit's time


class Planned(NamedTuple):
    """A stage that would run. seconds: None if nobody measured it. nodes: None if no node type holds its workers.

    in_driver: whether it has no workers, so that it needs only the head.
    """

    name: str
    needs: Sequence[str]
    why: str
    units: int
    seconds: float | None
    measured: str
    nodes: Nodes | None
    in_driver: bool

    @property
    def usd(self) -> float | None:
        return None if self.nodes is None or self.seconds is None else self.nodes.usd_per_hour * self.seconds / 3600


def describe(config: Config, run: str, until: str | None) -> str:
    """Return the plan as text. Starts nothing and writes nothing.

    Lists the inputs as `arspm submit` does, and raises the same errors for what it would refuse.
    """
    trees, fingerprints = adopted.inputs_of(config, run)
    if config.gender.weights:
        find_gender_weights(config, run)
    graph = [Stage(name, stage.needs, "") for name, stage in stages.STAGES.items()]
    chosen = [stage.name for stage in select_stages(graph, until)]
    pending = [name for name in chosen if stages.done(run, name, fingerprints[name]) is None]
    require_workers(config, trained_stages(config, pending))
    if "preprocess" in pending:
        require_report(config, trees)
        clips = workload.clips_of_inputs(config, trees)
    else:
        clips = workload.clips_of_corpus(run)
    market = Market()
    planned = [_planned(config, run, name, pending, clips, market) for name in pending]
    reused = [name for name in chosen if name not in pending]
    about = f"{clips.train:,} training, {clips.val:,} validation and {clips.test:,} test clips"
    lines = [f"{run}: preset {config.preset}; {about}", *(f"{name:<11} already done, reused" for name in reused)]
    lines += [_line(stage) for stage in planned]
    return "\n".join([*lines, *_total(planned, market)])


def _planned(
    config: Config, run: str, name: str, pending: Sequence[str], clips: workload.Clips, market: Market
) -> Planned:
    units = workload.units(config, name, clips)
    seconds, measured = _seconds(config, run, name, units)
    groups = worker_groups(config, name)
    nodes = market.cheapest(groups)
    return Planned(
        name, stages.STAGES[name].needs, _why(config, run, name, pending), units, seconds, measured, nodes, not groups
    )


def _why(config: Config, run: str, stage: str, pending: Sequence[str]) -> str:
    """Return why a stage would run."""
    before = stages.success(run, stage)
    if before is None:
        return "not done yet"
    changes = stages.changed_settings(config, before.config, stage)
    if changes:
        more = ", ..." if len(changes) > _MOST_CHANGES else ""
        return "changed: " + ", ".join(changes[:_MOST_CHANGES]) + more
    if any(need in pending for need in stages.STAGES[stage].needs):
        return "a stage before it runs again"
    return "its inputs changed" if stage == "preprocess" else "a stage before it has run again"


def _seconds(config: Config, run: str, stage: str, units: int) -> tuple[float | None, str]:
    """Return the estimated seconds of a stage, None if it was never measured, and where its speed was measured."""
    if (own := _own_seconds(config, run, stage, units)) is not None:
        return own
    preset = speeds.PRESETS.get(config.preset)
    speed = preset.speeds.get(stage) if preset else None
    if preset is None or speed is None:
        return None, "not measured"
    where = preset.where + _OTHER * _differ(config, presets.preset(config.preset).model_dump(), stage)
    return speed.fixed_seconds + units * speed.seconds, where


def _differ(config: Config, measured: Mapping[str, Any], stage: str) -> bool:
    """Return whether a stage's settings differ from those with which it was measured in what may change its speed."""
    return any(not _ONLY_AMOUNT.match(each) for each in stages.changed_settings(config, measured, stage))


def _own_seconds(config: Config, run: str, stage: str, units: int) -> tuple[float, str] | None:
    """Return the same by what this run measured when the stage ran with other settings; None if it has not run."""
    before = stages.success(run, stage)
    if before is None:
        return None
    where = _OWN + _OTHER * _differ(config, before.config, stage)
    if stage in TRAINED_STAGES:
        history = stages.history(run, stage)
        if history is None:
            return None
        rate = statistics.median(epoch["clips_per_second"] for epoch in history["epochs"])
        return speeds.FIXED_SECONDS + units / rate, where
    done_units = _units_before(before, run, stage)
    return (before.seconds * units / done_units if done_units else before.seconds), where


def _units_before(before: stages.Success, run: str, stage: str) -> int:
    """Return the units of a finished stage's work."""
    if stage == "preprocess":
        work: Mapping[str, Any] = before.figures.get("work", {})
        return int(work.get("decoded") or before.figures.get("num_rows") or 0)
    if stages.success(run, "preprocess") is None:
        return 0
    return workload.units(stages.finished_config(run, stage), stage, workload.clips_of_corpus(run))


def _line(stage: Planned) -> str:
    time = "time not measured" if stage.seconds is None else f"about {format_duration(stage.seconds)}"
    where = "" if stage.seconds is None else f" ({stage.measured})"
    nodes = stage.nodes
    if stage.in_driver:
        cost = ""
    elif nodes is None:
        cost = "; no node type holds its workers"
    else:
        on = f"{nodes.number:g} {nodes.node_type} ({nodes.instance}, {nodes.market})"
        cost = "" if stage.usd is None else f"; {stage.usd:.2f} USD on {on}"
    return f"{stage.name:<11} runs, {stage.why}: {time}{where}{cost}"


def _total(planned: Sequence[Planned], market: Market) -> list[str]:
    """Return the lines below the stages: hours and cost of all together."""
    if not planned:
        return ["nothing to run"]
    known = {stage.name: stage for stage in planned if stage.seconds is not None}
    missing = [stage.name for stage in planned if stage.seconds is None]
    one_by_one = sum(stage.seconds or 0 for stage in known.values())
    ends: dict[str, float] = {}
    for stage in planned:  # each after the stages that it needs
        begin = max((ends.get(need, 0.0) for need in stage.needs), default=0.0)
        ends[stage.name] = begin + (stage.seconds or 0)
    shortest = max(ends.values())
    usd = sum(stage.usd or 0 for stage in known.values() if not stage.in_driver)
    usd += market.head_usd_per_hour * shortest / 3600
    hours = f"{shortest / 3600:.2f} hours if all that can run side by side does, {one_by_one / 3600:.2f} one by one"
    lines = [f"together: {hours}; {usd:.2f} USD with the head ({market.source}); nothing on a machine of your own"]
    if missing:
        lines.append(f"not counted, because they were not measured: {', '.join(missing)}")
    lines.append(
        "Times assume the speed of the machine in brackets, and no gain from more workers. Prices are without disks "
        "and traffic; spot prices vary. Nothing was started."
    )
    return lines
