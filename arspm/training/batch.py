"""A batch: the contract between the code that reads rows and the code that trains on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arspm.corpus import schema
from arspm.media.audio import from_int16, spectrogram

FACE = "face"  # column of decoded faces, uint8 (rows, height, width, 3)
ROW = "row"  # column of row numbers in the split
WEIGHT = "weight"  # column of `Batch.weight`

if TYPE_CHECKING:
    Absent: TypeAlias = Any  # not Optional: a task only uses the columns that its stage reads
else:
    Absent = None


@dataclass(frozen=True)
class Batch:
    """Rows of a corpus as tensors on a device. Columns that the stage does not read are None."""

    clip_ids: list[str]
    weight: Float[Tensor, " batch"]  # 0 for a repeated row that only fills the last step, otherwise 1
    spectrogram: Float[Tensor, "batch 2 freq time"] | Absent = None
    face: Float[Tensor, "batch 3 height width"] | Absent = None  # RGB in [0, 1]
    face_feature: Float[Tensor, "batch feature"] | Absent = None
    gender: Int[Tensor, " batch"] | Absent = None  # index in schema.GENDERS
    identity: Int[Tensor, " batch"] | Absent = None  # class index for training VGGFace


def to_batch(columns: Mapping[str, Any], device: torch.device, *, channels_last: bool = False) -> Batch:
    """Return the corpus's columns as a Batch on a device, in the networks' dtypes and layouts.

    A stored waveform is converted to its spectrogram on the device (reading N). `channels_last`: memory format of the
    spectrogram and the face. Without a WEIGHT column, every row has weight 1.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(name: str) -> Tensor | None:
        if name not in columns:
            return None
        if isinstance(columns[name], Tensor):  # already on the device
            return columns[name]
        host = torch.from_numpy(np.array(columns[name]))  # copied, because the stored arrays are read-only
        if device.type == "cuda":
            host = host.pin_memory()
        return host.to(device, non_blocking=True)

    speech = tensor(schema.SPECTROGRAM)
    if (waveform := tensor(schema.WAVEFORM)) is not None:
        speech = spectrogram(from_int16(waveform))
    face = tensor(FACE)
    feature = tensor(schema.FACE_FEATURE)
    weight = tensor(WEIGHT)
    return Batch(
        clip_ids=list(columns[schema.CLIP_ID]),
        weight=torch.ones(len(columns[schema.CLIP_ID]), device=device) if weight is None else weight,
        spectrogram=None if speech is None else speech.float().contiguous(memory_format=memory_format),
        face=None if face is None else (face.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=memory_format),
        face_feature=None if feature is None else feature.float(),
        gender=tensor(schema.GENDER),
        identity=tensor(schema.IDENTITY),
    )
