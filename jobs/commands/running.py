"""`arspm status`, `watch`, `logs` and `cancel`: what runs, what it says, and how to stop it."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from arspm import storage
from cluster.errors import ClusterError
from cluster.exit_codes import ExitCode
from jobs.commands.options import Address, Json, RunArgument, examples, find_address

app = typer.Typer()


@app.command(
    epilog=examples(
        "arspm status runs/one",
        "arspm status s3://bucket/one --ray-address http://HOST:8265",
        "arspm status runs/one --json",
    )
)
def status(run: RunArgument, as_json: Json = False, ray_address: Address = None) -> None:
    """Show the state of everything in a run: stages, drivers, ablations and sweeps, with progress, GPUs and cost.

    Without a cluster, shows what storage knows.
    """
    from cluster.head import find_head
    from jobs.status import lines_of, look
    from jobs.status_json import status_record

    found = look(storage.run_uri(run), find_head(ray_address))
    print(json.dumps(status_record(found), indent=2) if as_json else "\n".join(lines_of(found)))


@app.command(epilog=examples("arspm watch runs/one", "arspm watch s3://bucket/one --ray-address http://HOST:8265"))
def watch(run: RunArgument, ray_address: Address = None) -> None:
    """Show everything that runs in a run on one screen, until nothing does: progress, time left, loss, GPUs, cost.

    Works from any terminal, also for detached runs. Without a terminal, prints the lines that change, and what the run
    has used when a stage ends. Ctrl-C leaves everything running.
    """
    from cluster.head import find_head
    from jobs.watch import watch as show

    try:
        show(storage.run_uri(run), find_head(ray_address))
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


@app.command(
    epilog=examples(
        "arspm logs runs/one encoder",
        "arspm logs runs/one chain --follow",
        "arspm logs runs/one loss_weights",
        "arspm logs runs/one loss_weights --trial 3",
    )
)
def logs(
    run: RunArgument,
    name: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="Stage, sweep by its name, `chain` or `ablation` for a detached driver, `study-NAME` for a study's, "
            "or STAGE-MODEL for a model of an ablation.",
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new lines until the job ends; Ctrl-C leaves the job running.")
    ] = False,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Print the log of this trial of the sweep, from storage.")
    ] = None,
    ray_address: Address = None,
) -> None:
    """Print the log of the latest job of a stage, a driver or a sweep."""
    from cluster import client
    from cluster.job import ending
    from jobs import run_jobs, sweep_trials

    if trial is not None:
        print(sweep_trials.log(storage.run_uri(run), name, trial), end="")
        return
    jobs_client = client.connect(find_address(ray_address))
    job = run_jobs.latest(jobs_client, storage.run_uri(run), name)
    if not follow:
        print(client.logs(jobs_client, job.submission_id), end="")
        return
    try:
        ended = client.wait(jobs_client, job.submission_id, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"{name}: no longer followed, still running", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    print(f"{name}: {ending(ended)}", file=sys.stderr)


@app.command(
    epilog=examples(
        "arspm cancel runs/one",
        "arspm cancel runs/one --stage encoder",
        "arspm cancel runs/one --sweep loss_weights",
        "arspm cancel runs/one --sweep loss_weights --trial 3",
    )
)
def cancel(
    run: RunArgument,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Stop only this job: a stage, STAGE-MODEL of an ablation, or a detached driver (`chain`, `ablation`, "
            "`study-NAME`) with the jobs that it started. Repeatable."
        ),
    ] = None,
    sweep: Annotated[list[str] | None, typer.Option(help="Stop only this sweep. Repeatable.")] = None,
    trial: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Stop only this trial of the sweep, within seconds. Repeatable."),
    ] = None,
    ray_address: Address = None,
) -> None:
    """Stop the jobs of a run (default: all). Finished stages, models and trials are kept.

    If only a stage is stopped, its chain goes on with the stages that do not need it, then ends as incomplete. The
    command that started it resumes it. A stopped trial is not resumed; its sweep continues with the other trials.
    """
    from cluster import client
    from jobs import run_jobs, sweep_trials

    run = storage.run_uri(run)
    if trial:
        for line in sweep_trials.stop(run, sweep or (), stage or (), trial):
            print(line)
        return
    jobs_client = client.connect(find_address(ray_address))
    stopped = run_jobs.cancel(jobs_client, run, stage or (), sweep or ())
    for job in stopped:
        print(f"{run_jobs.name_of(job)}: {job.status.lower()} ({job.submission_id})")
    if not stopped:
        print(f"no job is running{run_jobs.elsewhere(run)}")
    if alive := [run_jobs.name_of(job) for job in stopped if job.active]:
        raise ClusterError(f"{', '.join(alive)}: asked to stop, but still running; repeat the command")
