"""Check that a VGGFace with published weights is the published network, by its activations for one image."""

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
    """Reference activations: what the published network returns for an image in its original framework."""

    fc7: Annotated[list[float], Field(min_length=NUM_STATED, max_length=NUM_STATED)]  # the first units
    feature: Literal["pre_relu", "post_relu"] = "pre_relu"  # before or after fc7's ReLU
    image: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f\x7f]{0,255}$")] = (
        ""  # name of an image file in the same folder; empty: `check_image` at the network's size
    )
    tolerance: Positive = 0.01  # allowed difference, as a fraction of the largest stated activation


def parse_stated(tree: Any, source: str) -> StatedActivations:
    """Return the stated activations in a JSON value. Raises ValueError: one line with the source and the problems."""
    try:
        return StatedActivations.model_validate(tree)
    except ValidationError as error:
        fields = [(".".join(map(str, each["loc"]))[:100], each["msg"]) for each in error.errors()[:5]]
        problems = "; ".join(f"{name if name.isprintable() else repr(name)}: {message}" for name, message in fields)
        raise ValueError(f"{source}: not activations of VGGFace: {problems}") from None


def check_image(side: int) -> UInt8[Tensor, "side side 3"]:
    """Return a generated RGB image that changes under any channel order, mirroring or rotation."""
    x, y = torch.arange(side), torch.arange(side)[:, None]
    red, green, blue = 5 * x + 2 * y, x * x // 16 + 3 * y, 255 - x - 7 * y
    return torch.stack([red, green, blue], dim=-1).remainder(256).byte()


@torch.no_grad()
def check(
    model: VGGFace, image: UInt8[Tensor, "height width 3"] | None = None, stated: StatedActivations | None = None
) -> dict[str, Any]:
    """Return figures on the network's activations for an image, after comparing them with the stated ones.

    Agreement proves the channel order, the mean, the order of fc6's inputs and every layer up to fc7. fc8 is not
    compared. Without `stated`, the check only proves that the activations are finite and differ between units.

    Args:
        image: RGB; default: `check_image` at the network's size.
        stated: the activations to compare with.

    Raises:
        ValueError: activations that are not finite, are all equal, or differ from the stated ones.
    """
    pixels = check_image(model.image_size) if image is None else image
    raw = _fc7(model, pixels)
    logits = model.identity_logits(raw[None])[0]
    if not (raw.isfinite().all() and logits.isfinite().all()):
        raise ValueError("these VGGFace weights give activations that are not finite; use another file")
    if raw.std() == 0 or logits.std() == 0:
        raise ValueError("these VGGFace weights give the same activation in every unit; use another file")
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
    hint = "the file has another channel order, mean or order of fc6's inputs than its format, or another network"
    flipped = copy.deepcopy(model)
    flipped.load_state_dict({**model.state_dict(), "conv1_1.weight": model.state_dict()["conv1_1.weight"].flip(1)})
    if _difference(_fc7(flipped, pixels), stated) <= stated.tolerance:
        hint = "they agree if conv1_1's channels are reversed: set vggface.channel_order"
    raise ValueError(
        f"these VGGFace weights do not give the stated activations: fc7 differs by {difference:.2g} of the largest, "
        f"the tolerance is {stated.tolerance:g}; {hint}"
    )


def _difference(raw: Tensor, stated: StatedActivations) -> float:
    """Return the largest difference of the first units, as a fraction of the largest stated activation."""
    expected = torch.tensor(stated.fc7)
    largest = expected.abs().max()
    if largest == 0:
        raise ValueError("the stated activations are all 0, which proves nothing; state those before the ReLU")
    own = raw[:NUM_STATED] if stated.feature == "pre_relu" else raw[:NUM_STATED].relu()
    if len(own) != NUM_STATED:
        raise ValueError(f"{NUM_STATED} activations are stated, but fc7 has {len(own)} units")
    return float((own - expected).abs().max() / largest)
