"""A user's face recognizer: an ONNX network that embeds faces, fed as its JSON file declares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from arspm.config import RecognizerInput
from arspm.corpus.schema import FACE_SIZE
from arspm.evaluation.onnx_faces import open_session, readable_errors
from arspm.media.alignment import ARCFACE, ARCFACE_SIDE, move_landmarks
from arspm.media.jpeg import decode_jpeg

_BATCH = 32  # pictures per batch, unless the model fixes its batch size


class Recognized(NamedTuple):
    """Unit embeddings of pictures, (rows, embedding), and scores of identities, (rows, identities) or None."""

    embeddings: np.ndarray
    logits: np.ndarray | None


class Recognizer:
    """An ONNX network that embeds faces, run by onnxruntime.

    Raises FileNotFoundError if the file is missing, and ValueError, in one line, if it is no ONNX model or its input
    and outputs are not the declared ones.
    """

    def __init__(self, path: str | os.PathLike[str], declared: RecognizerInput) -> None:
        self.path, self.declared = path, declared
        self.session = open_session(path)
        self.input, self.batch = self._input()
        outputs = [output.name for output in self.session.get_outputs()]
        if not declared.embedding and len(outputs) != 1:
            raise ValueError(
                f"{path}: several outputs ({', '.join(outputs)[:300]}); name the one with the embedding as `embedding`"
            )
        self.outputs = [declared.embedding or outputs[0], *([declared.logits] if declared.logits else [])]
        if unknown := [name for name in self.outputs if name not in outputs]:
            raise ValueError(f"{path}: no output {unknown[0]!r}; there are {', '.join(outputs)[:300]}")

    def __call__(self, jpegs: Sequence[bytes], landmarks: np.ndarray) -> Recognized:
        """Return the embeddings of square JPEGs, and their scores of identities if the network has them.

        landmarks: (rows, 5, 2), x and y in pixels of the JPEG at 224 x 224; used for the alignment "arcface" only.
        Raises ValueError for outputs of a wrong shape, and for an embedding that is zero or not finite.
        """
        parts: list[list[np.ndarray]] = [[] for _ in self.outputs]
        step = self.batch or _BATCH
        for start in range(0, len(jpegs), step):
            chunk = slice(start, start + step)
            pictures = [self._picture(*each) for each in zip(jpegs[chunk], landmarks[chunk], strict=True)]
            fed = np.stack([*pictures, *pictures[:1] * ((self.batch or 0) - len(pictures))])  # a fixed batch is padded
            with readable_errors(self.path):
                outputs = self.session.run(self.outputs, {self.input: fed})
            for part, name, values in zip(parts, self.outputs, outputs, strict=True):
                array = np.asarray(values)
                if array.ndim < 2 or len(array) != len(fed) or array[0].size < 2 or array.dtype.kind != "f":
                    raise ValueError(
                        f"{self.path}: output {name} must be numbers (batch, size), not {array.dtype} {array.shape}"
                    )
                part.append(array.reshape(len(array), -1)[: len(pictures)].astype(np.float64))
        embeddings, *logits = [np.concatenate(part) for part in parts]
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all() or not all(np.isfinite(each).all() for each in logits):
            raise ValueError(
                f"{self.path}: an output is zero or not finite for some face; check the declared mean, std"
            )
        return Recognized(embeddings / norms, logits[0] if logits else None)

    def _picture(self, jpeg: bytes, landmarks: np.ndarray) -> np.ndarray:
        """Return a JPEG as the network takes it, float32 (3, size, size) or (size, size, 3)."""
        declared, rgb = self.declared, decode_jpeg(jpeg, FACE_SIZE)
        if declared.alignment == "arcface":
            targets = np.array(ARCFACE) * declared.size / ARCFACE_SIDE
            rgb = move_landmarks(rgb, landmarks, targets, declared.size)
        else:
            left, top, right, bottom = (round(edge * FACE_SIZE) for edge in declared.box)
            rgb = rgb[top : max(bottom, top + 1), left : max(right, left + 1)]
            shrinks = declared.size < max(rgb.shape[:2])
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            rgb = cv2.resize(rgb, (declared.size, declared.size), interpolation=interpolation)
        ordered = rgb if declared.channels == "rgb" else rgb[..., ::-1]
        scaled = ((ordered - np.array(declared.mean)) / np.array(declared.std)).astype(np.float32)
        return scaled.transpose(2, 0, 1) if declared.layout == "nchw" else scaled

    def _input(self) -> tuple[str, int | None]:
        """Return the input's name and its batch size, None if dynamic."""
        inputs, size = self.session.get_inputs(), self.declared.size
        expected = (3, size, size) if self.declared.layout == "nchw" else (size, size, 3)
        kind, shape = (inputs[0].type, inputs[0].shape) if len(inputs) == 1 else ("", [])
        fixed = [side if isinstance(side, int) and side > 0 else None for side in shape]
        matches = len(fixed) == 4 and all(own in (side, None) for own, side in zip(fixed[1:], expected, strict=True))
        if kind != "tensor(float)" or not matches:
            actual = ", ".join(f"{each.type} {each.shape}" for each in inputs) or "none"
            raise ValueError(
                f"{self.path}: declared as one float32 tensor (batch, {expected}), but the input is {actual}"
            )
        return inputs[0].name, fixed[0]
