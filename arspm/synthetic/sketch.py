"""The canvas on which `face` draws: anti-aliased shapes on a rotated head.

Head coordinates: x points right, y points down, and the unit is half the head's height. The eyes are at y = 0, the
crown at -1, the chin at 1. The head is an ellipsoid, projected without perspective, so facial features move over it
as it rotates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from arspm.synthetic.scene import Pose

__all__ = ["FACE_CENTRE_Y", "NEUTRAL", "Colour", "Points", "Sketch", "ellipse", "mirrored", "shift_down", "smooth"]

FACE_CENTRE_Y = 0.2  # in head coordinates: between the eyes and the tip of the nose
NEUTRAL = 200  # value of a shadow layer that leaves the picture unchanged
_SHIFT = 4  # fractional bits of the coordinates passed to cv2

Points = NDArray[np.float64]  # (num_points, 2)
Colour = Sequence[float] | NDArray[np.float64]  # RGB, 0 to 255


class Sketch:
    """A picture in progress and two shadow layers of half its size, all with the same pose.

    In the drawing methods, `projection` is the keyword arguments of `to_pixels`.
    """

    def __init__(self, image: NDArray[np.uint8], pose: Pose, face_width: float) -> None:
        size = image.shape[0]
        self.image, self.pixels_per_unit = image, pose.scale * size
        half = (size // 2, size // 2, 3)
        self.soft_layer = np.full(half, NEUTRAL, np.uint8)
        self.fine_layer = np.full(half, NEUTRAL, np.uint8)
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        rolled = self.pixels_per_unit * (1 << _SHIFT) * np.array([[cos, sin], [-sin, cos]])
        turn = np.array([[np.cos(pose.yaw), 0.0], [0.0, np.cos(pose.pitch)]])
        self._rolled, self._turned = rolled, turn @ rolled
        self._depth = np.array([np.sin(pose.yaw), np.sin(pose.pitch)]) @ rolled
        self._offset = np.array([pose.x, pose.y]) * size * (1 << _SHIFT) - (0.0, FACE_CENTRE_Y) @ rolled
        self._ellipsoid = np.array([1 / face_width, 1 / 1.05])

    def to_pixels(self, points: Points, *, bulge: float = 0.0, flat: bool = False) -> NDArray[np.int32]:
        """Convert head coordinates to fixed-point pixels for cv2.

        bulge: height above the ellipsoid, in head units. flat: apply neither yaw nor pitch; for the body.
        """
        if flat:
            return np.rint(points @ self._rolled + self._offset).astype(np.int32)
        x, y = (points * self._ellipsoid).T
        depth = bulge + 0.8 * np.sqrt(np.maximum(1 - x * x - y * y, 0.0))
        pixels = points @ self._turned + depth[:, None] * self._depth + self._offset
        return np.rint(pixels).astype(np.int32)

    def fill(self, points: Points, colour: Colour, **projection: Any) -> None:
        """Paint a filled polygon."""
        cv2.fillPoly(self.image, [self.to_pixels(points, **projection)], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: Points, colour: Colour, width: float, **projection: Any) -> None:
        """Paint open strokes. points: (num_points, 2) or (num_strokes, num_points, 2). width: in head units."""
        thick = max(1, round(width * self.pixels_per_unit))
        pixels = self.to_pixels(points.reshape(-1, 2), **projection).reshape(-1, *points.shape[-2:])
        cv2.polylines(self.image, list(pixels), False, _rgb(colour), thick, cv2.LINE_AA, _SHIFT)

    def shade(self, points: Points, colour: Colour, **projection: Any) -> None:
        """Add a polygon with soft edges to the shadows: darker if `colour` is below `NEUTRAL`, otherwise lighter."""
        pixels = self.to_pixels(points, **projection) // 2
        cv2.fillPoly(self.soft_layer, [pixels], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def crease(self, points: Sequence[tuple[float, float]], depth: float, width: float) -> None:
        """Add a wrinkle along a smooth stroke to the shadows. depth: 0 to 1. width: in head units."""
        value = NEUTRAL * (1 - depth)
        thick = max(1, round(width * self.pixels_per_unit / 2))
        pixels = self.to_pixels(smooth(points, closed=False)) // 2
        colour = (value + 6, value, value - 2)
        cv2.polylines(self.fine_layer, [pixels], False, colour, thick, cv2.LINE_AA, _SHIFT)

    def apply_shadows(self) -> None:
        """Multiply the picture painted so far by the shadow layers. Call it once."""
        soft = cv2.GaussianBlur(self.soft_layer, (0, 0), 0.028 * self.pixels_per_unit)
        fine = cv2.GaussianBlur(self.fine_layer, (3, 3), 0.8)
        shadows = cv2.multiply(soft, fine, scale=1 / NEUTRAL)
        size = self.image.shape[0]
        shadows = cv2.resize(shadows, (size, size), interpolation=cv2.INTER_LINEAR)
        self.image = np.asarray(cv2.multiply(self.image, shadows, scale=1 / NEUTRAL), np.uint8)


def smooth(points: Points | Sequence[tuple[float, float]], *, closed: bool = True) -> Points:
    """Return a smooth curve through the control points, with five samples per span."""
    points = np.asarray(points, float)
    return _spline_basis(len(points), closed) @ points


@lru_cache(maxsize=64)
def _spline_basis(num_points: int, closed: bool, per_span: int = 5) -> Points:
    """Return the weights (samples, num_points) that turn control points into a Catmull-Rom spline through them."""
    t = np.arange(per_span) / per_span
    blend = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
    spans = num_points if closed else num_points - 1
    basis = np.zeros((spans * per_span + (not closed), num_points))
    for span in range(spans):
        for offset in range(4):
            point = span + offset - 1
            point = point % num_points if closed else min(max(point, 0), num_points - 1)
            basis[span * per_span : (span + 1) * per_span, point] += blend[offset]
    if not closed:
        basis[-1, -1] = 1.0
    return basis


def mirrored(right: Points | Sequence[tuple[float, float]]) -> Points:
    """Return a closed symmetric outline from its right half, top to bottom. Points on the axis are not doubled."""
    half = np.asarray(right, float)
    left = half[::-1] * (-1, 1)
    return np.concatenate([half, left[np.abs(left[:, 0]) > 1e-9]])


def shift_down(points: Points, distance: float) -> Points:
    """Return the points moved down by `distance`."""
    return points + np.array([0.0, distance])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """Return an ellipse of 20 points around (x, y)."""
    return _unit_circle(20) * (radius_x, radius_y) + (x, y)


@lru_cache(maxsize=1)
def _unit_circle(num_points: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return (float(red), float(green), float(blue))
