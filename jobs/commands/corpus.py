"""`arspm drops`, `arspm prune` and `arspm adopt`: what is not in a corpus, what is no longer, and another's corpus."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from arspm import storage
from arspm.config import ConfigError
from arspm.corpus import schema
from arspm.corpus.drops import dropped_rows, numbered_detail
from arspm.corpus.prune import unused_files
from arspm.runs import stages
from jobs.commands.options import Json, Run, RunArgument, completing, examples, existing_run

app = typer.Typer()


@app.command(epilog=examples("arspm drops runs/one", "arspm drops runs/one --reason no_face --json"))
def drops(
    run: RunArgument,
    reason: Annotated[
        str | None,
        typer.Option(
            help=f"Only rows dropped for this reason: {', '.join(schema.DropReason.__members__)}.",
            autocompletion=completing(schema.DropReason.__members__),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the rows of the clips that are not in a run's corpus, each with its reason. Needs no cluster.

    With --json, each row is a line of its own.
    """
    if reason is not None and reason not in schema.DropReason.__members__:
        raise ConfigError(f"{reason}: there is no such reason; there are {', '.join(schema.DropReason.__members__)}")
    corpus = stages.corpus(existing_run(run))
    try:
        for row in dropped_rows(corpus, reason):
            if as_json:
                print(json.dumps(row))
                continue
            print(f"{row['reason']}: {row['clip_id'] or '-'}: {numbered_detail(row)}")
    except FileNotFoundError:
        raise ConfigError(f"{run}: stage preprocess has not run") from None


@app.command(epilog=examples("arspm prune runs/one", "arspm prune runs/one --yes"))
def prune(
    run: RunArgument, yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False
) -> None:
    """Remove shards of earlier versions of a run's corpus, which stay when rows or settings change.

    Says what and how much, then asks. Do not use it while a training or a sweep still reads an earlier version.
    """
    run = existing_run(run)
    if stages.success(run, "preprocess") is None:
        raise ConfigError(f"{run}: stage preprocess is not done: the corpus may be growing; `arspm submit` runs it")
    corpus = stages.corpus(run)
    unused = unused_files(corpus)
    if not unused:
        print(f"{corpus}: nothing to remove")
        return
    folders = Counter[str]()
    for path, size in unused.items():
        folders[path.rpartition("/")[0]] += size
    for folder, size in sorted(folders.items()):
        print(f"{size / 1e9:10.3f} GB in {storage.join(corpus, folder)}")
    question = f"remove {len(unused):,} files of earlier versions of the corpus, {sum(unused.values()) / 1e9:.3f} GB?"
    if not yes:
        typer.confirm(question, abort=True)
    storage.remove_files(corpus, [*unused])
    print(f"removed {len(unused):,} files, {sum(unused.values()) / 1e9:.3f} GB")


@app.command(
    epilog=examples(
        "arspm adopt s3://bucket/runs/one/corpus --run s3://bucket/runs/two", "arspm adopt runs/one --run runs/two"
    )
)
def adopt(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Corpus of another run, or that run.")], run: Run
) -> None:
    """Use a corpus that another run made, where it is, without copying it. Needs no cluster.

    Compares every file with its SHA-256 first. Then `arspm submit --run RUN` needs no --csv and --clips, and refuses
    settings with which the corpus was not made. Do not change, prune or remove the other run while this one is used.
    """
    from arspm.runs.adopted import adopt as use

    run = storage.run_uri(run)
    storage.require_store(run)
    adopted = use(storage.run_uri(corpus), run)
    print(f"{run} uses the corpus of {adopted.source}; next: arspm submit --run {run} --preset PRESET")
