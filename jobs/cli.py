"""The `arspm` command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from arspm import storage
from arspm.config import Config, ConfigError, given_uris, load, override, presets
from arspm.runs import stages, sweeps
from arspm.storage import uris
from cluster.errors import ClusterError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train models that draw an average-looking portrait from a voice, on a Ray cluster. "
    "A portrait correlates with a voice; it identifies no one.",
)

Run = Annotated[str, typer.Option("--run", help="The run's directory: a path or s3://bucket/prefix.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's directory: a path or s3://bucket/prefix.")]
Address = Annotated[
    str | None,
    typer.Option("--ray-address", help="The cluster's dashboard, as http://HOST:8265; else the local head's."),
]


@app.command()
def up(
    cpus: Annotated[int | None, typer.Option(help="CPUs that Ray may use; all of them by default.")] = None,
) -> None:
    """Start a Ray head on this machine: on loopback, with a token."""
    from cluster import head

    print(f"Ray answers at {head.up(num_cpus=cpus).address}; `arspm down` stops it")


@app.command()
def down() -> None:
    """Stop the Ray head that `arspm up` started, and its jobs."""
    from cluster import head

    stopped = head.down()
    print("nothing to stop" if stopped is None else f"stopped the Ray head at {stopped.address}")


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="A new folder for clips/, avspeech.csv, labels.csv and speakers.parquet.")],
    num_speakers: Annotated[int, typer.Option(min=1, help="Made-up people.")] = 100,
    clips_per_speaker: Annotated[int, typer.Option(min=1)] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other people.")] = 0,
) -> None:
    """Write talking clips of made-up people, in AVSpeech's form."""
    from arspm.synthetic.films import write_corpus

    out = storage.absolute(out)
    if storage.is_remote(out):
        raise ConfigError(f"{out}: made-up speakers are written to a folder of this machine")
    begun, last = time.monotonic(), [0.0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if done and (now - last[0] > 5 or done == total):
            last[0] = now
            print(f"{done} of {total} clips, about {(now - begun) * (total - done) / done:.0f} s left", flush=True)

    summary = write_corpus(
        out, num_speakers=num_speakers, clips_per_speaker=clips_per_speaker, seed=seed, progress=show
    )
    print(f"{summary.num_clips} clips of {summary.num_speakers} made-up people are in {out}")


@app.command()
def submit(
    run: Run,
    format_: Annotated[
        str | None, typer.Option("--format", help=f"What the clips are: {', '.join(stages.INPUTS)}; see docs/data.md.")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="AVSpeech rows (video id, start, end, x, y[, file]), or VoxCeleb's metadata.")
    ] = None,
    clips: Annotated[str | None, typer.Option(help="The folder of the clips' files, or of speakers' folders.")] = None,
    faces: Annotated[str | None, typer.Option(help="VoxCeleb's folder of face images.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="labels.csv; found beside the CSV, or in the speakers' folder, if it is there.")
    ] = None,
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(presets.PRESETS)}.")] = "paper",
    config: Annotated[str | None, typer.Option(help="A complete configuration (JSON) instead of a preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A field's value, as loss.lambda1=0.5.")] = None,
    until: Annotated[str | None, typer.Option(help=f"The last stage: {', '.join(stages.STAGES)}.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Let the cluster drive the chain, and return.")] = False,
    ray_address: Address = None,
) -> None:
    """Run the chain: clips to corpus to trained model to report. The same command goes on where it was stopped."""
    from jobs import chain
    from jobs.console import watch

    run = storage.run_uri(run)
    data = {"format": format_, "csv": csv, "clips": clips, "faces": faces, "labels": labels}
    settings = _settings(preset, config, data, set_ or [])
    address = _address(ray_address)
    if detach:
        print(f"{chain.detach(settings, run, address, until)} drives the chain; `arspm status {run}` tells how it is")
        return
    with watch() as on_event:
        outcomes = chain.run_chain(settings, run, address, until=until, on_event=on_event)
    if any(outcome.status == "cancelled" for outcome in outcomes.values()):
        raise typer.Exit(130)
    if not all(outcome.ok for outcome in outcomes.values()):
        failed = [name for name, outcome in outcomes.items() if outcome.status == "failed"]
        print(f"the log: arspm logs {run} {failed[0]}", file=sys.stderr)
        raise typer.Exit(1)
    if "report" in outcomes:
        print(f"report: {storage.join(run, 'report', 'index.html')}")


@app.command()
def status(run: RunArgument, ray_address: Address = None) -> None:
    """Say which stages of a run are done, and which jobs run."""
    from jobs import chain
    from jobs.console import format_duration

    run = storage.run_uri(run)
    jobs = chain.live_jobs(run, _address(ray_address, required=False))
    for name in stages.STAGES:
        done = stages.success(run, name)
        if name in jobs:
            print(f"{name:<11} {jobs[name].status.lower()}: {jobs[name].submission_id}")
        elif done is not None:
            print(f"{name:<11} done in {format_duration(done.seconds)}")
        else:
            print(f"{name:<11} not done")
    for name in sweeps.names(run):
        print(f"sweep {name}: {sweeps.summary(run, name)}")


@app.command()
def logs(
    run: RunArgument,
    stage: Annotated[str, typer.Argument(help="A stage, or chain for the detached driver.")],
    ray_address: Address = None,
) -> None:
    """Print what a stage's last job wrote."""
    from jobs import chain

    print(chain.last_log(storage.run_uri(run), stage, _address(ray_address)))


@app.command()
def cancel(run: RunArgument, ray_address: Address = None) -> None:
    """Stop the jobs of a run; what is done stays done."""
    from jobs import chain

    stopped = chain.cancel(storage.run_uri(run), _address(ray_address))
    print("\n".join(f"{job.submission_id}: {job.status.lower()}" for job in stopped) or "nothing runs")


@app.command()
def report(run: RunArgument) -> None:
    """Make a run's report page, if it is not there, and say where it is."""
    from jobs.report import report as work
    from jobs.stage import run_stage

    run = storage.run_uri(run)
    config = stages.finished_config(run, "evaluate")
    evaluated = stages.success(run, "evaluate")
    assert evaluated is not None  # finished_config has read it
    fingerprint = stages.fingerprint(config, "report", {"evaluate": evaluated.fingerprint})
    run_stage("report", work, run, config, fingerprint)
    print(storage.join(run, "report", "index.html"))


@app.command()
def ablation(
    run: Run,
    variants: Annotated[
        str | None, typer.Option(help="Names with commas between; Table 4's models by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models of each variant.")] = 3,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="As training.encoder.epochs=9; VARIANT:name=value for one alone.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Let the cluster drive it, and return.")] = False,
    ray_address: Address = None,
) -> None:
    """Train every variant of the paper over a run's corpus, priors and decoder, and compare them (Table 4)."""
    from jobs import ablation as work
    from jobs.console import watch

    run = storage.run_uri(run)
    names = variants.split(",") if variants else work.TABLE4
    models, missing = work.plan(run, names, seeds, _changes(set_ or []))
    for gap in missing:
        print(f"{gap['variant']}, seed {gap['seed']}: left out, {gap['reason']}")
    address = _address(ray_address)
    if detach:
        print(f"{work.detach(run, names, seeds, set_ or [], address)} drives the ablation")
        return
    with watch() as on_event:
        whole = work.run_ablation(run, models, missing, address, on_event)
    if whole is None:
        raise typer.Exit(130)
    print(f"ablation: {storage.join(run, 'ablation', 'index.html')}")
    if not whole:
        raise typer.Exit(1)


@app.command()
def sweep(
    run: Run,
    space: Annotated[
        str | None, typer.Argument(help="A space of tune_spaces, or your own file ending in .py; docs/sweeps.md.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The sweep's folder in the run; the space's name by default.")
    ] = None,
    num_trials: Annotated[int | None, typer.Option(help="All of a grid, else 16.")] = None,
    search: Annotated[str | None, typer.Option(help="grid, random or optuna; grid where nothing is a range.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="asha or none; none for a grid.")] = None,
    metric: Annotated[str, typer.Option(help="A figure of an epoch.")] = "val_cos_degrees",
    mode: Annotated[str, typer.Option(help="min or max.")] = "min",
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="For all trials, as training.encoder.epochs=9.")
    ] = None,
    warm_start: Annotated[str | None, typer.Option(help="An earlier sweep to learn from: its name or URI.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at once; else what has room.")] = None,
    log: Annotated[list[str] | None, typer.Option(help="mlflow or wandb, beside the sweep's own page.")] = None,
    export_best: Annotated[str | None, typer.Option(help="A file for the best configuration so far.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how long and how dear, and return.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Let the cluster go on alone, and return.")] = False,
    ray_address: Address = None,
) -> None:
    """Train an encoder for each of many settings over a run's corpus, priors and decoder, and find the best."""
    from jobs import sweep as work
    from jobs import sweep_plan
    from jobs.console import watch

    run = storage.run_uri(run)
    if space is None:
        if export_best is None:
            raise ConfigError("say which space to sweep, or --export-best FILE for what a sweep has found")
        _export_best(run, name, export_best)
        return
    if strange := set(log or []) - set(work.TRACKERS):
        raise ConfigError(f"log: {' or '.join(work.TRACKERS)}, not {', '.join(sorted(strange))}")
    options = sweep_plan.Options(name, num_trials, search, scheduler, metric, mode, seed, warm_start)
    place, planned = sweep_plan.plan(run, space, options, _changes(set_ or []))
    if dry_run:
        print(work.estimate(run, planned, max_concurrent))
        return
    address = _address(ray_address)
    extra = ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    extra += [word for each in log or [] for word in ("--log", each)]
    page = storage.join(place, "index.html")
    if detach:
        print(f"{work.detach(run, place, planned, address, extra)} runs the sweep; its page: {page}")
        return
    with watch() as on_event:
        outcome = work.run_sweep(run, place, planned, address, on_event, extra)
    if outcome.status == "cancelled":
        raise typer.Exit(130)
    if not outcome.ok:
        print(f"the log: arspm logs {run} {outcome.stage}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"sweep: {page}")
    if export_best is not None:
        _export_best(run, planned["name"], export_best)


@app.command()
def dashboard(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A run's directory, or a sweep's in it.")],
    port: Annotated[int | None, typer.Option(help="8266, or the next that is free.")] = None,
) -> None:
    """Serve the pages of a run's sweeps on loopback, to who has the address; no cluster is needed."""
    from jobs.dashboard import dashboard as serve

    serve(storage.absolute(uri), port)


@app.command()
def pictures(run: Run, out: Annotated[str, typer.Option(help="The folder of the pictures and of index.csv.")]) -> None:
    """Write the test split's real faces and portraits as files, with a table for a judge to fill in."""
    from jobs.pictures import export

    out = storage.absolute(out)
    print(f"{export(storage.run_uri(run), out)} pictures are in {out}; fill gender and age into index.csv")
    print(f"and measure them: arspm submit ... --set evaluate.judge={storage.join(out, 'index.csv')}")


@app.command()
def generate(
    recordings: Annotated[list[str], typer.Argument(help="Speech: wav, flac, mp3, mp4, ...")],
    run: Run,
    out: Annotated[str, typer.Option(help="The folder of the portraits.")],
) -> None:
    """Draw portraits from recordings: average-looking faces that go with the voice, nobody's likeness."""
    from jobs.generate import generate as draw

    recordings = [storage.absolute(recording) for recording in recordings]
    for target in draw(storage.run_uri(run), recordings, storage.absolute(out)):
        print(target)


def main() -> None:
    """The command line."""
    sys.exit(readable(app))


def readable(work: Callable[[], object]) -> int:
    """Run `work`; an expected error is one readable line a problem. The exit status."""
    try:
        work()
    except typer.Exit as ended:
        return ended.exit_code
    except (ConfigError, ClusterError, ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


def _settings(preset: str, config: str | None, data: Mapping[str, str | None], changes: list[str]) -> Config:
    """The configuration of a command line, with every path absolute. Raises ConfigError."""
    base = _read_config(config) if config else presets.preset(preset)
    wanted = _changes(changes)
    wanted |= {f"data.{name}": value for name, value in data.items() if value is not None}
    found = _absolute(override(base, wanted))
    needs = stages.INPUTS[found.data.format]
    words = [f"--{name} {'CSV' if name == 'csv' else 'FOLDER'}" for name in needs]
    if found.data.format != "avspeech":
        words.insert(0, f"--format {found.data.format}")
    if not all(getattr(found.data, name) for name in needs):
        raise ConfigError(f"say which clips: {' '.join(words)}")
    for name in ("csv", "test_csv", "faces"):
        own = needs if name != "test_csv" else [name] if found.data.format == "avspeech" else []
        if name not in own and getattr(found.data, name):
            raise ConfigError(f"data.{name}: format {found.data.format} has none; it takes {' '.join(words)}")
    place = found.data.csv.rpartition("/")[0] if "csv" in needs else found.data.clips
    beside = storage.join(place, "labels.csv")
    if not found.data.labels and storage.exists(beside):
        found = override(found, {"data.labels": beside})
    truth = storage.join(place, "speakers.parquet")  # of made-up speakers, whose corpora are in AVSpeech's form
    if found.data.format == "avspeech" and not found.oracle.speakers and storage.exists(truth):
        found = override(found, {"oracle.speakers": truth})
    return found


def _absolute(config: Config) -> Config:
    """With every path absolute, for jobs run in other folders than this command."""
    return override(config, {name: storage.absolute(place) for name, place in given_uris(config).items()})


def _read_config(uri: str) -> Config:
    """Raises ConfigError that names the file."""
    try:
        return load(storage.read_bytes(storage.absolute(uri)))
    except ConfigError as error:
        raise error.with_source(uri) from None


def _export_best(run: str, name: str | None, file: str) -> None:
    from arspm import config as configuration
    from jobs import sweep as work

    known = sweeps.names(run)
    if name is None and len(known) != 1:
        raise ConfigError(f"{run} has {'the sweeps ' + ','.join(known) if known else 'no sweep'}: say which by --name")
    record, config = work.best(sweeps.folder(run, name or known[0]))
    storage.write_bytes(storage.absolute(file), configuration.dump(config).encode() + b"\n")
    train = f"arspm submit --config {file} --run RUN"
    print(f"trial {record['number']}, {record['best']:.4g}, is in {file}; {train} trains it")


def _changes(texts: Sequence[str]) -> dict[str, str]:
    """What `--set` says, name -> value. Raises ConfigError."""
    unreadable = [text for text in texts if "=" not in text]
    if unreadable:
        raise ConfigError(f"--set {uris.display_uri(unreadable[0])}: write it as name=value")
    return dict(text.split("=", 1) for text in texts)


def _address(asked: str | None, *, required: bool = True) -> str:
    from cluster.head import find_head

    found = find_head(asked)
    if found is None and required:
        raise ClusterError("no Ray head: start one on this machine with `arspm up`, or pass --ray-address")
    return found or ""
