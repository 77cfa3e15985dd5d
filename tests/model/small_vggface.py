"""A small VGGFace, and its activations for the generated image."""

from __future__ import annotations

import torch

from arspm.model.vggface import VGGFace, load_published
from arspm.model.vggface_check import NUM_STATED, StatedActivations, check_image
from tests.model.published_files import State

SMALL = {"width": 1 / 16, "image_size": 64, "feature_dim": 24, "num_identities": 10}


def filled(state_dict: State, **changed) -> VGGFace:
    """Return a small VGGFace with these weights. `changed`: options that differ from SMALL."""
    return load_published(state_dict, VGGFace(**SMALL | changed)).eval()


def stated(model: VGGFace, **fields) -> StatedActivations:
    """Return the network's activations for the generated image, as stated activations."""
    with torch.no_grad():
        image = check_image(model.image_size).permute(2, 0, 1)[None] / 255
        return StatedActivations(fc7=model.raw_features(image)[0, :NUM_STATED].tolist(), **fields)
