"""What every stage's program does round its work: arguments, done or not, commit, one readable line on error."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.runs import stages
from arspm.storage.retries import without_credentials
from cluster.job import EXIT_TEMPORARY

# (configuration, run, fingerprint) -> (files: path relative to the run -> size and hash, figures)
Work = Callable[[Config, str, str], tuple[dict[str, Any], dict[str, Any]]]


def main(stage: str, work: Work) -> None:
    """Run a stage's program: `python -m jobs.<stage> --run URI --config URI --fingerprint HEX`."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{stage}", description=work.__doc__)
    parser.add_argument("--run", required=True, help="the run's directory: a path or s3://")
    parser.add_argument("--config", required=True, help="the resolved configuration, a JSON file's path or s3://")
    parser.add_argument("--fingerprint", required=True, help="what the stage will be known by when it is done")
    arguments = parser.parse_args()
    with readable_end(stage):
        config = configuration.load(storage.read_bytes(arguments.config))
        run_stage(stage, work, arguments.run, config, arguments.fingerprint)


@contextmanager
def readable_end(name: str) -> Iterator[None]:
    """A job's work. An error ends the program: a traceback, one line, and a status that says whether to try again."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        yield
    except Exception as error:
        print(without_credentials(traceback.format_exc()), file=sys.stderr)
        line = without_credentials(str(error)).strip().splitlines()
        print(f"error: {name}: {line[0] if line else type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(EXIT_TEMPORARY if getattr(error, "temporary", False) else 1)


def run_stage(stage: str, work: Work, run: str, config: Config, fingerprint: str) -> None:
    """Do a stage's work and commit it, unless it is done already."""
    if stages.done(run, stage, fingerprint):
        print(f"{stage} is done already")
        return
    for need, digest in stages.upstream(run, stage).items():
        if not digest:
            raise FileNotFoundError(f"{stages.folder(run, need)} has no {stages.SUCCESS}: run stage {need} first")
    stages.begin(run, stage, fingerprint)
    begun = time.monotonic()
    files, figures = work(config, run, fingerprint)
    seconds = time.monotonic() - begun
    stages.commit(run, stage, fingerprint=fingerprint, config=config, files=files, seconds=seconds, figures=figures)
