"""Every public file of VGGFace weights, and files of other networks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

from arspm.model.vggface import VGGFace
from arspm.model.vggface_check import check
from arspm.model.vggface_weights import FORMATS, read_published
from tests.model import published_files
from tests.model.published_files import WRITERS, State
from tests.model.small_vggface import SMALL, filled, stated

ORDERS = {"torch7": "bgr", "vgg_face_dag": "rgb", "caffe": "bgr", "pyvggface": "bgr"}


ORDERS |= {"rcmalli": "bgr", "deepface": "rgb", "arspm": "rgb"}


def test_every_format_has_a_writer():
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("name", WRITERS)
def test_every_public_file_gives_the_same_network(network, tmp_path, name):
    path = tmp_path / "weights"  # the file name does not matter
    WRITERS[name](network.state_dict(), path)
    published = read_published(path)
    assert (published.format, published.channel_order) == (name, ORDERS[name])
    found, images = filled(published.state_dict), torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(found.features(images), network.features(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found(images), network(images), rtol=1e-4, atol=1e-4)
    assert check(found, stated=stated(network))["compared_with_stated"]


@pytest.mark.parametrize("image_size", [32, 96])
@pytest.mark.parametrize("name", ["rcmalli", "deepface", "torch7"])
def test_fc6_sees_a_map_of_any_size(tmp_path, name, image_size):
    model = VGGFace(**SMALL | {"image_size": image_size}).eval()
    WRITERS[name](model.state_dict(), tmp_path / "weights")
    found = filled(read_published(tmp_path / "weights").state_dict, image_size=image_size)
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def as_keras_1(state: State, path: Path) -> None:
    published_files.rcmalli_keras1(state, path)


def as_complete_keras_model(state: State, path: Path) -> None:
    published_files.rcmalli(state, path.with_name("weights_only"))
    with h5py.File(path.with_name("weights_only")) as weights, h5py.File(path, "w") as model:
        group = model.create_group("model_weights")
        for name in weights:
            weights.copy(name, group)
        for name, value in weights.attrs.items():
            group.attrs[name] = value


def as_compressed_hdf5(state: State, path: Path) -> None:
    published_files.rcmalli(state, path.with_name("plain"))
    with h5py.File(path.with_name("plain")) as plain, h5py.File(path, "w") as packed:
        packed.attrs["layer_names"] = plain.attrs["layer_names"]

        def copy(name: str, node: h5py.HLObject) -> None:
            if isinstance(node, h5py.Dataset):
                packed.create_dataset(name, data=node[()], compression="gzip")
            else:
                packed.require_group(name)

        plain.visititems(copy)


def as_data_parallel(state: State, path: Path) -> None:
    wrapped = {f"module.{key}": value.half().double() for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, path)


def as_compiled(state: State, path: Path) -> None:
    torch.save(torch.compile(filled(state)).state_dict(), path)


def as_compiled_in_data_parallel(state: State, path: Path) -> None:
    torch.save({"model": torch.nn.DataParallel(torch.compile(filled(state))).state_dict()}, path)


def as_compiled_layers(state: State, path: Path) -> None:
    model = filled(state)
    model.conv1_1, model.fc8 = torch.compile(model.conv1_1), torch.compile(model.fc8)
    torch.save(model.state_dict(), path)


def as_sharded(state: State, path: Path) -> None:
    torch.save({f"_fsdp_wrapped_module._checkpoint_wrapped_module.{key}": value for key, value in state.items()}, path)


def as_moving_average(state: State, path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(filled(state)).state_dict(), path)


def as_fully_convolutional(state: State, path: Path) -> None:
    sides = {"fc6.weight": (24, -1, 2, 2), "fc7.weight": (24, 24, 1, 1), "fc8.weight": (10, 24, 1, 1)}
    torch.save({key: value.reshape(sides.get(key, value.shape)) for key, value in state.items()}, path)


def as_parameters(state: State, path: Path) -> None:
    torch.save({key: torch.nn.Parameter(value) for key, value in state.items()}, path)


def as_caffe_blobs(state: State, path: Path) -> None:
    torch.save({k: v[None, None, None] if k.endswith("bias") else v for k, v in state.items()}, path)


@pytest.mark.parametrize(
    "write",
    [
        as_keras_1,
        as_complete_keras_model,
        as_compressed_hdf5,
        as_data_parallel,
        as_compiled,
        as_compiled_in_data_parallel,
        as_compiled_layers,
        as_sharded,
        as_moving_average,
        as_fully_convolutional,
        as_parameters,
        as_caffe_blobs,
    ],
)
def test_variants_of_the_public_files_are_read(network, tmp_path, write):
    write(network.state_dict(), tmp_path / "weights")
    found = read_published(tmp_path / "weights").state_dict
    tolerance = 1e-3 if write is as_data_parallel else 0
    for key, value in network.state_dict().items():
        assert found[key].dtype == torch.float32
        assert not found[key].requires_grad
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


def test_the_channel_order_can_be_set(network, tmp_path):
    """The keys do not distinguish vgg_face_dag from a conversion of the Caffe model with the same keys."""
    WRITERS["vgg_face_dag"](published_files.bgr(network.state_dict()), tmp_path / "weights")
    wrong = read_published(tmp_path / "weights")
    assert (wrong.format, wrong.channel_order) == ("vgg_face_dag", "rgb")
    with pytest.raises(ValueError, match=r"set vggface\.channel_order") as caught:
        check(filled(wrong.state_dict), stated=stated(network))
    assert "\n" not in str(caught.value)
    right = read_published(tmp_path / "weights", "bgr")
    assert right.channel_order == "bgr"
    assert torch.equal(right.state_dict["conv1_1.weight"], network.conv1_1.weight)
    check(filled(right.state_dict), stated=stated(network))
    with pytest.raises(ValueError, match="auto or one of rgb, bgr; got 'gbr'"):
        read_published(tmp_path / "weights", "gbr")


def test_a_wrong_order_of_fc6_is_caught(network, tmp_path):
    published_files.rcmalli(network.state_dict(), tmp_path / "weights", fc6_order="chw")
    with pytest.raises(ValueError, match=r"do not give the stated activations.*order of fc6's inputs"):
        check(filled(read_published(tmp_path / "weights").state_dict), stated=stated(network))


def edited(state: State, **changed) -> State:
    return {k: v for k, v in (state | {k.replace("__", "."): v for k, v in changed.items()}).items() if v is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fc7__bias": None}, "missing fc7.bias"),
        ({"fc9__bias": torch.zeros(1)}, "unknown keys, the first is 'fc9.bias'"),
        ({"conv_1_1__bias": torch.zeros(4)}, "conv1_1.bias occurs twice"),
        ({"conv1_1__bias": None, "conv_1_1__bias": torch.zeros(4)}, "mixes the keys conv1_1 and conv_1_1"),
        ({"conv1_1__weight": torch.zeros(4, 1, 3, 3)}, r"conv1_1.weight is \(4, 1, 3, 3\), .* need \(4, 3, 3, 3\)"),
        ({"conv3_1__weight": torch.zeros(16, 8, 5, 5)}, r"conv3_1.weight is \(16, 8, 5, 5\)"),
        ({"fc6__weight": torch.zeros(24, 96)}, "fc6 has 96 inputs, which is not a square map of conv5_3's 32"),
        ({"fc8__weight": torch.zeros(10, 23)}, r"fc8.weight is \(10, 23\)"),
        ({"fc8__weight": torch.zeros(0, 24), "fc8__bias": torch.zeros(0)}, r"fc8.weight is \(0, 24\)"),
        (
            {"fc7__weight": torch.zeros(8, 24), "fc7__bias": torch.zeros(8), "fc8__weight": torch.zeros(10, 8)},
            "fc6 has 24 units and fc7 has 8",
        ),
        ({"fc8__bias": torch.zeros(10, dtype=torch.long)}, "not floating-point"),
        ({"fc8__bias": torch.zeros(1).expand(10**15)}, r"fc8.bias of shape \(1000000000000000,\) is larger"),
        ({"fc8__bias": 3}, "fc8.bias is not a dense CPU tensor"),
        ({"fc8__bias": torch.zeros(10, device="meta")}, "fc8.bias is not a dense CPU tensor"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(network, tmp_path, changed, message):
    torch.save(edited(network.state_dict(), **changed), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as caught:
        read_published(tmp_path / "weights.pth")
    assert str(caught.value).startswith(f"{tmp_path}/weights.pth: ")
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_name_the_settings(network, tmp_path):
    WRITERS["arspm"](network.state_dict(), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"fc6.weight is \(24, 128\) instead of \(24, 288\).*vggface.width"):
        filled(read_published(tmp_path / "weights").state_dict, image_size=96)


def test_a_keras_file_without_the_top_is_refused(network, tmp_path):
    published_files.rcmalli(network.state_dict(), tmp_path / "weights")
    with h5py.File(tmp_path / "weights", "r+") as file:
        names = [name for name in file.attrs["layer_names"] if not name.startswith(b"fc")]
        file.attrs["layer_names"] = np.array(names)
    with pytest.raises(ValueError, match="no layers fc6, fc7, fc8; use the file that includes the top"):
        read_published(tmp_path / "weights")


def keras_3_weights(state: State, path: Path) -> None:
    """Write weights as Keras 3 does: layers are named by their class and contain `vars/0` and `vars/1`."""
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for number, name in enumerate(key.removesuffix(".weight") for key in state if key.endswith(".weight")):
            group = file.create_group(f"layers/conv2d_{number}/vars")
            group["0"], group["1"] = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()


def test_files_of_keras_3_are_named_as_such(network, tmp_path):
    keras_3_weights(network.state_dict(), tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"as Keras 3 saves them .*save it as HDF5") as caught:
        read_published(tmp_path / "model.weights.h5")
    assert "\n" not in str(caught.value)
    with zipfile.ZipFile(tmp_path / "vgg.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", "{}")
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    with pytest.raises(ValueError, match=r"a model of Keras 3 \(\.keras\).*\.save\('vggface\.h5'\)") as caught:
        read_published(tmp_path / "vgg.keras")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_published(tmp_path / "nowhere.pth")


def test_a_safetensors_file_of_the_caffe_names_is_bgr(network, tmp_path):
    state = published_files.renamed(published_files.bgr(network.state_dict()), "conv_", "fc")
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "weights")
    published = read_published(tmp_path / "weights")
    assert (published.format, published.channel_order) == ("caffe", "bgr")
    assert torch.equal(published.state_dict["conv1_1.weight"], network.conv1_1.weight)
