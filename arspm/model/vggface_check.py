"""Is a VGGFace with published weights the published network? What it makes of one image, against what it ought to."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, ValidationError
from torch import Tensor

from arspm.config import Positive, Section
from arspm.model.vggface import VGGFace

NUM_STATED = 16


class StatedActivations(Section):
    """What somebody saw the published network give for an image, in the framework that it was published for."""

    fc7: Annotated[list[float], Field(min_length=NUM_STATED, max_length=NUM_STATED)]  # its first units
    feature: Literal["pre_relu", "post_relu"] = "pre_relu"  # which side of fc7's ReLU they are from
    image: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f\x7f]{0,255}$")] = (
        ""  # a picture beside the file; empty: `check_image` at the network's size
    )
    tolerance: Positive = 0.01  # allowed difference, in parts of the largest stated number


def parse_stated(tree: Any, source: str) -> StatedActivations:
    """Stated activations from a JSON value. Raises ValueError: one line that names the source and every problem."""
    try:
        return StatedActivations.model_validate(tree)
    except ValidationError as error:
        told = [(".".join(map(str, each["loc"]))[:100], each["msg"]) for each in error.errors()[:5]]
        problems = "; ".join(f"{name if name.isprintable() else repr(name)}: {message}" for name, message in told)
        raise ValueError(f"{source}: not activations of VGGFace: {problems}") from None


def check_image(side: int) -> UInt8[Tensor, "side side 3"]:
    """A made-up RGB picture that looks different in every channel order, mirrored, and turned."""
    x, y = torch.arange(side), torch.arange(side)[:, None]
    red, green, blue = 5 * x + 2 * y, x * x // 16 + 3 * y, 255 - x - 7 * y
    return torch.stack([red, green, blue], dim=-1).remainder(256).byte()


@torch.no_grad()
def check(
    model: VGGFace, image: UInt8[Tensor, "height width 3"] | None = None, stated: StatedActivations | None = None
) -> dict[str, Any]:
    """The network's activations for an image, as figures, after a comparison with those that were stated.

    Agreement proves the channel order, the mean, the order of fc6's inputs and every layer up to fc7. fc8 is not
    compared. Without `stated` it is only proved that the network tells units apart and gives finite numbers.

    Args:
        image: RGB; by default `check_image` at the network's size.

    Raises:
        ValueError: activations that are not finite, all equal, or not those stated.
    """
    pixels = check_image(model.image_size) if image is None else image
    raw = _fc7(model, pixels)
    logits = model.identity_logits(raw[None])[0]
    if not (raw.isfinite().all() and logits.isfinite().all()):
        raise ValueError("these weights of VGGFace give activations that are not finite")
    if raw.std() == 0 or logits.std() == 0:
        raise ValueError("these weights of VGGFace give the same activation everywhere")
    if stated is not None:
        _compare(model, pixels, raw, stated)
    return {
        "fc7": raw[:NUM_STATED].tolist(),
        "fc7_mean": raw.mean().item(),
        "fc7_std": raw.std().item(),
        "fc8_top": int(logits.argmax()),
        "compared_with_stated": stated is not None,
    }


def _fc7(model: VGGFace, pixels: Tensor) -> Float[Tensor, " feature"]:
    return model.raw_features(pixels.permute(2, 0, 1)[None].float() / 255)[0]


def _compare(model: VGGFace, pixels: Tensor, raw: Tensor, stated: StatedActivations) -> None:
    difference = _difference(raw, stated)
    if difference <= stated.tolerance:
        return
    hint = "the file has another channel order, mean, order of fc6's inputs, or network than it was taken for"
    flipped = copy.deepcopy(model)
    flipped.load_state_dict({**model.state_dict(), "conv1_1.weight": model.state_dict()["conv1_1.weight"].flip(1)})
    if _difference(_fc7(flipped, pixels), stated) <= stated.tolerance:
        hint = "with conv1_1's channels the other way round they agree: set vggface.channel_order"
    raise ValueError(
        f"these weights of VGGFace do not give the stated activations: fc7 differs by {difference:.2g} of the largest, "
        f"and {stated.tolerance:g} are allowed; {hint}"
    )


def _difference(raw: Tensor, stated: StatedActivations) -> float:
    """Of the first units, in parts of the largest stated number."""
    expected = torch.tensor(stated.fc7)
    largest = expected.abs().max()
    if largest == 0:
        raise ValueError("the stated activations are all 0 and prove nothing: take those before the ReLU")
    found = raw[:NUM_STATED] if stated.feature == "pre_relu" else raw[:NUM_STATED].relu()
    if len(found) != NUM_STATED:
        raise ValueError(f"{NUM_STATED} activations are stated, but fc7 has {len(found)} units")
    return float((found - expected).abs().max() / largest)
