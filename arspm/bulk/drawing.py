"""Draw the portraits of an item. The same function runs here and on Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from arspm.bulk.item_files import PIXELS, REASON, read, write
from arspm.bulk.recordings import Item
from arspm.corpus import schema
from arspm.media.audio import from_int16, spectrogram
from arspm.portrait import SpeechPortrait, to_pixels

_BATCH = 16  # recordings in a forward pass


def draw(model: SpeechPortrait, table: pa.Table) -> pa.Table:
    """Return the table of `read` with features and portraits in place of the speech."""
    columns = schema.columns_of(table)
    [kind] = columns.keys() & {schema.WAVEFORM, schema.SPECTROGRAM}
    speech, good = columns.pop(kind), np.flatnonzero([not reason for reason in columns[REASON].to_pylist()])
    side = model.network.decoder.output_size
    features = np.zeros((len(table), model.config.feature_dim), np.float32)
    pixels = np.zeros((len(table), side, side, 3), np.uint8)
    for rows in np.array_split(good, range(_BATCH, len(good), _BATCH)):
        if not len(rows):
            continue
        with torch.no_grad():
            feature = model.network.feature(_spectrogram(kind, speech[rows], model.device)).float()
        features[rows] = feature.cpu().numpy()
        pixels[rows] = to_pixels(model.portraits(feature))
    return schema.table_of({**columns, schema.SPEECH_FEATURE: features, PIXELS: pixels})


def draw_all(model: SpeechPortrait, items: Iterable[Item], out: str) -> Iterator[dict[str, Any]]:
    """Yield what `write` returns for each item, drawn in this process. The next item is read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque[tuple[Item, Future[pa.Table]]]()
        for item in items:
            waiting.append((item, pool.submit(read, model.config, item)))
            if len(waiting) == 2:
                item, table = waiting.popleft()
                yield write(out, item, draw(model, table.result()))
        for item, table in waiting:
            yield write(out, item, draw(model, table.result()))


def _spectrogram(kind: str, speech: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the encoder's input: (rows, 2, freq, frames). speech: spectrograms, or samples as int16 or floats."""
    values = torch.from_numpy(speech).to(device)
    if kind == schema.SPECTROGRAM:
        return values.float()
    return spectrogram(values if values.is_floating_point() else from_int16(values))
