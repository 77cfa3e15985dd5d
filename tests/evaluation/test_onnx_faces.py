from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from arspm.evaluation.onnx_faces import OnnxFaceModel
from arspm.media.jpeg import encode_jpeg

OUTPUT_SIZES = {"colours": 3, "red": 1}


def write_model(
    path: Path,
    *,
    shape=("batch", 3, 32, 32),
    outputs=("colours", "red"),
    weights=None,
    kind=TensorProto.FLOAT,
    num_inputs=1,
    flat=False,
) -> Path:
    """Write a model whose outputs are the channel means times a matrix: (batch, 3) @ weights."""
    weights = {"colours": np.eye(3), "red": np.eye(3)[:, :1]} if weights is None else weights
    inputs = [helper.make_tensor_value_info(f"image{n}", kind, shape) for n in range(num_inputs)]
    nodes = [helper.make_node("Cast", ["image0"], ["cast"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("ReduceMean", ["cast"], ["means"], axes=[2, 3], keepdims=0)]
    constants, results = [], []
    for name in outputs:
        matrix = np.asarray(weights[name], np.float32)
        constants.append(numpy_helper.from_array(matrix, f"{name} weights"))
        wide = f"{name} wide" if flat else name
        nodes.append(helper.make_node("MatMul", ["means", f"{name} weights"], [wide]))
        if flat:
            nodes.append(helper.make_node("Squeeze", [wide, "one"], [name]))
        dims = (shape[0],) if flat else (shape[0], matrix.shape[1])
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    if flat:
        constants.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(nodes, "faces", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def picture(red: int, green: int, blue: int, size: int = 64) -> bytes:
    return encode_jpeg(np.full((size, size, 3), (red, green, blue), np.uint8))


COLOURS = np.array([(200, 30, 90), (10, 250, 128), (0, 0, 255), (255, 255, 255), (90, 80, 70)])
JPEGS = [picture(*colour) for colour in COLOURS.tolist()]


@pytest.mark.parametrize("shape", [("batch", 3, 32, 32), ("batch", 3, "h", "w"), (2, 3, 24, 48), (1, 3, 16, 16)])
def test_the_input_is_rgb_in_0_to_1_for_every_batch_size(tmp_path, monkeypatch, shape):
    monkeypatch.setattr("arspm.evaluation.onnx_faces._BATCH", 3)
    found = OnnxFaceModel(write_model(tmp_path / "model.onnx", shape=shape), OUTPUT_SIZES)(JPEGS)
    assert set(found) == set(OUTPUT_SIZES)
    np.testing.assert_allclose(found["colours"], COLOURS / 255, atol=0.02)
    np.testing.assert_allclose(found["red"], COLOURS[:, :1] / 255, atol=0.02)


def test_a_dynamic_height_or_width_is_224(tmp_path):
    model = OnnxFaceModel(write_model(tmp_path / "model.onnx", shape=("batch", 3, "h", 40)), OUTPUT_SIZES)
    assert model.size == (224, 40)


def test_height_and_width_are_not_swapped(tmp_path):
    """The upper half is red, and the model averages rows 0 and 1 of 4."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :, 0] = 255
    path = tmp_path / "model.onnx"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 4, 8))]
    bounds = [numpy_helper.from_array(np.array(values), name) for name, values in (("a", [0]), ("b", [2]), ("c", [2]))]
    nodes = [
        helper.make_node("Slice", ["image", "a", "b", "c"], ["upper"]),
        helper.make_node("ReduceMean", ["upper"], ["colours"], axes=[2, 3], keepdims=0),
    ]
    results = [helper.make_tensor_value_info("colours", TensorProto.FLOAT, ("batch", 3))]
    graph = helper.make_graph(nodes, "upper", inputs, results, bounds)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    (found,) = OnnxFaceModel(path, OUTPUT_SIZES)([cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()])["colours"]
    np.testing.assert_allclose(found, (1, 0, 0), atol=0.05)


def test_an_output_of_size_1_may_have_one_dimension(tmp_path):
    found = OnnxFaceModel(write_model(tmp_path / "model.onnx", outputs=("red",), flat=True), OUTPUT_SIZES)(JPEGS)
    np.testing.assert_allclose(found["red"], COLOURS[:, :1] / 255, atol=0.02)


def test_no_pictures_give_no_rows(tmp_path):
    found = OnnxFaceModel(write_model(tmp_path / "model.onnx"), OUTPUT_SIZES)([])
    assert {name: values.shape for name, values in found.items()} == {"colours": (0, 3), "red": (0, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ("age",), "weights": {"age": np.eye(3)}}, "the outputs must be among colours, red, not age"),
        (
            {"shape": ("batch", 32, 32, 3), "weights": {"colours": np.ones((32, 3)), "red": np.ones((32, 1))}},
            r"one float32 tensor \(batch, 3, .*not tensor\(float\) \['batch', 32, 32, 3\]",
        ),
        ({"kind": TensorProto.UINT8}, r"one float32 tensor .*not tensor\(uint8\)"),
        ({"num_inputs": 2}, r"one float32 tensor .*32\], tensor\(float\)"),
    ],
)
def test_wrong_inputs_or_outputs_are_a_one_line_error(tmp_path, options, message):
    path = write_model(tmp_path / "model.onnx", **options)
    with pytest.raises(ValueError, match=message) as error:
        OnnxFaceModel(path, OUTPUT_SIZES)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_outputs_of_a_wrong_shape_are_a_one_line_error(tmp_path):
    path = write_model(tmp_path / "model.onnx", outputs=("colours",), weights={"colours": np.eye(3)[:, :2]})
    with pytest.raises(ValueError, match=r"output colours must be numbers \(5, 3\), not float32 \(5, 2\)"):
        OnnxFaceModel(path, OUTPUT_SIZES)(JPEGS)
    path = write_model(tmp_path / "model.onnx", outputs=("red",), weights={"red": np.eye(3)})
    with pytest.raises(ValueError, match=r"output red must be numbers \(5, 1\) or \(5,\), not float32 \(5, 3\)"):
        OnnxFaceModel(path, OUTPUT_SIZES)(JPEGS)


def test_a_model_that_fails_while_running_is_a_one_line_error(tmp_path):
    path = tmp_path / "model.onnx"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, "h", "w"))]
    wrong = numpy_helper.from_array(np.ones((7, 3), np.float32), "wrong")
    nodes = [helper.make_node("MatMul", ["image", "wrong"], ["colours"])]  # 224 is not 7
    results = [helper.make_tensor_value_info("colours", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "fails", inputs, results, [wrong])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    with pytest.raises(ValueError, match=r"model.onnx: onnxruntime cannot run this model") as error:
        OnnxFaceModel(path, OUTPUT_SIZES)(JPEGS)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_a_model_is_a_one_line_error(tmp_path):
    path = tmp_path / "judge.onnx"
    with pytest.raises(FileNotFoundError, match="no ONNX model at"):
        OnnxFaceModel(path, OUTPUT_SIZES)
    path.write_bytes(b"not a model" * 50)
    with pytest.raises(ValueError, match="onnxruntime cannot run this model") as error:
        OnnxFaceModel(path, OUTPUT_SIZES)
    assert "\n" not in str(error.value)
