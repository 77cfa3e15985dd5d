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
from arspm.training.columns import FACE, WEIGHT

TENSORS = (  # columns that `to_batch` reads, except for the clip ids
    schema.SPECTROGRAM,
    schema.WAVEFORM,
    FACE,
    schema.FACE_FEATURE,
    schema.GENDER,
    schema.IDENTITY,
    WEIGHT,
)

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

    columns: arrays, which may be read-only, Picked rows, or tensors that are already on the device. On the CPU, each
    array is copied once, by its conversion, so that the batch has its own memory.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    copy = device.type == "cpu"

    def tensor(name: str) -> Tensor | None:
        if name not in columns:
            return None
        value = columns[name]
        if isinstance(value, Tensor):
            return value
        host = host_tensor(value)
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)

    def converted(name: str, dtype: torch.dtype | None = None) -> Tensor | None:
        found = tensor(name)
        return None if found is None else found.to(dtype=dtype or found.dtype, copy=copy)

    def image(value: Tensor) -> Tensor:
        # In two passes where the layout changes: together they take half the time of a single strided one on a CPU.
        return value.to(torch.get_default_dtype(), copy=copy).contiguous(memory_format=memory_format)

    speech = tensor(schema.SPECTROGRAM)
    speech = None if speech is None else image(speech)
    if (waveform := tensor(schema.WAVEFORM)) is not None:
        speech = spectrogram(from_int16(waveform)).to(torch.get_default_dtype(), memory_format=memory_format)
    face = tensor(FACE)
    weight = converted(WEIGHT)
    return Batch(
        clip_ids=list(columns[schema.CLIP_ID]),
        weight=torch.ones(len(columns[schema.CLIP_ID]), device=device) if weight is None else weight,
        spectrogram=speech,
        face=None if face is None else image(face.permute(0, 3, 1, 2)).div_(255),
        face_feature=converted(schema.FACE_FEATURE, torch.get_default_dtype()),
        gender=converted(schema.GENDER),
        identity=converted(schema.IDENTITY),
    )


def host_tensor(values: Any) -> Tensor:
    """Return an array as a tensor over the same memory. Never write into it: the memory may be read-only.

    torch warns about read-only arrays, and stored arrays are read-only.
    """
    array = np.ascontiguousarray(values)
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_WithoutFlag(array)))


class _WithoutFlag:
    """The memory of a read-only array, for `np.asarray`, which keeps this object and so the array."""

    def __init__(self, array: np.ndarray):
        self._array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}
