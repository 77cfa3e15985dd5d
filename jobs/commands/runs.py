"""`arspm runs`, `arspm sweeps` and `arspm compare`: what there is, and how runs differ."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from jobs.commands.options import Address, Json, RunArgument, examples, existing_run

app = typer.Typer()


@app.command(epilog=examples("arspm runs runs", "arspm runs s3://bucket/runs --json"))
def runs(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A run, or a folder with runs, up to three folders down.")],
    as_json: Json = False,
) -> None:
    """List the runs below a URI: state, preset, clips, the model's angle, hours, cost, size, last change, sweeps.

    Shows what storage knows, for at most 200 runs. Sizes of very large runs are lower bounds. Needs no cluster.
    """
    from arspm.runs.find import MAX_RUNS, runs_below
    from jobs.run_list import as_lines, describe_runs

    uri = storage.absolute(uri)
    found, complete = runs_below(uri)
    described = describe_runs(found)
    if as_json:
        print(json.dumps({"uri": uri, "complete": complete, "runs": described}, indent=2))
        return
    print("\n".join(as_lines(described, uri)) if described else f"{uri}: no run here, or up to three folders below")
    if not complete:
        print(f"only the first {MAX_RUNS} runs are shown, or those in the first folders: name a folder below {uri}")


@app.command(epilog=examples("arspm sweeps runs/one", "arspm sweeps runs/one --json"))
def sweeps(run: RunArgument, as_json: Json = False, ray_address: Address = None) -> None:
    """List the sweeps of a run: state, trials, best trial and page. Without a cluster, shows what storage knows."""
    from cluster.head import find_head
    from jobs.status import look
    from jobs.status_json import sweep_record
    from jobs.sweep_status import sweep_names

    view = look(existing_run(run), find_head(ray_address)).view
    records = [sweep_record(view, name) for name in sorted(sweep_names(view))]
    if as_json:
        print(json.dumps(records, indent=2))
        return
    for record in records:
        print(f"{record['name']}: {record['text']}; page: {record['page']}")
    if not records:
        print(f"{view.run}: no sweep")


@app.command(
    epilog=examples(
        "arspm compare runs/one runs/two --out compared.html",
        "arspm compare runs/one runs/two s3://bucket/three --json",
    )
)
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more evaluated runs.")],
    out: Annotated[
        str | None, typer.Option(help="Also write a page with tables and learning curves to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs: settings that differ, figures with intervals, time, cost, and paired differences from the first.

    Differences need the same test clips and the same VGGFace. Needs no cluster.
    """
    from jobs import compare as comparing

    found = [existing_run(run) for run in runs]
    if len(found) < 2 or len(set(found)) < len(found):
        raise ConfigError("compare: give two or more different runs")
    compared = comparing.compare(found)
    print(json.dumps(compared, indent=2) if as_json else "\n".join(comparing.as_lines(compared)))
    if out is not None:
        from arspm.report.compare_page import render

        storage.write_bytes(storage.absolute(out), render(compared).encode())
