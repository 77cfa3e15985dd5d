"""The declared input of a user's face recognizer: `FILE.onnx.json` beside `FILE.onnx` (docs/recognizers.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from arspm import storage
from arspm.config.fields import Positive, Section

Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Edge = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class RecognizerInput(Section):
    """What a recognizer is fed: (pixels - mean) / std of a square crop, pixels from 0 to 255."""

    size: Annotated[int, Field(ge=1, le=1024)]  # side of the input, in pixels
    channels: Literal["rgb", "bgr"]
    mean: Triple  # of each channel, in this order
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    alignment: Literal["arcface", "crop"]  # five landmarks at ArcFace's places, or `box` of the picture
    box: tuple[Edge, Edge, Edge, Edge] = (0, 0, 1, 1)  # crop: left, top, right and bottom, as fractions of the picture
    layout: Literal["nchw", "nhwc"] = "nchw"
    embedding: Name = ""  # output with the embedding; empty: the only output
    logits: Name = ""  # output with scores of identities, before the softmax, for the VGGFace Score; empty: none

    @model_validator(mode="after")
    def _check_box(self) -> RecognizerInput:
        left, top, right, bottom = self.box
        if left >= right or top >= bottom:
            raise ValueError("box: left must be less than right, and top less than bottom")
        return self


def read_recognizer_input(uri: str) -> RecognizerInput:
    """Return the declared input of the recognizer at a URI. Raises FileNotFoundError or ValueError, in one line."""
    sidecar = f"{storage.absolute(uri)}.json"
    if not storage.exists(sidecar):
        raise FileNotFoundError(
            f"{sidecar} is missing: it declares the size, channels, mean, std and alignment of the recognizer's input; "
            "see docs/recognizers.md"
        )
    return parse_recognizer_input(storage.read_json(sidecar), sidecar)


def parse_recognizer_input(tree: Any, source: str) -> RecognizerInput:
    """Return the declared input in a JSON value. Raises ValueError: one line with the source and the problems."""
    try:
        return RecognizerInput.model_validate(tree)
    except ValidationError as error:
        fields = [(".".join(map(str, each["loc"]))[:100], each["msg"]) for each in error.errors()[:5]]
        problems = "; ".join(
            f"{name if name.isprintable() else repr(name)}: {message}" if name else message for name, message in fields
        )
        raise ValueError(f"{source}: not the input of a recognizer: {problems}; see docs/recognizers.md") from None
