"""The drawing board under `drawn_face`: smooth shapes on a turned head, painted with anti-aliased edges.

Head coordinates: x to the right, y down, the unit is half the height of the head; eyes at y = 0, crown at -1,
chin at 1. The head is turned as an ellipsoid and projected without perspective, so features slide over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from arspm.synthetic.scene import Pose

__all__ = ["FACE_CENTRE_Y", "NEUTRAL", "Colour", "Points", "Sketch", "below", "ellipse", "mirrored", "smooth"]

FACE_CENTRE_Y = 0.2  # in head coordinates: between the eyes and the tip of the nose
NEUTRAL = 200  # a shadow layer leaves the picture as it is where it has this value
_SHIFT = 4  # fractional bits of cv2's polygon coordinates

Points = NDArray[np.float64]  # (num_points, 2)
Colour = Sequence[float] | NDArray[np.float64]  # RGB, 0 to 255


class Sketch:
    """A picture in progress and two half-size layers of shadow, all seen through one pose."""

    def __init__(self, image: NDArray[np.uint8], pose: Pose, face_width: float) -> None:
        size = image.shape[0]
        self.image, self.pixels_per_unit = image, pose.scale * size
        half = (size // 2, size // 2, 3)
        self.soft_layer = np.full(half, NEUTRAL, np.uint8)
        self.fine_layer = np.full(half, NEUTRAL, np.uint8)
        c, r = np.cos(pose.roll), np.sin(pose.roll)
        frame = self.pixels_per_unit * (1 << _SHIFT) * np.array([[c, r], [-r, c]])
        turn = np.array([[np.cos(pose.yaw), 0.0], [0.0, np.cos(pose.pitch)]])
        self._flat, self._turned = frame, turn @ frame
        self._depth = np.array([np.sin(pose.yaw), np.sin(pose.pitch)]) @ frame
        self._offset = np.array([pose.x, pose.y]) * size * (1 << _SHIFT) - (0.0, FACE_CENTRE_Y) @ frame
        self._ellipsoid = np.array([1 / face_width, 1 / 1.05])

    def place(self, points: Points, *, bulge: float = 0.0, flat: bool = False) -> NDArray[np.int32]:
        """Head coordinates to fixed-point pixels; `bulge` lifts off the head, `flat` is unturned (the body)."""
        if flat:
            return np.rint(points @ self._flat + self._offset).astype(np.int32)
        x, y = (points * self._ellipsoid).T
        depth = bulge + 0.8 * np.sqrt(np.maximum(1 - x * x - y * y, 0.0))
        placed = points @ self._turned + depth[:, None] * self._depth + self._offset
        return np.rint(placed).astype(np.int32)

    def fill(self, points: Points, colour: Colour, **where: Any) -> None:
        cv2.fillPoly(self.image, [self.place(points, **where)], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: Points, colour: Colour, width: float, **where: Any) -> None:
        """Open strokes, (num_points, 2) or (num_strokes, num_points, 2); `width` in head units."""
        thick = max(1, round(width * self.pixels_per_unit))
        pixels = self.place(points.reshape(-1, 2), **where).reshape(-1, *points.shape[-2:])
        cv2.polylines(self.image, list(pixels), False, _rgb(colour), thick, cv2.LINE_AA, _SHIFT)

    def shade(self, points: Points, colour: Colour, **where: Any) -> None:
        """A soft shadow (below `NEUTRAL`) or highlight (above it), seen after `develop`."""
        pixels = self.place(points, **where) // 2
        cv2.fillPoly(self.soft_layer, [pixels], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def crease(self, points: Sequence[tuple[float, float]], depth: float, width: float) -> None:
        """A wrinkle along a smooth stroke, `depth` from 0 to 1, seen after `develop`."""
        value = NEUTRAL * (1 - depth)
        thick = max(1, round(width * self.pixels_per_unit / 2))
        pixels = self.place(smooth(points, closed=False)) // 2
        colour = (value + 6, value, value - 2)
        cv2.polylines(self.fine_layer, [pixels], False, colour, thick, cv2.LINE_AA, _SHIFT)

    def develop(self) -> None:
        """Multiply the shadows over what is painted so far."""
        soft = cv2.GaussianBlur(self.soft_layer, (0, 0), 0.028 * self.pixels_per_unit)
        fine = cv2.GaussianBlur(self.fine_layer, (3, 3), 0.8)
        both = cv2.multiply(soft, fine, scale=1 / NEUTRAL)
        size = self.image.shape[0]
        both = cv2.resize(both, (size, size), interpolation=cv2.INTER_LINEAR)
        self.image = np.asarray(cv2.multiply(self.image, both, scale=1 / NEUTRAL), np.uint8)


def smooth(points: Points | Sequence[tuple[float, float]], *, closed: bool = True) -> Points:
    """A smooth curve through the control points, five samples a span."""
    points = np.asarray(points, float)
    return _spline_basis(len(points), closed) @ points


@lru_cache(maxsize=64)
def _spline_basis(num_points: int, closed: bool, per_span: int = 5) -> Points:
    """Catmull-Rom: the (samples, num_points) weights that turn control points into a curve through them."""
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
    """A closed symmetric outline from its right half, top to bottom; points on the axis are kept once."""
    half = np.asarray(right, float)
    left = half[::-1] * (-1, 1)
    return np.concatenate([half, left[np.abs(left[:, 0]) > 1e-9]])


def below(points: Points, distance: float) -> Points:
    return points + np.array([0.0, distance])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    return _unit_circle(20) * (radius_x, radius_y) + (x, y)


@lru_cache(maxsize=1)
def _unit_circle(num_points: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return (float(red), float(green), float(blue))
