"""`arspm runs` and `arspm sweeps`: what there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from arspm import storage
from jobs.commands.options import Address, Json, RunArgument, examples, existing_run

app = typer.Typer()


@app.command(epilog=examples("arspm runs runs", "arspm runs s3://bucket/runs --json"))
def runs(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A run, or a folder with runs, up to three folders down.")],
    as_json: Json = False,
) -> None:
    """List the runs below a URI: state, preset, clips, the model's angle, size, last change, ablations and sweeps.

    Shows what storage knows, for at most 200 runs. Sizes of very large runs are lower bounds. Needs no cluster.
    """
    from jobs.run_list import MAX_RUNS, as_lines, describe_runs, runs_below

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
