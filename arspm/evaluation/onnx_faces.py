"""A model of somebody's own that looks at faces, as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import onnxruntime

from arspm.corpus.schema import FACE_SIZE
from arspm.media.faces import decode_jpeg

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_BATCH = 32  # pictures at a time, where the model leaves that open


class OnnxFaces:
    """An ONNX model of faces, run by onnxruntime; on a GPU where onnxruntime can.

    Its one input is float32 (batch, 3, height, width), RGB in [0, 1]; a height or width that it leaves open is 224.
    `known`: the outputs that it may have, by name, and how many numbers a picture each of them is: (batch, numbers), or
    (batch,) for a single one.

    Raises FileNotFoundError without the file, and ValueError for a file that is no model or for another model.
    """

    def __init__(self, path: str | os.PathLike[str], known: Mapping[str, int]) -> None:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no ONNX model at {path}")
        self.path, self.known = path, known
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        usable = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
        with self._refusal_named():
            self.session = onnxruntime.InferenceSession(str(path), options, providers=usable)
        self.input, self.batch, self.size = self._input()
        self.outputs = [output.name for output in self.session.get_outputs()]
        if not self.outputs or set(self.outputs) - set(known):
            raise ValueError(f"{path}: the outputs must be among {', '.join(known)}, not {', '.join(self.outputs)}")

    def __call__(self, jpegs: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Each output's numbers for square JPEGs, (rows, numbers)."""
        found: dict[str, list[np.ndarray]] = {name: [np.empty((0, self.known[name]))] for name in self.outputs}
        step = self.batch or _BATCH
        for start in range(0, len(jpegs), step):
            here = jpegs[start : start + step]
            images = np.zeros((self.batch or len(here), 3, *self.size), np.float32)
            images[: len(here)] = [_image(jpeg, self.size) for jpeg in here]  # a fixed batch may stay part empty
            with self._refusal_named():
                answers = self.session.run(self.outputs, {self.input: images})
            for name, answer in zip(self.outputs, answers, strict=True):
                found[name].append(self._checked(name, np.asarray(answer), len(images))[: len(here)])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _input(self) -> tuple[str, int | None, tuple[int, int]]:
        """The input's name, its batch where that is fixed, and (height, width)."""
        inputs = self.session.get_inputs()
        kind, shape = (inputs[0].type, inputs[0].shape) if len(inputs) == 1 else ("", [])
        fixed = [side if isinstance(side, int) and side > 0 else None for side in shape]
        if kind != "tensor(float)" or len(fixed) != 4 or fixed[1] not in (3, None):
            told = ", ".join(f"{each.type} {each.shape}" for each in inputs) or "none"
            raise ValueError(f"{self.path}: the input must be one float32 tensor (batch, 3, height, width), not {told}")
        return inputs[0].name, fixed[0], (fixed[2] or FACE_SIZE, fixed[3] or FACE_SIZE)

    def _checked(self, name: str, values: np.ndarray, rows: int) -> np.ndarray:
        shapes = [(rows, self.known[name])] + ([(rows,)] if self.known[name] == 1 else [])
        if values.shape not in shapes or values.dtype.kind not in "fiu":
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{self.path}: output {name} must be numbers {wanted}, not {values.dtype} {values.shape}")
        return values.reshape(shapes[0])

    @contextmanager
    def _refusal_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's errors have no class in common
            why = (str(error).splitlines() or [type(error).__name__])[0][:500]
            told = why if why.isprintable() else repr(why)
            raise ValueError(f"{self.path} is no model that onnxruntime can run: {told}") from error


def _image(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """A square JPEG as float32 RGB in [0, 1], (3, height, width)."""
    image = decode_jpeg(jpeg, max(size))
    if size[0] != size[1]:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return image.transpose(2, 0, 1).astype(np.float32) / 255
