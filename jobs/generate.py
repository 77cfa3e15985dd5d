"""Draw portraits of recordings, in this process or on a cluster. `python -m jobs.generate` is the job on a cluster."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shlex
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from arspm import SpeechPortrait, storage
from arspm.bulk import drawing, drawn, item_files, recordings
from arspm.corpus import schema
from arspm.runs.progress import print_progress
from cluster import chain, client, events
from cluster.graph import Stage
from jobs.stage import readable_end
from jobs.submission import PYTHON, source

STAGE = "generate"
SUMMARY, FAILURES = "generated.json", "failures.csv"
_OURS = (item_files.FEATURES, item_files.SHEET, FAILURES)  # of an earlier command


@dataclass(frozen=True)
class Options:
    """What to draw. `model`: the URI of a run or an exported model. `inputs`: see `recordings.find`."""

    model: str
    inputs: Sequence[str]
    out: str
    splits: Sequence[str] = schema.SPLITS


class Summary(BaseModel):
    """`generated.json`: how a command ended. `complete` is false while it runs, and after an interruption.

    model: `drawn.fingerprint` of the model that drew the folder's features. num_kept: portraits of these inputs that an
    earlier command drew.
    """

    id: str
    complete: bool
    model: str = ""
    num_drawn: int = 0
    num_kept: int = 0
    num_failed: int = 0


class Events(Protocol):
    """What is called while portraits are drawn."""

    def drawn(self, portrait: str) -> None:
        """Called with the URI of each portrait."""

    def failed(self, source: str, reason: str) -> None:
        """Called for each recording that cannot be drawn."""

    def noted(self, text: str) -> None:
        """Called with what is left out, and what an earlier command has drawn."""

    def advanced(self, done: int, total: int) -> None:
        """Called with the numbers of finished items and of all."""


def generate(options: Options, on: Events, *, device: str = "cpu", on_ray: bool = False) -> Summary:
    """Draw everything that can be drawn, and write portraits, features, a contact sheet and what failed.

    What the same model has drawn of the same recordings into this folder is kept.

    device: of this process; on Ray, `resources.infer` of the model's configuration decides. Raises ValueError or
    OSError, in one line and before anything is written, if the model cannot be loaded or the folder is not free.
    """
    model = SpeechPortrait.load(options.model, device=device)
    found = recordings.find(options.inputs, options.splits)
    ours = storage.join(options.out, item_files.FEATURES, "")
    found.tables = {table: name for table, name in found.tables.items() if not table.startswith(ours)}
    if found.left_out:
        kinds = ", ".join(f"{'' if kind == 'other' else '.'}{kind} {n:,}" for kind, n in found.left_out.most_common(5))
        on.noted(f"{found.left_out.total():,} files that are no recordings are left out: {kinds}")
    if found.num_repeated:
        on.noted(f"{found.num_repeated:,} recordings were given more than once, and are drawn once")
    summary = Summary(id=uuid.uuid4().hex, complete=False, model=drawn.fingerprint(model))
    earlier = _begin(options.out, summary, found, on)
    summary.num_kept = len(earlier.portraits)
    for portrait in earlier.portraits:
        on.drawn(storage.join(options.out, portrait))
    items = [*found.items(earlier.sources, earlier.next_part)]
    failures = [*found.failures]
    for failure in failures:
        on.failed(*failure)
    results: Iterable[dict[str, Any]]
    if on_ray:
        from arspm.distributed.bulk import draw_all

        results = draw_all(options.model, model.config, items, options.out)
    else:
        results = drawing.draw_all(model, items, options.out)
    first = [portrait.removesuffix(".png") for portrait in earlier.portraits[: item_files.SHEET_PORTRAITS]]
    for done, each in enumerate(results, 1):
        result = json.loads(each["result"])
        for name in result["names"]:
            on.drawn(storage.join(options.out, f"{name}.png"))
        for source_uri, reason in result["failures"]:
            on.failed(source_uri, reason)
            failures.append((source_uri, reason))
        summary.num_drawn += len(result["names"])
        first += result["names"][: item_files.SHEET_PORTRAITS - len(first)]
        on.advanced(done, len(items))
    if first:
        item_files.write_contact_sheet(options.out, first)
    if failures:
        _write_failures(options.out, failures)
    summary = summary.model_copy(update={"complete": True, "num_failed": len(failures)})
    storage.write_json(storage.join(options.out, SUMMARY), summary.model_dump())
    return summary


def generate_on(address: str, options: Options, on_event: Callable[[events.Event], None]) -> Summary | None:
    """Draw by a job on the cluster at `address`, and wait for it. Returns None after Ctrl-C or a failure."""
    command = shlex.join([*PYTHON, "jobs.generate", json.dumps(asdict(options))])
    before = last_summary(options.out)
    finished = before.id if before is not None and before.complete else ""  # otherwise its job may still be running
    jobs_client = client.connect(address)
    fingerprint = hashlib.sha256(command.encode()).hexdigest()

    def is_done(_: Stage) -> Summary | None:
        summary = last_summary(options.out)
        is_new = summary is not None and summary.complete and summary.id != finished
        return summary if is_new else None

    outcome = chain.run_chain(
        [Stage(STAGE, (), command)],
        runner=client.RayJobs(jobs_client, working_dir=source(), metadata={"generate": options.out}),
        is_done=is_done,
        fingerprint=lambda stage: fingerprint,
        prefix=f"arspm-{hashlib.sha256(options.out.encode()).hexdigest()[:8]}",
        capacity=lambda: client.capacity(jobs_client),
        on_event=on_event,
    )[STAGE]
    summary: Summary | None = outcome.done
    return summary


def last_summary(out: str) -> Summary | None:
    """Return how the last command into a folder ended; None if there was none."""
    try:
        return storage.read_model(storage.join(out, SUMMARY), Summary, "a summary of drawn portraits")
    except FileNotFoundError:
        return None


def read_failures(out: str) -> list[tuple[str, str]]:
    """Return the source and the reason of everything that the last command into a folder could not draw."""
    try:
        text = storage.read_bytes(storage.join(out, FAILURES)).decode()
    except FileNotFoundError:
        return []
    return [(row["source"], row["reason"]) for row in csv.DictReader(io.StringIO(text))]


def _begin(out: str, summary: Summary, found: recordings.Found, on: Events) -> drawn.Drawn:
    """Return what is kept of an earlier command, and remove the rest, except its portraits.

    Raises ValueError if the folder belongs to somebody else.
    """
    taken = [name for name in _OURS if storage.exists(storage.join(out, name))]
    before = last_summary(out)
    if taken and before is None:
        raise ValueError(f"{out}: its {', '.join(sorted(taken))} would be replaced; give another folder for --out")
    is_other_model = before is not None and before.model != summary.model
    for name in taken:
        if name != item_files.FEATURES or is_other_model:
            storage.remove(storage.join(out, name))
    storage.write_json(storage.join(out, SUMMARY), summary.model_dump())  # after another model's features are gone
    earlier = drawn.keep(out, found)
    if is_other_model and item_files.FEATURES in taken:
        on.noted(f"{out}: another model drew its portraits; all recordings are drawn again")
    if earlier.num_changed:
        on.noted(f"{earlier.num_changed:,} portraits are of recordings that have changed since; they are drawn again")
    if earlier.num_others:
        on.noted(f"{earlier.num_others:,} portraits are of other recordings; their features are removed")
    if earlier.portraits:
        on.noted(f"{len(earlier.portraits):,} portraits were drawn by an earlier command, and are kept")
    return earlier


def _write_failures(out: str, failures: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("source", "reason"), *failures])
    storage.write_bytes(storage.join(out, FAILURES), text.getvalue().encode("utf-8", "replace"))


class _Job:
    """Prints the progress that the command which submitted the job shows. The log also says what failed."""

    def drawn(self, portrait: str) -> None:
        pass

    def failed(self, source: str, reason: str) -> None:
        print(f"{source}: {reason}", flush=True)

    def noted(self, text: str) -> None:
        print(text, flush=True)

    def advanced(self, done: int, total: int) -> None:
        print_progress(done, total, "parts")


def main() -> None:
    """Draw portraits on the cluster that this process runs on."""
    parser = argparse.ArgumentParser(prog="python -m jobs.generate", description=main.__doc__)
    parser.add_argument("options", help="what to draw, as JSON")
    arguments = parser.parse_args()
    with readable_end(STAGE):
        generate(Options(**json.loads(arguments.options)), _Job(), on_ray=True)


if __name__ == "__main__":
    main()
