"""A corpus that another run made and that a run uses where it is, without a copy.

The run has its own `corpus/manifest.json`, which names the other corpus, and its own features and predictions. Its
manifest of preprocess has the other run's fingerprint, configuration and time, because nothing else made these clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from arspm import storage
from arspm.config import Config, ConfigError, Data, from_dict
from arspm.config.tree import Face
from arspm.corpus import schema, tables
from arspm.corpus.drops import DROPPED
from arspm.runs import inventory, reused, stages

FIGURE = "adopted"  # of the manifest of preprocess: the other run


class Adopted(NamedTuple):
    """The run that made a corpus, and the settings and fingerprint with which it did."""

    source: str
    data: Data
    face: Face
    oracle_speakers: str
    fingerprint: str


def read_adopted(run: str) -> Adopted | None:
    """Return whose corpus a run uses, None if it is its own."""
    done = stages.success(run, "preprocess")
    if done is None or FIGURE not in done.figures:
        return None
    config = from_dict(done.config)
    return Adopted(done.figures[FIGURE], config.data, config.face, config.oracle.speakers, done.fingerprint)


def inputs_of(config: Config, run: str) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """Return the listings of a run's inputs and the fingerprints of its stages; no listings for an adopted corpus.

    Raises as `inventory.find_inputs`, and ConfigError for settings with which the adopted corpus was not made.
    """
    adopted = read_adopted(run)
    if adopted is None:
        inputs = inventory.find_inputs(config)
        return inputs.trees, stages.fingerprints(config, inputs.hash)
    done = stages.success(run, "preprocess")
    assert done is not None
    if changes := stages.changed_settings(config, done.config, "preprocess"):
        raise ConfigError(
            f"{run} uses the corpus of {adopted.source}, which was made with other settings: {', '.join(changes[:3])}; "
            "leave them out, or use another --run for a corpus of its own"
        )
    inventory.check_settings(config)
    return {}, stages.fingerprints(config, "", {"preprocess": adopted.fingerprint})


def adopt(corpus: str, run: str) -> Adopted:
    """Let a run use a corpus that another run made, where it is. Writes two small files into the run.

    corpus: of a run with a finished preprocess stage, or that run itself. Every file is compared with the manifest of
    that stage: its size and SHA-256. Raises FileNotFoundError if there is none, and ValueError, in one line, if a file
    is not what the manifest lists, if the corpus has another schema, or if the run has a corpus already.
    """
    source = corpus.removesuffix(f"/{stages.CORPUS}")
    made = stages.success(source, "preprocess")
    if made is None:
        raise FileNotFoundError(f"{corpus}: not the corpus of a run whose stage preprocess is done")
    if FIGURE in made.figures:
        raise ValueError(f"{source}: its corpus is that of {made.figures[FIGURE]}; adopt that one")
    if stages.success(run, "preprocess") is not None or storage.entries(stages.corpus(run)):
        raise ValueError(f"{run} has a corpus already; use another --run")
    if stages.parent_run(source) != source or stages.parent_run(run) != run or source == run:
        raise ValueError(f"{run}: a run cannot adopt its own corpus, and a variant has that of its run")
    config = stages.finished_config(source, "preprocess")
    reused.require_sizes(source, ["preprocess"])
    reused.require_hashes(source, ["preprocess"], max_bytes=float("inf"))
    _require_schema(source, config)
    manifest = storage.read_json(storage.join(stages.corpus(source), tables.MANIFEST))
    manifest["source"] = stages.corpus(source)
    files = {}
    dropped = storage.join(stages.corpus(source), DROPPED)
    if storage.exists(dropped):
        path = f"{stages.CORPUS}/{DROPPED}"
        files[path] = storage.write_bytes(storage.join(run, path), storage.read_bytes(dropped))
    path = f"{stages.CORPUS}/{tables.MANIFEST}"
    files[path] = storage.write_json(storage.join(run, path), manifest)
    stages.commit(
        run,
        "preprocess",
        fingerprint=made.fingerprint,
        config=config,
        files=files,
        seconds=made.seconds,
        figures=made.figures | {FIGURE: source},
        usage=made.usage,
    )
    adopted = read_adopted(run)
    assert adopted is not None
    return adopted


def _require_schema(source: str, config: Config) -> None:
    """Raise ValueError if a corpus is not as this version of the code, and its own configuration, would write it."""
    corpus = stages.corpus(source)
    manifest: Mapping[str, object] = storage.read_json(storage.join(corpus, tables.MANIFEST))
    if manifest.get("storage") != config.data.storage:
        raise ValueError(f"{corpus}: made with data.storage={manifest.get('storage')}, not {config.data.storage}")
    speech = schema.SPECTROGRAM if config.data.storage == "spectrogram" else schema.WAVEFORM
    for name in schema.SPLITS:
        split = tables.open_split(corpus, name).only(0)
        found = tables.tensor_kinds(split, {"speech": (speech,)})[speech]
        wanted = schema.tensor_type(schema.speech_schema(speech).field(speech))
        if found != wanted:
            raise ValueError(f"{split.path('speech', 0)}: {speech} is {found}, not {wanted}: made by another version")
        tables.read_columns(split, "faces", schema.faces_schema().names)
