"""`arspm pictures`, `generate`, `demo-page` and `export`: portraits as files and on a page, and the model as files."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from arspm.corpus import schema
from arspm.storage.uris import display_uri
from cluster.exit_codes import ExitCode
from jobs.commands.options import Address, Run, RunArgument, examples, existing_run, find_address

app = typer.Typer()


@app.command(epilog=examples("arspm pictures --run runs/one --out pictures"))
def pictures(
    run: Run, out: Annotated[str, typer.Option(help="Folder to write the pictures and index.csv to.")]
) -> None:
    """Write the test split's real faces and portraits as files, with a table for a judge to fill in."""
    from jobs.pictures import INDEX, export

    out = storage.absolute(out)
    count = export(existing_run(run), out)
    print(f"wrote {count} pictures to {out}; fill in the gender and age columns of {INDEX}")
    print(f"then measure them: arspm submit ... --set evaluate.judge={storage.join(out, INDEX)}")


@app.command(
    epilog=examples(
        "arspm generate --run runs/one --out portraits voice.wav",
        "arspm generate --run exported/one --out portraits recordings/ more/*.mp4",
        "arspm generate --run s3://bucket/one --out s3://bucket/portraits s3://bucket/recordings --cluster",
        "arspm generate --run runs/one --out portraits runs/other/corpus --split test",
    )
)
def generate(
    recordings: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Recordings of speech (wav, flac, mp3, mp4, ...), folders or s3:// prefixes of them, or corpora.",
        ),
    ],
    run: Annotated[str, typer.Option("--run", help="Run directory or exported model: a local path or s3://.")],
    out: Annotated[str, typer.Option(help="Folder to write the portraits to: a local path or s3://.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help=f"Of a corpus, only this split: {', '.join(schema.SPLITS)} (default: all). Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device of this process: cpu, cuda or cuda:1.")] = "cpu",
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Draw on a Ray cluster, with the model's resources.infer.")
    ] = False,
    ray_address: Address = None,
) -> None:
    """Draw a portrait for each recording: an average-looking face that fits the voice, nobody's likeness.

    OUT gets a PNG for each recording, the features as Parquet, a contact sheet of the first hundred, and failures.csv.
    What cannot be drawn is reported, and the exit status is then 1. Run the same command again to resume.
    """
    on_cluster = cluster or ray_address is not None
    if unknown := {*(split or ())} - {*schema.SPLITS}:
        raise ConfigError(f"--split {sorted(unknown)[0]}: there is no such split; there are {', '.join(schema.SPLITS)}")
    if on_cluster and device != "cpu":
        raise ConfigError("--device: on a cluster, resources.infer.gpus of the model decides; leave it out")
    inputs = [storage.absolute(recording) for recording in recordings]
    model, target = storage.absolute(run), storage.absolute(out)
    address = find_address(ray_address) if on_cluster else None

    from jobs import generate as job

    options = job.Options(model, inputs, target, split or schema.SPLITS)
    if address is None:
        summary: job.Summary | None = job.generate(options, _Printed(), device=device)
    else:
        from jobs.console import watch

        with watch() as show:
            summary = job.generate_on(address, options, show)
        for failure in job.read_failures(target) if summary else ():
            _Printed().failed(*failure)
    if summary is None:
        raise typer.Exit(ExitCode.FAILED)
    where = f"; all reasons: {storage.join(target, job.FAILURES)}" if summary.num_failed else ""
    kept = f", {summary.num_kept:,} kept" if summary.num_kept else ""
    print(f"{summary.num_drawn:,} portraits drawn{kept}, {summary.num_failed:,} failed{where}", file=sys.stderr)
    if summary.num_failed:
        raise typer.Exit(ExitCode.FAILED)


class _Printed:
    """Prints the portraits' URIs for programs, and the rest for people."""

    def drawn(self, portrait: str) -> None:
        print(portrait, flush=True)

    def failed(self, source: str, reason: str) -> None:
        print(f"error: {display_uri(source)}: {reason}", file=sys.stderr)

    def noted(self, text: str) -> None:
        print(text, file=sys.stderr)

    def advanced(self, done: int, total: int) -> None:
        pass


@app.command(
    "demo-page", epilog=examples("arspm demo-page runs/one", "arspm demo-page exported/one --port 9000 --device cuda")
)
def demo_page(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory or exported model: a local path or s3://.")],
    port: Annotated[int | None, typer.Option(help="Port (default: 8267, or the next free one).")] = None,
    device: Annotated[str, typer.Option(help="Device of this process: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Serve a page on 127.0.0.1 that records speech and draws its portrait; the URL contains an access token.

    The portrait stands beside the prior and the mean faces, which ignore the voice. Recordings stay on this machine
    and are not kept. Needs `pip install 'arspm[page]'`.
    """
    from arspm.demo_page import server

    server.serve(storage.absolute(run), server.PORT if port is None else port, device=device)


@app.command(epilog=examples("arspm export runs/one exported/one", "arspm export runs/one s3://bucket/one --no-onnx"))
def export(
    run: RunArgument,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="New folder, or an earlier export: a local path or s3://.")
    ],
    onnx: Annotated[
        bool, typer.Option("--onnx/--no-onnx", help="Whether to write encoder and decoder as ONNX files, too.")
    ] = True,
) -> None:
    """Write a run's trained model as one folder: weights, configuration, priors, a model card and ONNX files.

    `SpeechPortrait.load` and `arspm generate --run` read it. The model draws average-looking portraits that correlate
    with a voice; it identifies no one.
    """
    from jobs.export import export as write

    target = storage.absolute(dest)
    written = write(existing_run(run), target, onnx=onnx)
    size = sum(each["bytes"] for each in written["files"].values())
    print(f"exported {len(written['files'])} files, {size / 1e6:.1f} MB, to {target}")
