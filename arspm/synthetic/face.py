"""Pictures of synthetic speakers: flat shapes multiplied by soft shadows, in any pose and light."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from arspm.synthetic.people import HAIR_COLOURS, Speaker
from arspm.synthetic.scene import Pose, Scene, add_camera_noise, apply_light
from arspm.synthetic.sketch import NEUTRAL, Colour, Points, Sketch, ellipse, mirrored, shift_down, smooth

__all__ = ["draw_face"]

_LIGHT_SKIN, _DARK_SKIN = np.array((236.0, 196.0, 172.0)), np.array((190.0, 144.0, 116.0))
_GREY_HAIR = np.array((208.0, 208.0, 210.0))
_LIP_RED = np.array((188.0, 66.0, 74.0))
_LONG_HAIR = 0.25  # longer hair covers the ears and falls beside the face
_DARK_STRAND = 0.82  # factor on the hair colour
_EYE_X = 0.44  # distance of an eye from the centre line, as a fraction of the face width


def draw_face(
    speaker: Speaker,
    *,
    size: int = 256,
    pose: Pose | None = None,
    scene: Scene | None = None,
    mouth: float = 0.0,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.uint8]:
    """Draw the speaker and return the picture, (size, size, 3) RGB.

    mouth: from 0 (closed) to 1 (open). noise: standard deviation of the camera noise in grey levels. rng: used for the
    noise only. The same arguments give the same picture. Raises `ValueError` for a size below 32, a mouth outside 0..1
    or noise without `rng`.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    if not 0.0 <= mouth <= 1.0:
        raise ValueError(f"mouth must be in 0..1, got {mouth}")
    if noise > 0 and rng is None:
        raise ValueError("camera noise requires rng; pass a numpy Generator or set noise to 0")
    scene = scene or Scene()
    background = cv2.resize(scene.background, (size, size), interpolation=cv2.INTER_CUBIC)
    sketch = Sketch(np.asarray(background, np.uint8), pose or Pose(), speaker.face_width)
    skin, hair = _skin(speaker), _hair_tone(speaker)
    outline = _outline(speaker)
    _draw_body(sketch, speaker, skin, hair, scene.clothes)
    _draw_head(sketch, speaker, skin, outline)
    _draw_eyes(sketch, speaker, skin)
    _draw_nose(sketch, speaker, skin)
    _draw_mouth(sketch, speaker, skin, mouth)
    _shade_volumes(sketch, speaker, outline)
    _shade_body_size(sketch, speaker)
    if speaker.beard_shadow > 0:
        _shade_beard(sketch, speaker, outline)
    if speaker.wrinkles > 0.05:
        _shade_wrinkles(sketch, speaker)
    sketch.apply_shadows()
    _draw_brows(sketch, speaker, hair)
    _draw_scalp_hair(sketch, speaker, hair)
    if speaker.hair_length > _LONG_HAIR:
        _draw_long_hair(sketch, speaker, hair)
    if speaker.glasses:
        _draw_glasses(sketch, speaker)
    image = apply_light(sketch.image, scene)
    return add_camera_noise(image, noise, rng) if rng is not None and noise > 0 else image


def _skin(s: Speaker) -> NDArray[np.float64]:
    skin = _LIGHT_SKIN + s.skin_tone * (_DARK_SKIN - _LIGHT_SKIN)
    skin = skin * (0.91 if s.sex == "male" else 1.0)
    return skin + 0.3 * s.wrinkles * (skin.mean() - skin)  # skin loses saturation with age


def _hair_tone(s: Speaker) -> NDArray[np.float64]:
    tone = np.array(HAIR_COLOURS[s.hair_colour], float)
    return tone + s.greyness * (_GREY_HAIR - tone)


def _outline(s: Speaker) -> Points:
    """Return the control points of the face's outline, from the crown down the right side and up the left side."""
    fw, jaw, chin = s.face_width, s.face_width * s.jaw_width, 1.0 + s.chin_length
    upper = [(0.0, -1.0), (0.56 * fw, -0.91), (0.90 * fw, -0.58), (fw, -0.12), (0.97 * fw, 0.22)]
    lower = [(0.10 * fw + 0.88 * jaw, 0.58), (0.70 * jaw, 0.84), (0.34 * jaw, 0.98 * chin), (0.0, chin)]
    return mirrored(upper + lower)


def _draw_body(sketch: Sketch, s: Speaker, skin: Colour, hair: NDArray[np.float64], clothes: Colour) -> None:
    wide, nw = 1.18 + 0.20 * (s.sex == "male") + 0.12 * s.body_size, s.neck_width
    shoulders = [(0.25, 1.10), (nw + 0.12, 1.28), (0.86 * wide, 1.48), (wide, 1.95), (wide, 4.0)]
    sketch.fill(smooth(mirrored(shoulders)), clothes, flat=True)
    if s.hair_length > _LONG_HAIR:
        low, side = 0.25 + 1.25 * s.hair_length, s.face_width * 1.20
        top = [(0, -1.1), (0.8 * side, -0.9), (1.02 * side, -0.2)]
        ends = [(side, 0.5 * low), (0.95 * side, low), (0.5 * side, low + 0.10), (0, low)]
        sketch.fill(smooth(mirrored(top + ends)), 0.72 * hair)
    neck = [(0.8 * nw, 0.4), (nw, 0.8), (nw, 1.15), (1.12 * nw, 1.32), (0.5 * nw, 1.52), (0, 1.58)]
    sketch.fill(smooth(mirrored(neck)), 0.84 * np.asarray(skin), flat=True)


def _draw_head(sketch: Sketch, s: Speaker, skin: NDArray[np.float64], outline: Points) -> None:
    if s.hair_length <= _LONG_HAIR:
        for side in (-s.face_width, s.face_width):
            sketch.fill(ellipse(side, 0.10, 0.10, 0.21), 0.90 * skin)
            sketch.fill(ellipse(1.02 * side, 0.10, 0.05, 0.13), 0.74 * skin)
    sketch.fill(smooth(outline), skin)


def _draw_eyes(sketch: Sketch, s: Speaker, skin: NDArray[np.float64]) -> None:
    wide, high = 0.155 * (0.7 + 0.3 * s.eye_size), 0.085 * s.eye_size
    droop = 0.030 * s.wrinkles  # how far the outer corners of the eyes are lowered
    for side in (-1, 1):
        x, w = side * _EYE_X * s.face_width, side * wide  # w points to the temple
        inner, outer = (x - w, 0.012), (x + w, droop - 0.010)
        over = [inner, (x - 0.4 * w, -0.9 * high), (x + 0.45 * w, droop - high), outer]
        under = [outer, (x + 0.4 * w, 0.72 * high), (x - 0.4 * w, 0.75 * high), inner]
        upper, lower = smooth(over, closed=False), smooth(under, closed=False)
        sketch.fill(np.concatenate([upper, lower]), (246, 243, 238))
        sketch.fill(ellipse(x, -0.012, 0.072, 0.072), (74, 56, 44))
        sketch.fill(ellipse(x, -0.012, 0.036, 0.036), (14, 12, 14))
        sketch.fill(ellipse(x + 0.022, -0.036, 0.015, 0.015), (250, 250, 250))
        # Draw the lids after the iris, to cover the parts of it outside the eye.
        sketch.fill(np.concatenate([upper, shift_down(upper[::-1], -high)]), 0.93 * skin)
        sketch.fill(np.concatenate([lower, shift_down(lower[::-1], 0.07)]), skin)
        sketch.line(upper, (40, 28, 26), 0.018 + 0.022 * s.lip_redness)  # lipstick and mascara go together
        sketch.line(shift_down(upper, -0.055), 0.70 * skin, 0.012)
        sketch.line(lower, 0.66 * skin, 0.010)


def _draw_nose(sketch: Sketch, s: Speaker, skin: NDArray[np.float64]) -> None:
    w, tip = s.nose_width, 0.36 + 0.10 * (s.nose_width - 0.14)
    for side in (-w, w):
        top, bottom = [(0.80 * side, tip - 0.12), (1.06 * side, tip - 0.05)], [(side, tip + 0.03)]
        wing = [*top, *bottom, (0.72 * side, tip + 0.045)]
        sketch.line(smooth(wing, closed=False), 0.62 * skin, 0.018, bulge=0.10)
        sketch.fill(ellipse(0.48 * side, tip + 0.03, 0.30 * w, 0.16 * w), 0.32 * skin, bulge=0.12)


def _draw_mouth(sketch: Sketch, s: Speaker, skin: NDArray[np.float64], opening: float) -> None:
    y, full, gap = 0.625, s.lip_fullness, 0.17 * opening
    wide = 0.25 + 0.03 * (s.sex == "male") - 0.02 * opening
    lip = 0.80 * skin * (1.0, 0.90, 0.90) * (1 - s.lip_redness) + _LIP_RED * s.lip_redness
    left, right = (-wide, y - 0.012), (wide, y - 0.012)

    def between(*middle: tuple[float, float]) -> Points:
        return smooth([left, *middle, right], closed=False)

    bow, drop = y - 0.85 * full, y + 0.95 * full + 1.15 * gap
    upper = between((-0.35 * wide, bow), (0.0, y - 0.65 * full), (0.35 * wide, bow))
    lower = between((-0.4 * wide, drop), (0.0, drop + 0.2 * full + 0.1 * gap), (0.4 * wide, drop))
    mouth_top, mouth_bottom = between((0.0, y - 0.3 * gap)), between((0.0, y + 1.25 * gap))
    sketch.fill(np.concatenate([upper, lower[::-1]]), lip)
    sketch.fill(np.concatenate([upper, mouth_top[::-1]]), 0.86 * lip)
    if gap > 0.02:
        sketch.fill(np.concatenate([mouth_top, mouth_bottom[::-1]]), (58, 20, 22))
        teeth = 0.5 * (mouth_top + np.minimum(shift_down(mouth_top, 0.05), mouth_bottom))[3:-3]
        sketch.line(teeth, (232, 228, 220), min(0.04, 0.5 * gap))
    else:
        sketch.line(mouth_top, 0.45 * lip, 0.016)


def _shade_volumes(sketch: Sketch, s: Speaker, outline: Points) -> None:
    edge, fw, w, wrinkles = smooth(outline), s.face_width, s.nose_width, s.wrinkles
    sketch.shade(edge * 1.10, (164, 146, 140))
    sketch.shade(shift_down(edge * (0.84, 0.86), -0.03), (208, 206, 204))
    for side in (-1, 1):
        eye_x = side * _EYE_X * fw
        sketch.shade(ellipse(eye_x, -0.07, 0.21, 0.13), (162, 148, 146))
        bag = np.array((190.0, 182.0, 184.0)) - 45 * wrinkles
        sketch.shade(ellipse(eye_x, 0.15, 0.17, 0.045 + 0.03 * wrinkles), bag)
        sketch.shade(ellipse(side * 0.9 * w, 0.18, 0.05, 0.20), (178, 166, 160), bulge=0.05)
        sketch.shade(ellipse(side * 0.60 * fw, 0.30, 0.17, 0.12), (226, 196 + 12 * wrinkles, 192 + 14 * wrinkles))
    sketch.shade(ellipse(0, 0.14, 0.35 * w, 0.26), (226, 224, 222), bulge=0.1)
    sketch.shade(ellipse(0, 0.46, 0.8 * w, 0.05), (165, 150, 146), bulge=0.05)
    sketch.shade(ellipse(0, 0.80, 0.16, 0.045), (172, 158, 154))


def _shade_body_size(sketch: Sketch, s: Speaker) -> None:
    """Shade hollow cheeks for a small body size, and full, red cheeks and a double chin for a large one."""
    stout = np.clip(0.5 + 0.25 * s.body_size, 0.0, 1.0)
    hollow, flush = np.array((128.0, 112.0, 106.0)), np.array((234.0, 170.0, 164.0))
    for side in (-1, 1):
        sketch.shade(ellipse(side * 0.60 * s.face_width, 0.50, 0.12, 0.21), NEUTRAL + (1 - stout) * (hollow - NEUTRAL))
        sketch.shade(ellipse(side * 0.60 * s.face_width, 0.32, 0.24, 0.22), NEUTRAL + stout * (flush - NEUTRAL))
    chin, reach = 1.05 + s.chin_length, 0.55 * s.neck_width
    sketch.crease([(-reach, chin), (0.0, chin + 0.08), (reach, chin)], 0.6 * stout, 0.04)


def _shade_beard(sketch: Sketch, s: Speaker, outline: Points) -> None:
    grey = np.array((112.0, 114.0, 122.0)) + 60 * s.greyness
    tone = NEUTRAL + s.beard_shadow * (grey - NEUTRAL)
    cheek = np.array([(0.0, 0.50), (0.30, 0.51), (0.55 * s.face_width, 0.60)])
    sketch.shade(mirrored(np.concatenate([cheek, outline[4:9]])), tone)
    sketch.shade(ellipse(0, 0.655, 0.20, 0.05), (200, 190, 188))


def _shade_wrinkles(sketch: Sketch, s: Speaker) -> None:
    fw, w, wrinkles = s.face_width, s.nose_width, s.wrinkles
    for side in (-1, 1):
        sketch.crease([(side * 1.10 * w, 0.36), (side * 0.29, 0.48), (side * 0.34, 0.64)], 0.40 * wrinkles, 0.03)
        sketch.crease([(side * 0.31, 0.71), (side * 0.33, 0.86)], 0.32 * wrinkles, 0.03)
        bag = [(side * 0.26 * fw, 0.15), (side * 0.46 * fw, 0.20), (side * 0.62 * fw, 0.14)]
        sketch.crease(bag, 0.40 * wrinkles, 0.03)
        for rise in (-0.06, 0.0, 0.06):
            sketch.crease([(side * 0.72 * fw, rise), (side * 0.87 * fw, 1.8 * rise)], 0.36 * wrinkles, 0.02)
        sketch.crease([(side * 0.04, -0.30), (side * 0.05, -0.16)], 0.40 * wrinkles, 0.02)
    for y in (-0.40, -0.50, -0.60):
        sketch.crease([(-0.55 * fw, y + 0.02), (0, y - 0.02), (0.55 * fw, y + 0.02)], 0.38 * wrinkles, 0.03)


def _draw_brows(sketch: Sketch, s: Speaker, hair: NDArray[np.float64]) -> None:
    y, thick = -s.brow_height, s.brow_thickness
    arch = y - (0.05 if s.sex == "female" else 0.015)
    for x in (-s.face_width, s.face_width):
        tip = (0.76 * x, y + 0.05)
        over = [(0.17 * x, y + 0.03 - 0.35 * thick), (0.45 * x, arch - 0.6 * thick), tip]
        under = [tip, (0.45 * x, arch + 0.5 * thick), (0.16 * x, y + 0.03 + 0.6 * thick)]
        brow = np.concatenate([smooth(over, closed=False), smooth(under, closed=False)])
        sketch.fill(brow, 0.80 * hair)


def _draw_scalp_hair(sketch: Sketch, s: Speaker, hair: NDArray[np.float64]) -> None:
    """Draw the hair between the silhouette and the hairline. With strong recession, draw it at the sides only."""
    fw, recession = s.face_width, s.hair_recession
    side, thick = fw * (1.11 if s.hair_length > _LONG_HAIR else 1.07), 0.14 * (1 - recession)
    if recession > 0.65:
        high = -0.34 - 0.5 * (1 - recession)
        patch = [(0.97 * fw, 0.06), (1.05 * fw, 0.0), (1.08 * fw, -0.22), (0.99 * fw, high - 0.10)]
        patch += [(0.88 * fw, high), (0.90 * fw, -0.20)]
        for sign in (-1, 1):
            sketch.fill(smooth(np.array(patch) * (sign, 1)), hair)
        return
    right = [(0.70 * side, -0.90 - 0.85 * thick), (1.04 * side, -0.45), (side, -0.05)]
    silhouette = smooth([(-x, y) for x, y in right[::-1]] + [(0.0, -1.02 - thick), *right], closed=False)
    middle = -0.64 + (0.17 * (1 - recession) if s.hair_style == "fringe" else 0.0)
    part = {"left parting": -0.32, "right parting": 0.32}.get(s.hair_style, 0.0)
    lift = 0.12 * (1 - recession) if part else 0.0
    crown, temple_x = middle - recession * (1.0 + middle), (0.74 + 0.12 * recession) * fw
    temple = (temple_x, -0.46 - 0.52 * min(1.0, 1.4 * recession))
    sideburn = [(0.99 * fw, -0.02), (0.90 * fw, -0.34), temple]
    top = [
        (0.42 * fw, crown + lift * (part < 0)),
        (part * fw, crown - lift),
        (-0.42 * fw, crown + lift * (part > 0)),
    ]
    hairline = smooth(sideburn + top + [(-x, y) for x, y in sideburn[::-1]], closed=False)
    sketch.fill(np.concatenate([silhouette, hairline]), hair)
    starts = silhouette[np.linspace(2, len(silhouette) - 3, 15).round().astype(int)]
    ends = hairline[::-1][np.linspace(2, len(hairline) - 3, 15).round().astype(int)]
    strands = np.stack([0.85 * starts + 0.15 * ends, 0.5 * (starts + ends), 0.1 * starts + 0.9 * ends], 1)
    sketch.line(strands[::2], _DARK_STRAND * hair, 0.02)
    sketch.line(strands[1::2], _light_strand(hair), 0.02)


def _draw_long_hair(sketch: Sketch, s: Speaker, hair: NDArray[np.float64]) -> None:
    """Draw long hair beside the face, in front of the ears."""
    fw, low = s.face_width, 0.25 + 1.22 * s.hair_length
    outside = [(0.88 * fw, -0.50), (1.12 * fw, -0.40), (1.20 * fw, 0.40 * low), (1.16 * fw, low)]
    inside = [(0.98 * fw, low - 0.04), (0.93 * fw, 0.5 * low), (0.92 * fw, -0.05)]
    for sign in (-1, 1):
        sketch.fill(smooth(np.array(outside + inside) * (sign, 1)), hair)
        for x, tone in ((1.02 * fw, _DARK_STRAND * hair), (1.10 * fw, _light_strand(hair))):
            strand = np.array([(x, -0.35), (1.01 * x, 0.4 * low), (x, low - 0.1)]) * (sign, 1)
            sketch.line(smooth(strand, closed=False), tone, 0.02)


def _light_strand(hair: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(1.16 * hair + 8, 255)


def _draw_glasses(sketch: Sketch, s: Speaker) -> None:
    fw, rim_x, frame = s.face_width, 0.235, (46, 40, 42)
    for side in (-1, 1):
        x = side * _EYE_X * fw
        rim = ellipse(x, 0.02, rim_x, 0.175)
        sketch.line(np.concatenate([rim, rim[:1]]), frame, 0.028, bulge=0.1)
        sketch.line(np.array([(x + side * rim_x, -0.02), (side * 0.99 * fw, -0.02)]), frame, 0.025)
    bridge = _EYE_X * fw - rim_x
    sketch.line(np.array([(-bridge, 0.0), (0, -0.03), (bridge, 0.0)]), frame, 0.028, bulge=0.1)
