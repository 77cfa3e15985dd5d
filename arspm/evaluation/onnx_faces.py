"""Inference with a user's ONNX model of faces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import onnxruntime

from arspm.corpus.schema import FACE_SIZE
from arspm.media.jpeg import decode_jpeg

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_BATCH = 32  # pictures per batch, unless the model fixes its batch size


def open_session(path: str | os.PathLike[str]) -> onnxruntime.InferenceSession:
    """Return a model that is ready to run. Raises FileNotFoundError if it is missing, ValueError if it is no model."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no ONNX model at {path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    with readable_errors(path):
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


@contextmanager
def readable_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise onnxruntime's errors as ValueError, in one line that names the model."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:500]
        reason = reason if reason.isprintable() else repr(reason)
        raise ValueError(f"{path}: onnxruntime cannot run this model: {reason}") from error


class OnnxFaceModel:
    """An ONNX model of faces, run by onnxruntime, on a GPU if onnxruntime supports it.

    The model has one input, float32 (batch, 3, height, width), RGB in [0, 1]. A dynamic height or width is 224.
    `output_sizes`: the output names that the model may have, with the size of each: (batch, size), or (batch,) for
    size 1.

    Raises FileNotFoundError if the file is missing, and ValueError if it is not an ONNX model or has other inputs or
    outputs.
    """

    def __init__(self, path: str | os.PathLike[str], output_sizes: Mapping[str, int]) -> None:
        self.path, self.output_sizes = path, output_sizes
        self.session = open_session(path)
        self.input, self.batch, self.size = self._input()
        self.outputs = [output.name for output in self.session.get_outputs()]
        if not self.outputs or set(self.outputs) - set(output_sizes):
            expected = ", ".join(output_sizes)
            raise ValueError(f"{path}: the outputs must be among {expected}, not {', '.join(self.outputs)}")

    def __call__(self, jpegs: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Return each output for square JPEGs: name -> (rows, size)."""
        parts: dict[str, list[np.ndarray]] = {name: [np.empty((0, self.output_sizes[name]))] for name in self.outputs}
        step = self.batch or _BATCH
        for start in range(0, len(jpegs), step):
            chunk = jpegs[start : start + step]
            images = np.zeros((self.batch or len(chunk), 3, *self.size), np.float32)
            images[: len(chunk)] = [_image(jpeg, self.size) for jpeg in chunk]  # pads a model's fixed batch size
            with readable_errors(self.path):
                outputs = self.session.run(self.outputs, {self.input: images})
            for name, values in zip(self.outputs, outputs, strict=True):
                parts[name].append(self._checked(name, np.asarray(values), len(images))[: len(chunk)])
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _input(self) -> tuple[str, int | None, tuple[int, int]]:
        """Return the input's name, its batch size or None if dynamic, and (height, width)."""
        inputs = self.session.get_inputs()
        kind, shape = (inputs[0].type, inputs[0].shape) if len(inputs) == 1 else ("", [])
        fixed = [side if isinstance(side, int) and side > 0 else None for side in shape]
        if kind != "tensor(float)" or len(fixed) != 4 or fixed[1] not in (3, None):
            actual = ", ".join(f"{each.type} {each.shape}" for each in inputs) or "none"
            raise ValueError(
                f"{self.path}: the input must be one float32 tensor (batch, 3, height, width), not {actual}"
            )
        return inputs[0].name, fixed[0], (fixed[2] or FACE_SIZE, fixed[3] or FACE_SIZE)

    def _checked(self, name: str, values: np.ndarray, rows: int) -> np.ndarray:
        size = self.output_sizes[name]
        shapes = [(rows, size)] + ([(rows,)] if size == 1 else [])
        if values.shape not in shapes or values.dtype.kind not in "fiu":
            expected = " or ".join(map(str, shapes))
            actual = f"{values.dtype} {values.shape}"
            raise ValueError(f"{self.path}: output {name} must be numbers {expected}, not {actual}")
        return values.reshape(shapes[0])


def _image(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return a square JPEG as float32 RGB in [0, 1], (3, height, width)."""
    image = decode_jpeg(jpeg, max(size))
    if size[0] != size[1]:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return image.transpose(2, 0, 1).astype(np.float32) / 255
