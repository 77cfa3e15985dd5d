"""Portraits of many recordings on a Ray cluster: Ray Data's actors draw what its tasks read and write."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from arspm.bulk import drawing, item_files
from arspm.bulk.recordings import PER_ITEM, Item
from arspm.config import Config
from arspm.corpus import schema
from arspm.distributed import gpus
from arspm.distributed.local import map_tables_with_actors
from arspm.portrait import SpeechPortrait


class _Drawer:
    """An actor that draws an item's portraits. Its model is loaded at first use: Ray garbles a constructor's errors."""

    def __init__(self, model: str, num_gpus: float) -> None:
        self._uri, self._num_gpus = model, num_gpus

    @functools.cached_property
    def _model(self) -> SpeechPortrait:
        return SpeechPortrait.load(self._uri, device=gpus.device(self._num_gpus))

    def __call__(self, table: pa.Table) -> pa.Table:
        return drawing.draw(self._model, table)


def draw_all(model: str, config: Config, items: Sequence[Item], out: str) -> Iterator[dict[str, Any]]:
    """Yield what `item_files.write` returns for each item, in order. config: of the model, with `resources.infer`."""
    resources = config.resources
    if not items:
        return
    yield from map_tables_with_actors(
        _Drawer,
        (model, resources.infer.gpus),
        items,
        resources.infer,
        read=functools.partial(item_files.read, config),
        write=functools.partial(item_files.write, out),
        table_bytes=PER_ITEM * 4 * int(np.prod(schema.WAVEFORM_SHAPE)),
        helpers=resources.read if resources.infer.gpus else None,
    )
