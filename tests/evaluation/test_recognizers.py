"""A recognizer sees each picture as its sidecar declares, and unusable ones are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from arspm.config import parse_recognizer_input as parse_input
from arspm.evaluation.recognizers import Recognizer
from arspm.media.alignment import ARCFACE, ARCFACE_SIDE, template
from arspm.media.jpeg import encode_jpeg

SIZE = 28
DECLARED: dict[str, Any] = {
    "size": SIZE,
    "channels": "rgb",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "alignment": "crop",
}
NO_LANDMARKS = np.zeros((9, 5, 2))


def write_identity(
    path: Path, shape: tuple[Any, ...] = ("batch", 3, SIZE, SIZE), logits: bool = False, scale: float = 1.0
) -> Path:
    """Write a network whose embedding is its input, flattened, and whose scores are the embedding's first 4 numbers."""
    kept = [numpy_helper.from_array(np.array([0, -1]), "flat"), numpy_helper.from_array(np.float32(scale), "scale")]
    kept += [numpy_helper.from_array(np.array([number]), name) for name, number in (("a", 0), ("b", 4), ("axis", 1))]
    nodes = [helper.make_node("Reshape", ["face", "flat"], ["rows"]), helper.make_node("Mul", ["rows", "scale"], ["e"])]
    outputs = ["e"]
    if logits:
        nodes.append(helper.make_node("Slice", ["rows", "a", "b", "axis"], ["people"]))
        outputs.append("people")
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (shape[0], None)) for name in outputs],
        kept,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def gradient() -> np.ndarray:
    """A picture of 224 pixels whose red grows to the right and whose green grows downwards; blue is 200."""
    across, down = np.meshgrid(np.arange(224), np.arange(224))
    return np.stack([across, down, np.full_like(across, 200)], axis=-1).astype(np.uint8)


def seen(tmp_path: Path, picture: np.ndarray, landmarks: np.ndarray = NO_LANDMARKS, **declared: Any) -> np.ndarray:
    """Return what the network is fed for one picture, up to the length of the embedding, (size, size, 3)."""
    settings = DECLARED | declared
    shape = (1, SIZE, SIZE, 3) if settings.get("layout") == "nhwc" else ("batch", 3, SIZE, SIZE)
    recognizer = Recognizer(write_identity(tmp_path / "model.onnx", shape), parse_input(settings, "sidecar"))
    (row,) = recognizer([encode_jpeg(picture, 100)], landmarks[:1]).embeddings
    assert np.linalg.norm(row) == pytest.approx(1)
    return row.reshape(SIZE, SIZE, 3) if shape[0] == 1 else row.reshape(3, SIZE, SIZE).transpose(1, 2, 0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def shrunk(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(float)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pixels_are_ordered_and_scaled_as_declared(tmp_path: Path, layout: str) -> None:
    picture = gradient()
    mean, std = [100.0, 50.0, 10.0], [2.0, 1.0, 4.0]
    rgb = (shrunk(picture) - mean) / std
    assert cosine(seen(tmp_path, picture, layout=layout, mean=mean, std=std), rgb) > 0.9995
    bgr = (shrunk(picture)[..., ::-1] - mean) / std
    assert cosine(seen(tmp_path, picture, layout=layout, channels="bgr", mean=mean, std=std), bgr) > 0.9995
    assert cosine(rgb, bgr) < 0.99


def test_a_crop_is_the_declared_box(tmp_path: Path) -> None:
    picture = gradient()
    box = [0.25, 0.125, 0.75, 0.875]
    expected = shrunk(picture[28:196, 56:168])
    assert cosine(seen(tmp_path, picture, box=box, mean=[112] * 3), expected - 112) > 0.999
    assert cosine(seen(tmp_path, picture, mean=[112] * 3), expected - 112) < 0.99


def test_aligned_faces_have_their_landmarks_at_arcfaces_places(tmp_path: Path) -> None:
    """Five bright dots at a turned and scaled template come out where ArcFace's crops have them."""
    points = template(224, 0.25)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    points = (points - 112) @ turn.T * 0.9 + (105, 118)
    picture = np.zeros((224, 224, 3), np.uint8)
    for x, y in points:
        cv2.circle(picture, (round(x), round(y)), 6, (255, 255, 255), -1)
    found = seen(tmp_path, picture, points[None], alignment="arcface")[..., 0]
    expected = np.zeros((112, 112))
    for x, y in ARCFACE:
        cv2.circle(expected, (round(x), round(y)), 4, 1.0, -1)
    expected = cv2.resize(expected, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert ARCFACE_SIDE == 112
    assert cosine(found, expected) > 0.9
    unturned = seen(tmp_path, picture, template(224, 0.25)[None], alignment="arcface")[..., 0]
    assert cosine(unturned, expected) < 0.6


@pytest.mark.parametrize("batch", ["batch", 2, 4])
def test_every_batch_size_gives_all_rows_in_order(tmp_path: Path, batch: Any) -> None:
    path = write_identity(tmp_path / "model.onnx", (batch, 3, SIZE, SIZE), logits=True)
    recognizer = Recognizer(path, parse_input(DECLARED | {"embedding": "e", "logits": "people"}, "sidecar"))
    jpegs = [encode_jpeg(np.full((64, 64, 3), (shade, 9, 9), np.uint8)) for shade in (10, 60, 120, 180, 240)]
    found = recognizer(jpegs, NO_LANDMARKS[:5])
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[:, 0], [10, 60, 120, 180, 240], atol=3)
    assert found.embeddings.shape == (5, 3 * SIZE * SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "size"),
        ({"mean": [0, 0]}, "mean: List should have at least 3 items"),
        ({"std": [1, 0, 1]}, r"std\.1: Input should be greater than 0"),
        ({"channels": "RGB"}, "channels: Input should be 'rgb' or 'bgr'"),
        ({"aligment": "crop"}, "aligment: Extra inputs are not permitted"),
        ({"box": [0.5, 0, 0.5, 1]}, "box: left must be less than right"),
        ({"size": 10**9}, "size: Input should be less than or equal to 1024"),
        ({"mean": [float("nan")] * 3}, "mean"),
    ],
)
def test_an_invalid_sidecar_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.onnx\.json: not the input of a recognizer: .*{message}") as caught:
        parse_input(DECLARED | changes, "model.onnx.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["size", "channels", "mean", "std", "alignment"])
def test_nothing_about_the_input_is_assumed(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: Field required"):
        parse_input({key: value for key, value in DECLARED.items() if key != name}, "sidecar")


@pytest.mark.parametrize(
    ("shape", "declared", "message"),
    [
        (("batch", 3, 64, 64), {}, r"declared as one float32 tensor \(batch, \(3, 28, 28\)\), but the input is .*64"),
        (("batch", SIZE, SIZE, 3), {}, "declared as one float32 tensor"),
        (("batch", 3, SIZE, SIZE), {"embedding": "fc1"}, "no output 'fc1'; there are e, people"),
        (("batch", 3, SIZE, SIZE), {}, r"several outputs \(e, people\); name the one with the embedding"),
    ],
)
def test_a_network_that_is_not_as_declared_is_refused(
    tmp_path: Path, shape: Any, declared: dict[str, Any], message: str
) -> None:
    path = write_identity(tmp_path / "model.onnx", shape, logits=True)
    with pytest.raises(ValueError, match=message) as caught:
        Recognizer(path, parse_input(DECLARED | declared, "sidecar"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match="no ONNX model at"):
        Recognizer(path, parse_input(DECLARED, "sidecar"))
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ValueError, match="onnxruntime cannot run this model"):
        Recognizer(path, parse_input(DECLARED, "sidecar"))


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_embeddings_without_a_direction_are_an_error(tmp_path: Path, scale: float) -> None:
    recognizer = Recognizer(write_identity(tmp_path / "model.onnx", scale=scale), parse_input(DECLARED, "sidecar"))
    with pytest.raises(ValueError, match=r"model\.onnx: an output is zero or not finite for some face"):
        recognizer([encode_jpeg(gradient())], NO_LANDMARKS[:1])
