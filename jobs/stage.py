"""What all stage programs share: arguments, the check whether the stage is done, its manifest, one-line errors."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from arspm import config as configuration
from arspm import storage
from arspm.config import Config
from arspm.runs import inventory, lease, reused, stages
from arspm.runs.lease import Holder
from arspm.runs.usage import Requested
from arspm.storage.retries import without_credentials
from cluster.exit_codes import ExitCode
from jobs.stage_cost import BY_HAND, measured, request_of

# (configuration, run, fingerprint) -> (files: path relative to the run -> size and hash, figures)
Work = Callable[[Config, str, str], tuple[dict[str, Any], dict[str, Any]]]


def main(stage: str, work: Work) -> None:
    """Run a stage's program: `python -m jobs.<stage> --run URI --config URI [--fingerprint HEX] [--local]`."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{stage}", description=work.__doc__)
    parser.add_argument("--run", required=True, help="run directory: a local path or s3://bucket/prefix")
    parser.add_argument("--config", required=True, help="complete configuration: URI of a JSON file")
    parser.add_argument(
        "--fingerprint",
        help="fail unless the configuration and the finished upstream stages have this fingerprint (default: no check)",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="run in this process, without Ray, as one worker: for a debugger (default: on the Ray cluster)",
    )
    parser.add_argument("--cluster", type=json.loads, metavar="JSON", help="whose lease on the run this job shares")
    parser.add_argument(
        "--submitted-by",
        type=json.loads,
        metavar="JSON",
        help="command, user and host that the manifest records (default: those of this process)",
    )
    parser.add_argument(
        "--requested",
        type=Requested.model_validate_json,
        metavar="JSON",
        help="workers and the price of their nodes, for the manifest (default: those of the configuration, no price)",
    )
    arguments = parser.parse_args()
    with readable_end(stage), _in_this_process() if arguments.local else nullcontext():
        config = configuration.load(storage.read_bytes(arguments.config))
        holder = None if arguments.cluster is None else Holder(**arguments.cluster)
        requested = None if arguments.local else arguments.requested or request_of(config, stage, BY_HAND)
        run_stage(stage, work, arguments.run, config, arguments.fingerprint, arguments.submitted_by, holder, requested)


@contextmanager
def readable_end(name: str) -> Iterator[None]:
    """End the program on an error: print the traceback and one line, exit with a status that says whether to retry."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        yield
    except Exception as error:
        print(without_credentials(traceback.format_exc()), file=sys.stderr)
        line = without_credentials(str(error)).strip().splitlines()
        print(f"error: {name}: {line[0] if line else type(error).__name__}", file=sys.stderr, flush=True)
        sys.exit(ExitCode.TEMPORARY if getattr(error, "temporary", False) else ExitCode.FAILED)


def run_stage(
    stage: str,
    work: Work,
    run: str,
    config: Config,
    fingerprint: str | None = None,
    invocation: dict[str, Any] | None = None,
    holder: Holder | None = None,
    requested: Requested | None = None,
) -> None:
    """Run a stage and write its manifest, unless the stage is done. `invocation`: see `stages.commit`.

    holder: whose lease on the run is held meanwhile (default: this process's own). requested: what the stage requests
    of a Ray cluster, None for a stage that runs in this process.

    Raises FileNotFoundError if an upstream stage is not done. Raises ValueError, before anything is removed, for
    another fingerprint than `expected_fingerprint`, or if a file of an upstream stage is missing or has another size
    than its manifest says; and if an upstream stage was run again while this one ran. Raises LeaseHeld if another
    cluster works on the run, and LeaseLost, without a manifest, if one has taken over.
    """
    claimed = fingerprint
    if fingerprint is None:
        fingerprint = expected_fingerprint(stage, run, config)
    if stages.done(run, stage, fingerprint):
        print(f"{stage} is done already")
        return
    if claimed is not None and claimed != (expected := expected_fingerprint(stage, run, config, claimed)):
        raise ValueError(
            f"fingerprint {claimed[:12]} does not belong to this configuration and the stages that are "
            f"done in {run} (expected {expected[:12]}): the configuration, the clips or an upstream stage has "
            "changed; run `arspm submit` again, or leave --fingerprint out"
        )
    with lease.hold(run, holder or lease.this_process(), interrupt=True, say=print) as held:
        if stages.done(run, stage, fingerprint):  # by another cluster, while we waited
            print(f"{stage} is done already")
            return
        upstream = stages.upstream(run, stage)
        reused.require_sizes(run, reused.built_on([stage]), shards=stage != "report")
        held.require()
        stages.begin(run, stage, fingerprint)
        started = time.monotonic()
        files, figures = work(config, run, fingerprint)
        seconds = time.monotonic() - started
        usage = None if requested is None else measured(requested, seconds)
        if stages.upstream(run, stage) != upstream:
            raise ValueError(
                "an upstream stage was run again meanwhile, so this result is outdated; run the stage again"
            )
        held.require()
        stages.commit(
            run,
            stage,
            fingerprint=fingerprint,
            config=config,
            files=files,
            seconds=seconds,
            figures=figures,
            invocation=invocation,
            usage=usage,
        )


def expected_fingerprint(stage: str, run: str, config: Config, claimed: str | None = None) -> str:
    """Return a stage's fingerprint, from the configuration and the manifests of its upstream stages.

    That of the first stage depends on its inputs. They are those of the run's inventory if it is fresh and belongs to
    the `claimed` fingerprint. Otherwise they are listed now and, unless another fingerprint is claimed, stored.

    Raises FileNotFoundError if an upstream stage, or an input of the first stage, is missing.
    """
    if not stages.STAGES[stage].needs:
        trees = inventory.read_inventory(run, config.data, claimed) if claimed else None
        inputs = inventory.find_inputs(config, trees)
        expected = stages.fingerprint(config, stage, inputs.hash)
        if trees is None and claimed in (None, expected):
            inventory.write_inventory(run, config.data, expected, inputs.trees)
        return expected
    upstream = {}
    for need in stages.STAGES[stage].needs:
        manifest = stages.success(run, need)
        if manifest is None:
            raise FileNotFoundError(f"{stages.folder(run, need)} has no {stages.SUCCESS}: run stage {need} first")
        upstream[need] = manifest.fingerprint
    return stages.fingerprint(config, stage, upstream)


@contextmanager
def _in_this_process() -> Iterator[None]:
    from arspm.distributed import local  # imports Ray, which `arspm report` need not wait for

    with local.in_process():
        yield
