"""What is read for an item, a few dozen recordings, and what is written: its portraits, features and the contact sheet.

Without torch: on GPUs, tasks that have none read and write.
"""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, PngImagePlugin

from arspm import storage
from arspm.bulk.recordings import Item, reason_of
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.media import clips
from arspm.media.waveforms import fit_length

LIMITS = "Average-looking portraits that correlate with a voice. They identify no one."
FEATURES, SHEET = "features", "contact-sheet.png"
NAME, REASON, PIXELS = "name", "reason", "pixels"  # columns
_THREADS = 4  # recordings that are read at a time: decoding releases the GIL, and reading from S3 waits
_MAX_NAME_BYTES = 200
SHEET_PORTRAITS = 100
_SHEET_COLUMNS, _SHEET_SIDE, _SHEET_LABEL, _SHEET_GAP = 10, 128, 16, 8  # the last three in pixels; label: a name


def read(config: Config, item: Item) -> pa.Table:
    """Return an item's recordings: name, source and its stamp, clip id, reason ("" if it can be drawn), and speech.

    The speech of a recording that cannot be read is zero. Raises StorageUnavailable if the store cannot be reached.
    """
    return _read_rows(item) if item["table"] else _read_recordings(config, item)


def write(out: str, item: Item, table: pa.Table) -> dict[str, Any]:
    """Write an item's portraits, then its part of the features. Return {"result": JSON of `names` and `failures`}."""
    columns = schema.columns_of(table)
    reasons, sources = columns[REASON].to_pylist(), columns[schema.SOURCE].to_pylist()
    names = columns[NAME].to_pylist()
    drawn = [row for row, reason in enumerate(reasons) if not reason]
    with ThreadPoolExecutor(_THREADS) as pool:
        uris = [storage.join(out, f"{names[row]}.png") for row in drawn]
        problems = pool.map(_write_png, uris, (columns[PIXELS][row] for row in drawn))
        for row, problem in zip(drawn, problems, strict=True):
            reasons[row] = problem
    good = [row for row in drawn if not reasons[row]]
    if good:
        copied = (schema.CLIP_ID, schema.SOURCE, schema.SOURCE_STAMP)
        kept = {name: columns[name].take(pa.array(good)) for name in copied}
        if item["table"] and len(good) < len(reasons):  # the next command draws all of a row group again, or nothing
            kept[schema.SOURCE_STAMP] = pa.array([""] * len(good))
        portraits = pa.array([f"{names[row]}.png" for row in good])
        rows = {**kept, schema.PORTRAIT: portraits, schema.SPEECH_FEATURE: columns[schema.SPEECH_FEATURE][good]}
        tables.write_table(storage.join(out, FEATURES, part_name(item["number"])), schema.table_of(rows), len(good))
    failures = [(source, reason) for source, reason in zip(sources, reasons, strict=True) if reason]
    return {"result": json.dumps({"names": [names[row] for row in good], "failures": failures})}


def part_name(number: int) -> str:
    """Return the name of a part of the features."""
    return f"part-{number:06d}.parquet"


def write_contact_sheet(out: str, names: Sequence[str]) -> None:
    """Write a picture of these portraits, a hundred at most, with their names, below the sentence on their limits."""
    num_columns = min(_SHEET_COLUMNS, max(4, len(names)))
    width, height = _SHEET_SIDE + _SHEET_GAP, _SHEET_SIDE + _SHEET_LABEL + _SHEET_GAP
    num_rows = -(-len(names) // num_columns)
    sheet = Image.new("RGB", (num_columns * width + _SHEET_GAP, num_rows * height + _SHEET_LABEL + _SHEET_GAP), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_SHEET_GAP, _SHEET_GAP // 2), LIMITS, fill="black")
    for number, name in enumerate(names):
        row, column = divmod(number, num_columns)
        left, top = column * width + _SHEET_GAP, row * height + _SHEET_LABEL + _SHEET_GAP
        with Image.open(io.BytesIO(storage.read_bytes(storage.join(out, f"{name}.png")))) as portrait:
            sheet.paste(portrait.resize((_SHEET_SIDE, _SHEET_SIDE)), (left, top))
        label = name if pen.textlength(name) <= _SHEET_SIDE else f"...{name[-17:]}"
        pen.text((left, top + _SHEET_SIDE + 2), label, fill="black")
    data = io.BytesIO()
    sheet.save(data, "PNG")
    storage.write_bytes(storage.join(out, SHEET), data.getvalue())


def _read_recordings(config: Config, item: Item) -> pa.Table:
    most_speech = config.data.seconds == "speech"

    def load(source: str) -> tuple[np.ndarray, str]:
        try:
            return fit_length(clips.load_speech(source, most_speech=most_speech), *schema.WAVEFORM_SHAPE), ""
        except (ValueError, OSError) as error:
            if isinstance(error, storage.StorageUnavailable):
                raise
            return np.zeros(schema.WAVEFORM_SHAPE, np.float32), reason_of(error, source)

    with ThreadPoolExecutor(_THREADS) as pool:
        waveforms, reasons = zip(*pool.map(load, item["sources"]), strict=True)
    columns = {NAME: item["names"], schema.SOURCE: item["sources"], schema.CLIP_ID: item["names"]}
    columns |= {schema.SOURCE_STAMP: item["stamps"]}
    return schema.table_of({**columns, REASON: list(reasons), schema.WAVEFORM: np.stack(waveforms)})


def _read_rows(item: Item) -> pa.Table:
    """Return a row group of a Parquet file with the speech of a corpus."""
    uri, [folder] = item["table"], item["names"]
    try:
        columns = schema.columns_of(tables.read_speech(uri, item["group"]))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        nothing = {NAME: [""], schema.SOURCE: [uri], schema.CLIP_ID: [""], schema.SOURCE_STAMP: [""]}
        nothing |= {REASON: [reason_of(error, uri)]}
        return schema.table_of({**nothing, schema.WAVEFORM: np.zeros((1, *schema.WAVEFORM_SHAPE), np.int16)})
    ids = columns[schema.CLIP_ID].to_pylist()
    reasons = [_problem(clip, is_repeated=clip in ids[:row]) for row, clip in enumerate(ids)]
    names = ["" if reason else storage.join(folder, clip) for clip, reason in zip(ids, reasons, strict=True)]
    about = {schema.SOURCE: [uri] * len(ids), schema.SOURCE_STAMP: item["stamps"] * len(ids)}
    return schema.table_of({NAME: names, **about, REASON: reasons, **columns})


def _problem(clip: str | None, *, is_repeated: bool) -> str:
    """Return why a clip id cannot be the name of a file, "" if it can."""
    parts = (clip or "").split("/")
    if not (clip and clip.isprintable() and len(clip.encode()) <= _MAX_NAME_BYTES) or {"", ".", ".."} & {*parts}:
        return f"clip id {clip!r:.100}: not usable as a file's name"
    return f"clip id {clip}: twice in a row group" if is_repeated else ""


def _write_png(uri: str, pixels: np.ndarray) -> str:
    """Write a portrait. Return why its name is not possible there, "" if it is."""
    data, about = io.BytesIO(), PngImagePlugin.PngInfo()
    about.add_text("Description", LIMITS)
    Image.fromarray(pixels).save(data, "PNG", pnginfo=about)
    try:
        storage.write_bytes(uri, data.getvalue())
    except (ValueError, OSError) as error:
        is_name = isinstance(error, (ValueError, NotADirectoryError, IsADirectoryError))
        if not is_name and getattr(error, "errno", None) != errno.ENAMETOOLONG:
            raise
        return f"the portrait cannot have its name: {reason_of(error, uri)}"
    return ""
