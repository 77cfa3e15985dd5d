"""Pose, light, clothes, background and camera noise of a synthetic speaker's picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Pose", "Scene", "add_camera_noise", "apply_light", "sample_pose", "sample_scene"]


@dataclass(frozen=True)
class Pose:
    """Position, size and rotation of the head."""

    x: float = 0.5  # of the face centre, as a fraction of the frame's width
    y: float = 0.5  # of the face centre, as a fraction of the frame's height
    scale: float = 0.29  # half the head's height, as a fraction of the frame's height
    yaw: float = 0.0  # radians, to the right of the picture
    pitch: float = 0.0  # radians, downwards
    roll: float = 0.0  # radians, clockwise


@dataclass(frozen=True, eq=False)
class Scene:
    """Light, clothes and blurred background of a picture."""

    brightness: float = 1.0  # factor on all grey levels
    side_light: float = 0.0  # relative increase in brightness from the middle to the right edge
    warmth: float = 0.0  # relative increase of red and decrease of blue
    clothes: Sequence[float] = (70.0, 80.0, 105.0)  # RGB
    background: NDArray[np.uint8] = field(  # (rows, columns, 3), upscaled to the frame
        default_factory=lambda: np.full((2, 2, 3), (150, 160, 165), np.uint8)
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """Return a random near-frontal pose. The head is a little more than half as high as the frame."""
    return Pose(
        x=rng.uniform(0.44, 0.56),
        y=rng.uniform(0.46, 0.53),
        scale=rng.uniform(0.28, 0.31),
        yaw=rng.uniform(-0.16, 0.16),
        pitch=rng.uniform(-0.07, 0.07),
        roll=rng.uniform(-0.06, 0.06),
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Return random light, clothes and background, independent of the speaker."""
    background = rng.uniform(100, 170) + rng.normal(0, 10, 3) + rng.normal(0, 12, (4, 4, 1))
    background = background + rng.normal(0, 5, (4, 4, 3))
    clothes = np.clip(rng.uniform(40, 190) + rng.normal(0, 32, 3), 20, 225)
    return Scene(
        brightness=rng.uniform(0.94, 1.06),
        side_light=rng.uniform(-0.10, 0.10),
        warmth=rng.uniform(-0.03, 0.03),
        clothes=clothes.tolist(),
        background=np.clip(background, 20, 235).astype(np.uint8),
    )


def apply_light(image: NDArray[np.uint8], scene: Scene) -> NDArray[np.uint8]:
    """Return a picture, painted under uniform white light, as it looks under the light of the scene."""
    full = 200  # below 255, so that a light brighter than 1 fits into a byte
    white = full * scene.brightness * np.array([1 + scene.warmth, 1, 1 - scene.warmth])
    columns = (1 + scene.side_light * np.linspace(-1, 1, image.shape[1]))[:, None] * white
    light = np.broadcast_to(np.clip(columns, 0, 255).astype(np.uint8), image.shape)
    return np.asarray(cv2.multiply(image, np.ascontiguousarray(light), scale=1 / full), np.uint8)


def add_camera_noise(image: NDArray[np.uint8], noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a picture with camera noise whose standard deviation is `noise` grey levels.

    The noise is uniformly distributed, from random bytes: normally distributed noise would take as long as drawing the
    face.
    """
    grain = rng.integers(0, 256, image.shape[:2], np.uint8)
    step = noise * 12**0.5 / 256
    return np.asarray(cv2.addWeighted(image, 1.0, cv2.merge([grain] * 3), step, -127.5 * step), np.uint8)
