from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

from arspm.model.vggface import VGGFace, load_published
from arspm.model.vggface_check import NUM_STATED, StatedActivations, check, check_image, parse_stated
from arspm.model.vggface_weights import FORMATS, read_published
from tests.model import published_files
from tests.model.published_files import WRITERS, State

SMALL = {"width": 1 / 16, "image_size": 64, "feature_dim": 24, "num_identities": 10}
ORDERS = {"torch7": "bgr", "vgg_face_dag": "rgb", "caffe": "bgr", "pyvggface": "bgr"}
ORDERS |= {"rcmalli": "bgr", "deepface": "rgb", "arspm": "rgb"}


@pytest.fixture
def network() -> VGGFace:
    """A network of random weights with biases that matter."""
    model = VGGFace(**SMALL).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def filled(state_dict: State, **changed) -> VGGFace:
    return load_published(state_dict, VGGFace(**SMALL | changed)).eval()


def stated(model: VGGFace, **fields) -> StatedActivations:
    """What the published network gives for the built-in image."""
    with torch.no_grad():
        image = check_image(model.image_size).permute(2, 0, 1)[None] / 255
        return StatedActivations(fc7=model.raw_features(image)[0, :NUM_STATED].tolist(), **fields)


def test_every_format_has_a_file_here():
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("name", WRITERS)
def test_every_public_file_gives_the_same_network(network, tmp_path, name):
    path = tmp_path / "weights"  # the name says nothing
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


def as_a_whole_keras_model(state: State, path: Path) -> None:
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
        as_a_whole_keras_model,
        as_compressed_hdf5,
        as_data_parallel,
        as_fully_convolutional,
        as_parameters,
        as_caffe_blobs,
    ],
)
def test_other_ways_in_which_the_files_are_found(network, tmp_path, write):
    write(network.state_dict(), tmp_path / "weights")
    found = read_published(tmp_path / "weights").state_dict
    tolerance = 1e-3 if write is as_data_parallel else 0
    for key, value in network.state_dict().items():
        assert found[key].dtype == torch.float32
        assert not found[key].requires_grad
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


def test_the_channel_order_can_be_told(network, tmp_path):
    """A conversion of the Caffe model with the keys of vgg_face_dag cannot be told from it by its keys."""
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


def test_a_wrong_mean_is_caught(network):
    expected = stated(network)
    network.mean.copy_(network.mean.flip(0))
    with pytest.raises(ValueError, match="do not give the stated activations"):
        check(network, stated=expected)


def test_what_is_stated_may_be_after_the_relu_of_an_image_and_less_exact(network):
    image = torch.randint(0, 256, (80, 70, 3), dtype=torch.uint8)
    with torch.no_grad():
        fc7 = network.raw_features(image.permute(2, 0, 1)[None] / 255)[0]
    after = StatedActivations(fc7=fc7[:NUM_STATED].relu().tolist(), feature="post_relu")
    figures = check(network, image, after)
    assert figures["fc7"] == fc7[:NUM_STATED].tolist()
    assert figures["fc7_mean"] == pytest.approx(fc7.double().mean().item(), rel=1e-4, abs=1e-6)
    assert figures["fc7_std"] == pytest.approx(fc7.double().std().item(), rel=1e-4)
    assert figures["fc8_top"] == int(network.identity_logits(fc7[None]).argmax())
    with pytest.raises(ValueError, match="stated activations"):
        check(network, stated=after)  # of another image
    largest = max(map(abs, stated(network).fc7))
    off = [value + 0.02 * largest for value in stated(network).fc7]
    check(network, stated=StatedActivations(fc7=off, tolerance=0.03))
    with pytest.raises(ValueError, match=r"fc7 differs by 0\.02 .* 0\.01 are allowed"):
        check(network, stated=StatedActivations(fc7=off))
    with pytest.raises(ValueError, match="all 0 and prove nothing"):
        check(network, stated=StatedActivations(fc7=[0.0] * NUM_STATED))


def test_without_statement_the_activations_are_those_of_the_built_in_image(network):
    figures = check(network)
    assert figures["fc7"] == stated(network).fc7
    assert figures["compared_with_stated"] is False


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not finite"), (0.0, "the same activation")])
def test_a_dead_network_is_refused(network, value, message):
    torch.nn.init.constant_(network.fc7.weight, value)
    torch.nn.init.zeros_(network.fc7.bias)
    with pytest.raises(ValueError, match=message):
        check(network)


def test_the_built_in_image_tells_orders_and_directions_apart():
    image = check_image(64)
    assert image.dtype == torch.uint8
    assert torch.equal(image, check_image(64))
    assert image[3, 5].tolist() == [5 * 5 + 2 * 3, 25 // 16 + 9, 255 - 5 - 21]
    others = [image.flip(2), image.roll(1, 2), image.flip(0), image.flip(1), image.transpose(0, 1)]
    for other in others:
        assert (image.float() - other.float()).abs().mean() > 30


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "x.json: not activations"),
        ({}, "fc7: Field required"),
        ({"fc7": [1.0] * 15}, "fc7: .*at least 16"),
        ({"fc7": [1.0] * 15 + ["nan"]}, "fc7.15: .*finite"),
        ({"fc7": [1.0] * 16, "tolerence": 1}, "tolerence: Extra"),
        ({"fc7": [1.0] * 16, "tolerance": 0}, "tolerance: .*greater than 0"),
    ],
)
def test_a_statement_that_cannot_be_is_refused_in_one_line(tree, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_stated(tree, "x.json")
    assert "\n" not in str(caught.value)


def edited(state: State, **changed) -> State:
    return {k: v for k, v in (state | {k.replace("__", "."): v for k, v in changed.items()}).items() if v is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fc7__bias": None}, "missing fc7.bias"),
        ({"fc9__bias": torch.zeros(1)}, "unknown keys, the first 'fc9.bias'"),
        ({"conv_1_1__bias": torch.zeros(4)}, "conv1_1.bias is there twice"),
        ({"conv1_1__bias": None, "conv_1_1__bias": torch.zeros(4)}, "conv1_1 and conv_1_1 in one file"),
        ({"conv1_1__weight": torch.zeros(4, 1, 3, 3)}, r"conv1_1.weight is \(4, 1, 3, 3\) where \(4, 3, 3, 3\)"),
        ({"conv3_1__weight": torch.zeros(16, 8, 5, 5)}, r"conv3_1.weight is \(16, 8, 5, 5\)"),
        ({"fc6__weight": torch.zeros(24, 96)}, "fc6 has 96 inputs, which are no square map of conv5_3's 32"),
        ({"fc8__weight": torch.zeros(10, 23)}, r"fc8.weight is \(10, 23\)"),
        ({"fc8__weight": torch.zeros(0, 24), "fc8__bias": torch.zeros(0)}, r"fc8.weight is \(0, 24\)"),
        (
            {"fc7__weight": torch.zeros(8, 24), "fc7__bias": torch.zeros(8), "fc8__weight": torch.zeros(10, 8)},
            "fc7 has 8 units and fc6 24",
        ),
        ({"fc8__bias": torch.zeros(10, dtype=torch.long)}, "not floating-point"),
        ({"fc8__bias": torch.zeros(1).expand(10**15)}, r"fc8.bias of shape \(1000000000000000,\) is larger"),
        ({"fc8__bias": 3}, "fc8.bias is no plain tensor"),
        ({"fc8__bias": torch.zeros(10, device="meta")}, "fc8.bias is no plain tensor"),
    ],
)
def test_what_is_not_this_network_is_named(network, tmp_path, changed, message):
    torch.save(edited(network.state_dict(), **changed), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as caught:
        read_published(tmp_path / "weights.pth")
    assert str(caught.value).startswith(f"{tmp_path}/weights.pth: ")
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_name_the_settings(network, tmp_path):
    WRITERS["arspm"](network.state_dict(), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"vggface.width.*fc6.weight is \(24, 128\) instead of \(24, 288\)"):
        filled(read_published(tmp_path / "weights").state_dict, image_size=96)


class Malice:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", ["archive", "before 1.6", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_does_not_run(network, tmp_path, write):
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    content = network.state_dict() | {"fc8.bias": Malice(f"touch {mark}")}
    if write == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "archive")
    with pytest.raises(ValueError, match="a pickle of more than tensors, which is never opened") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    torch.load(path, weights_only=False) if write != "bare pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the file was malicious indeed


def test_an_archive_that_unpacks_to_more_is_refused(network, tmp_path):
    torch.save({key: torch.zeros_like(value) for key, value in network.state_dict().items()}, tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "plain") as plain:
        with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="unpacks to more than its size"):
        read_published(tmp_path / "packed")


@pytest.mark.parametrize("how", ["soft", "external", "outside", "virtual", "huge", "whole numbers", "no names"])
def test_keras_data_that_are_not_in_the_file_are_refused(network, tmp_path, how):
    other, path = tmp_path / "other.h5", tmp_path / "weights.h5"
    published_files.rcmalli(network.state_dict(), other)
    published_files.rcmalli(network.state_dict(), path)
    with h5py.File(path, "r+") as file:
        group = file["fc8/fc8"]
        if how == "no names":
            del file.attrs["layer_names"]
        else:
            del group["bias:0"]
        if how == "soft":
            group["bias:0"] = h5py.SoftLink("/fc7/fc7/bias:0")
        elif how == "external":
            group["bias:0"] = h5py.ExternalLink("other.h5", "/fc8/fc8/bias:0")
        elif how == "outside":
            group.create_dataset("bias:0", (10,), "f4", external=[(str(other), 0, 40)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((10,), "f4")
            layout[:] = h5py.VirtualSource(str(other), "/fc8/fc8/bias:0", (10,))
            group.create_virtual_dataset("bias:0", layout)
        elif how == "huge":
            group.create_dataset("bias:0", (1 << 40,), "f4", chunks=(1 << 10,))
        elif how == "whole numbers":
            group.create_dataset("bias:0", data=np.arange(10))
    messages = {"soft": "link to elsewhere", "external": "link to elsewhere", "outside": "another file"}
    messages |= {"virtual": "another file", "huge": "more than this file", "whole numbers": "an array of int64"}
    with pytest.raises(ValueError, match=messages.get(how, "no attribute layer_names")):
        read_published(path)


def test_a_keras_file_without_the_top_is_named_as_such(network, tmp_path):
    published_files.rcmalli(network.state_dict(), tmp_path / "weights")
    with h5py.File(tmp_path / "weights", "r+") as file:
        names = [name for name in file.attrs["layer_names"] if not name.startswith(b"fc")]
        file.attrs["layer_names"] = np.array(names)
    with pytest.raises(ValueError, match="no layers fc6, fc7, fc8: take the file with the top"):
        read_published(tmp_path / "weights")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"GIF89a" + bytes(100), b"\x04\0\0\0", bytes(64), b"\x89HDF\r\n\x1a\n"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not usable as weights of VGGFace"):
        read_published(tmp_path / "weights.pth")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_published(tmp_path / "nowhere.pth")


def outcome(path: Path) -> tuple[str, State | None]:
    try:
        return "", read_published(path).state_dict
    except ValueError as error:
        return str(error), None


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused_or_give_a_network(network, tmp_path, name):
    """Seeded: bytes of the structure and of the numbers changed, pieces cut out, doubled, and cut off."""
    path, dice = tmp_path / "weights", random.Random(f"{name} 1")
    WRITERS[name](network.state_dict(), path)
    whole = path.read_bytes()
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    zeros = set(np.flatnonzero(np.frombuffer(whole, np.uint8) == 0)[::7].tolist())
    told = list(zeros) + list(range(min(4096, len(whole)))) + list(range(len(whole) - 4096, len(whole)))
    num_refused = 0
    for trial in range(80):
        data = bytearray(whole)
        place = dice.choice(told) if trial % 2 else dice.randrange(len(data))
        match trial % 5:
            case 0:
                del data[place:]
            case 1 | 2:
                for _ in range(dice.randrange(1, 9)):
                    data[dice.choice(told)] = dice.randrange(256)
            case 3:
                data[place : place + 8] = dice.choice([b"\xff" * 8, b"\x7f" * 8, bytes(8), dice.randbytes(8)])
            case 4:
                end = place + dice.randrange(1, 400)
                data[place:end] = data[place:end] * dice.choice([0, 2])
        path.write_bytes(data)
        said, found = outcome(path)
        if found is None:
            num_refused += 1
            assert said.startswith(f"{path}: ")
            assert "\n" not in said
        else:
            assert {key: value.shape for key, value in found.items()} == wanted
            assert all(value.dtype == torch.float32 for value in found.values())
    assert num_refused >= 16  # those cut off


def test_a_safetensors_file_of_the_caffe_names_is_bgr(network, tmp_path):
    state = published_files.renamed(published_files.bgr(network.state_dict()), "conv_", "fc")
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "weights")
    published = read_published(tmp_path / "weights")
    assert (published.format, published.channel_order) == ("caffe", "bgr")
    assert torch.equal(published.state_dict["conv1_1.weight"], network.conv1_1.weight)
