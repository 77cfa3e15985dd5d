"""The vggface stage: published weights, their check, and networks that learnt nothing."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.model import speech_portrait
from arspm.model.vggface import VGGFace
from arspm.training import artifacts
from jobs.vggface import _require_distinct, vggface

FINGERPRINT = "f" * 64


def published(folder: Path, num_identities: int = 11) -> tuple[VGGFace, Config]:
    """A network of the smoke preset's size and the configuration that reads its file, whose keys say BGR."""
    torch.manual_seed(0)
    path = folder / "weights.pth"
    model = speech_portrait.vggface(preset("smoke"), num_identities).eval()
    state = model.state_dict()
    state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    torch.save({key.replace("conv", "conv_"): value for key, value in state.items()}, path)
    return model, override(preset("smoke"), {"vggface.weights": str(path)})


def test_published_weights_become_the_runs_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, config = published(tmp_path)
    files, figures = vggface(config, str(tmp_path / "run"), FINGERPRINT)
    found = artifacts.load_vggface(str(tmp_path / "run"), config)
    images = torch.rand(2, 3, config.image_size, config.image_size)
    assert torch.equal(found(images), model(images))
    assert files == {"vggface/model.safetensors": storage.describe(str(tmp_path / "run/vggface/model.safetensors"))}
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["published"], figures["format"], figures["channel_order"]) == (
        config.vggface.weights,
        "caffe",
        "bgr",
    )
    assert figures["mean"] == "RGB 129.1863, 104.7624, 93.5940"
    assert figures["sha256"] == storage.describe(config.vggface.weights)["sha256"]
    assert figures["check"]["compared_with_stated"] is False
    assert "format caffe, channels BGR, mean RGB 129.1863" in capsys.readouterr().out


def test_stated_activations_of_a_picture_are_compared(tmp_path: Path) -> None:
    model, config = published(tmp_path)
    picture = torch.randint(0, 256, (50, 60, 3), dtype=torch.uint8)
    cv2.imwrite(str(tmp_path / "face.png"), picture.flip(2).numpy())
    with torch.no_grad():
        fc7 = model.raw_features(picture.permute(2, 0, 1)[None] / 255)[0, :16].tolist()
    sidecar = tmp_path / "weights.pth.check.json"
    sidecar.write_text(json.dumps({"image": "face.png", "fc7": fc7}))
    _, figures = vggface(config, str(tmp_path / "run"), FINGERPRINT)
    assert figures["check"]["compared_with_stated"] is True
    assert figures["check"]["fc7"] == pytest.approx(fc7, rel=1e-4, abs=1e-4)

    wrong = override(config, {"vggface.channel_order": "rgb"})
    with pytest.raises(ValueError, match=r"do not give the stated activations.*set vggface\.channel_order"):
        vggface(wrong, str(tmp_path / "other"), FINGERPRINT)
    assert not (tmp_path / "other").exists()
    (tmp_path / "face.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"face\.png: not a picture"):
        vggface(config, str(tmp_path / "other"), FINGERPRINT)
    sidecar.write_text(json.dumps({"fc7": fc7[:3]}))
    with pytest.raises(ValueError, match=r"weights\.pth\.check\.json: not activations of VGGFace: fc7"):
        vggface(config, str(tmp_path / "other"), FINGERPRINT)


def test_a_network_with_nearly_equal_features_for_all_faces_is_refused() -> None:
    torch.manual_seed(0)
    mean, noise = torch.randn(64), torch.randn(200, 64)
    _require_distinct(mean + 0.1 * noise, preset("demo"))  # near 6 degrees
    with pytest.raises(
        ValueError,
        match=r"learnt nothing: .* within 0\.[56] degrees of their mean\. Lower .*learning_rate \(0\.0005\)",
    ):
        _require_distinct(mean + 0.01 * noise, preset("demo"))
