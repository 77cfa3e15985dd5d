"""Portraits of the same validation speakers during training: after each epoch of a stage, and by each trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.media.jpeg import decode_jpeg, encode_jpeg
from arspm.model.face_decoder import FaceDecoder
from arspm.model.speech_portrait import FacePrior
from arspm.runs import stages
from arspm.training.batch import Batch, to_batch


def clips(
    config: Config,
    run: str,
    count: int,
    *,
    family: Literal["speech", "features"] = "speech",
    rows: np.ndarray | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the first clip of each of `count` validation speakers.

    First their speech or face features, as columns for `to_batch`; then the real faces, uint8 (clip, height, width, 3).
    `rows`: numbers of the validation rows to choose among (default: all).
    """
    split = tables.open_split(stages.corpus(run), "val")
    table = tables.read_columns(split, "faces", (schema.CLIP_ID, schema.VIDEO_ID, schema.IDENTITY))
    rows = np.arange(len(table)) if rows is None else rows
    _, first = np.unique(np.array(tables.speakers(table))[rows], return_index=True)
    speech = schema.WAVEFORM if config.data.storage == "waveform" else schema.SPECTROGRAM
    wanted = {family: (speech if family == "speech" else schema.FACE_FEATURE,), "faces": (schema.FACE_JPEG,)}
    columns = tables.read_rows(split, wanted, rows[np.sort(first)[:count]])
    faces = [decode_jpeg(jpeg, config.image_size) for jpeg in columns.pop(schema.FACE_JPEG).to_pylist()]
    return columns | {schema.CLIP_ID: columns[schema.CLIP_ID].to_pylist()}, np.stack(faces)


@torch.no_grad()
def from_speech(model: nn.Module, prior: FacePrior, decoder: FaceDecoder, columns: Mapping[str, Any]) -> np.ndarray:
    """Return portraits of clips as uint8 (clip, height, width, 3), drawn by an encoder on its device."""
    batch = _batch(model, columns)
    feature = model.eval()(batch.spectrogram, prior.to(batch.weight.device)(batch.spectrogram))
    return _pixels(decoder.to(feature.device).eval()(feature.float()))


@torch.no_grad()
def from_features(decoder: nn.Module, columns: Mapping[str, Any]) -> np.ndarray:
    """Return portraits of real faces' features as uint8 (clip, height, width, 3), drawn on the decoder's device."""
    return _pixels(decoder.eval()(_batch(decoder, columns).face_feature))


def strip(pictures: np.ndarray) -> bytes:
    """Return pictures side by side as one JPEG."""
    return encode_jpeg(np.concatenate(list(pictures), axis=1), 85)


def _batch(model: nn.Module, columns: Mapping[str, Any]) -> Batch:
    return to_batch(columns, next(model.parameters()).device)


def _pixels(portraits: Tensor) -> np.ndarray:
    return (portraits.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().cpu().numpy()
