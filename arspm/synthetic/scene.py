"""What surrounds a drawn head: how it is held, the light, the clothes, the background and the camera's noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Pose", "Scene", "light_up", "photograph", "sample_pose", "sample_scene"]


@dataclass(frozen=True)
class Pose:
    """Where the head is and how it is turned."""

    x: float = 0.5  # of the face centre, as a share of the frame's width
    y: float = 0.5  # of the face centre, as a share of the frame's height
    scale: float = 0.29  # half the height of the head, as a share of the frame's height
    yaw: float = 0.0  # radians, to the right of the picture
    pitch: float = 0.0  # radians, downwards
    roll: float = 0.0  # radians, clockwise


@dataclass(frozen=True, eq=False)
class Scene:
    """What is around the head: light, clothes and a blurred background."""

    brightness: float = 1.0
    side_light: float = 0.0  # the right edge of the picture is this share brighter than its middle
    warmth: float = 0.0  # red gains and blue loses this share
    clothes: Sequence[float] = (70.0, 80.0, 105.0)
    background: NDArray[np.uint8] = field(  # (rows, columns, 3), enlarged smoothly to the frame
        default_factory=lambda: np.full((2, 2, 3), (150, 160, 165), np.uint8)
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """A near-frontal pose with the face about half of the frame."""
    return Pose(
        x=rng.uniform(0.44, 0.56),
        y=rng.uniform(0.46, 0.53),
        scale=rng.uniform(0.28, 0.31),
        yaw=rng.uniform(-0.16, 0.16),
        pitch=rng.uniform(-0.07, 0.07),
        roll=rng.uniform(-0.06, 0.06),
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Light, clothes and background, none of which has to do with the person."""
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


def light_up(image: NDArray[np.uint8], scene: Scene) -> NDArray[np.uint8]:
    """A picture painted in even white light, under the light of the scene."""
    full = 200
    white = full * scene.brightness * np.array([1 + scene.warmth, 1, 1 - scene.warmth])
    columns = (1 + scene.side_light * np.linspace(-1, 1, image.shape[1]))[:, None] * white
    light = np.broadcast_to(np.clip(columns, 0, 255).astype(np.uint8), image.shape)
    return np.asarray(cv2.multiply(image, np.ascontiguousarray(light), scale=1 / full), np.uint8)


def photograph(image: NDArray[np.uint8], noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture with a camera's noise, of standard deviation `noise` in grey levels.

    The noise is even, from raw bytes: normal numbers for every pixel would cost as much as the drawing.
    """
    grain = rng.integers(0, 256, image.shape[:2], np.uint8)
    step = noise * 12**0.5 / 256
    return np.asarray(cv2.addWeighted(image, 1.0, cv2.merge([grain] * 3), step, -127.5 * step), np.uint8)
