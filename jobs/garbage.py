"""Files of a run that nothing needs any more: what `arspm gc` shows and removes.

Never among them: files that a finished stage's manifest lists, the corpus, the run's page, and the training state from
which a stopped stage resumes with one of the run's configurations. `arspm prune` removes earlier versions of a corpus.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from arspm import config as configuration
from arspm import storage
from arspm.config import TRAINED_STAGES, Config, ConfigError
from arspm.runs import lease, stages, sweeps
from jobs.submission import CONFIGS

_PROGRESS = "progress.json"  # arspm.training.checkpoint.PROGRESS: without it, a checkpoint is incomplete
_LIVE_PAGE = "index.html"  # in the folder of the stage report, until it is done; `stages.LIVE` are its other files
_TRAINING = re.compile(r"train-[0-9a-f]{12}\Z")  # of `stages.training_name`
_TEMPORARY = re.compile(r"(.*/)?\.(partial|empty|once|doctor)-[^/]*\Z")  # what a killed process did not remove
_MEMBER = re.compile(
    rf"(?:{sweeps.FOLDER}/[^/]+/)?{lease.FOLDER}/\d+-[0-9a-f]+\.json"
)  # it removes its file at its end

FINISHED_TRAINING = "training state of a finished stage"
ORPHANED_TRAINING = "training state that no configuration of this run resumes"
PARTIAL_CHECKPOINT = "incomplete checkpoint"
STOPPED_STAGE = "output of a stage that did not finish"
ENDED_TRIAL = "checkpoints of a trial that has ended"
FINISHED_SWEEP = "Ray Tune's state of a finished sweep"
TEMPORARY = "temporary file of a killed process"
EXPIRED_LEASE = "expired lease"


class Garbage(NamedTuple):
    """Files of one kind in a folder that nothing needs: path in the run -> bytes."""

    what: str
    folder: str
    files: dict[str, int]

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())


def held_by(run: str) -> str:
    """Return who holds the lease on a run, or on one of its sweeps, while they show signs of life; otherwise ""."""
    return lease.describe(run) if lease.last_sign(run)[0] else _live_sweep(run)


def _live_sweep(run: str) -> str:
    """Return the same for the run's sweeps, which have leases of their own."""
    folders = [sweeps.folder(run, name) for name in sweeps.names(run)]
    return next((lease.describe(folder) for folder in folders if lease.last_sign(folder)[0]), "")


def find_garbage(run: str) -> list[Garbage]:
    """Return what a run and its variants hold that nothing needs. Call it only while nobody works on the run."""
    files = storage.files_below(run)
    kept = _listed(run, files)
    configs = list(_configs(run, files))
    found: dict[tuple[str, str], dict[str, int]] = {}
    for owner, name, below in _stage_folders(files):
        where = storage.join(run, owner) if owner else run
        manifest = stages.success(where, name)
        resumable = _resumable(where, name, configs)
        for path, size in below.items():
            full = "/".join(part for part in (owner, name, path) if part)
            kind = _kind(manifest is not None, path, resumable, below)
            if kind and full not in kept:
                found.setdefault((kind, _folder_of(kind, full)), {})[full] = size
    for kind, folder, path, size in _others(run, files):
        if path not in kept:
            found.setdefault((kind, folder), {}).setdefault(path, size)
    return [Garbage(kind, folder, own) for (kind, folder), own in sorted(found.items())]


def remove(run: str, garbage: list[Garbage]) -> None:
    """Remove what `find_garbage` found, while this process holds the lease on the run.

    Raises LeaseHeld if somebody has begun to work on the run meanwhile, and ValueError if what is there has changed.
    """
    with lease.hold(run, lease.this_process(), say=print) as held:
        now = {path for each in find_garbage(run) for path in each.files}
        wanted = [path for each in garbage if each.what != EXPIRED_LEASE for path in each.files]
        if changed := [path for path in wanted if path not in now]:
            raise ValueError(f"{run}: {changed[0]} has changed meanwhile; nothing was removed, run arspm gc again")
        held.require()
        if alive := _live_sweep(run):
            raise lease.LeaseHeld(f"{run}: {alive}; nothing was removed")
        storage.remove_files(run, wanted)
    storage.remove_files(run, [path for each in garbage if each.what == EXPIRED_LEASE for path in each.files])
    if not storage.is_remote(run):
        for folder in {str(Path(run, path).parent) for path in wanted}:
            _remove_empty(Path(folder), Path(run))


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder that has become empty, and those above it, up to `top`."""
    with contextlib.suppress(OSError):  # not empty, or removed already
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _kind(finished: bool, path: str, resumable: set[str] | None, below: Mapping[str, int]) -> str:
    """Return why a file in a stage's folder is not needed, "" if it may be. resumable: None if that is not known."""
    top, _, rest = path.partition("/")
    if path in (stages.SUCCESS, _LIVE_PAGE) or top in stages.LIVE or _TEMPORARY.match(path):
        return ""
    if not _TRAINING.match(top) or not rest:
        return "" if finished else STOPPED_STAGE
    if finished:
        return FINISHED_TRAINING
    if resumable is None:
        return ""
    if top not in resumable:
        return ORPHANED_TRAINING
    checkpoint, _, file = rest.partition("/")
    is_partial = bool(file) and checkpoint.startswith("checkpoint_") and f"{top}/{checkpoint}/{_PROGRESS}" not in below
    return PARTIAL_CHECKPOINT if is_partial else ""


def _folder_of(kind: str, path: str) -> str:
    """Return the folder under which a file is shown: that of the training state as a whole, otherwise its own."""
    parts = path.split("/")
    state = next((number for number, part in enumerate(parts) if _TRAINING.match(part)), None)
    is_whole = state is not None and kind != PARTIAL_CHECKPOINT
    return "/".join(parts[: state + 1] if is_whole and state is not None else parts[:-1])


def _listed(run: str, files: Mapping[str, int]) -> set[str]:
    """Return the paths that manifests of finished stages list, the manifests included."""
    kept = set()
    for path in files:
        owner, _, name = path.rpartition(f"/{stages.SUCCESS}")[0].rpartition("/")
        if not path.endswith(f"/{stages.SUCCESS}") or name not in stages.STAGES:
            continue
        manifest = stages.success(storage.join(run, owner) if owner else run, name)
        kept.add(path)
        kept |= {f"{owner}/{file}" if owner else file for file in (manifest.files if manifest else ())}
    return kept


def _stage_folders(files: Mapping[str, int]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield the run or variant that a stage's folder is in, as a path in the run, the stage, and the files below."""
    folders: dict[tuple[str, str], dict[str, int]] = {}
    pattern = re.compile(rf"((?:{stages.VARIANTS}/[^/]+)?)/?({'|'.join(stages.STAGES)})/(.+)")
    for path, size in files.items():
        if match := pattern.fullmatch(path):
            folders.setdefault((match[1], match[2]), {})[match[3]] = size
    for (owner, name), below in folders.items():
        yield owner, name, below


def _configs(run: str, files: Mapping[str, int]) -> Iterator[Config]:
    for path in files:
        if path.startswith(f"{CONFIGS}/") and path.endswith(".json"):
            try:
                yield configuration.load(storage.read_bytes(storage.join(run, path)))
            except ConfigError:  # of a version with other fields, which this one cannot resume
                continue


def _resumable(run: str, stage: str, configs: list[Config]) -> set[str] | None:
    """Return the names of the training states that a submission could resume; None if that is not known."""
    upstream = {need: stages.success(run, need) for need in stages.STAGES[stage].needs}
    if stage not in TRAINED_STAGES or not configs or None in upstream.values():
        return None
    needs = {need: manifest.fingerprint for need, manifest in upstream.items() if manifest is not None}
    return {stages.training_name(run, stage, stages.fingerprint(config, stage, needs)) for config in configs}


def _others(run: str, files: Mapping[str, int]) -> Iterator[tuple[str, str, str, int]]:
    """Yield kind, folder, path and size of what is not in a stage's folder: of sweeps, leases and killed processes."""
    ended: dict[str, set[str]] = {}
    complete = set()
    for name in sweeps.names(run):
        folder = sweeps.folder(run, name)
        records = sweeps.read_records(folder).values()
        ended[name] = {sweeps.stem(record["number"]) for record in records if record["state"] in sweeps.ENDED}
        results = sweeps.read_results(folder)
        if results is not None and sweeps.is_done(results, sweeps.load(folder)):
            complete.add(name)
    for path, size in files.items():
        parts = path.split("/")
        if _TEMPORARY.match(path):
            yield TEMPORARY, path.rpartition("/")[0], path, size
        elif _MEMBER.fullmatch(path):
            yield EXPIRED_LEASE, path.rpartition("/")[0], path, size
        elif parts[0] == sweeps.FOLDER and len(parts) > 4 and parts[2] == sweeps.TRIALS:
            if "/".join(parts[2:4]) in ended.get(parts[1], ()):
                yield ENDED_TRIAL, "/".join(parts[:4]), path, size
        elif parts[0] == sweeps.FOLDER and len(parts) > 3 and parts[2] in ("tune", "train") and parts[1] in complete:
            yield FINISHED_SWEEP, "/".join(parts[:3]), path, size
