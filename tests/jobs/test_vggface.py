"""The vggface stage: published weights, their check, the norm of features, and networks that learnt nothing."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from arspm import storage
from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema, tables
from arspm.media.jpeg import decode_jpeg
from arspm.model import speech_portrait
from arspm.model.vggface import VGGFace, scale_features
from arspm.training import artifacts
from arspm.training.losses import tri_item_loss
from jobs.vggface import _require_distinct, _set_norm, vggface

FINGERPRINT = "f" * 64


@pytest.fixture
def run(write_corpus: Callable[..., Any]) -> str:
    """A run with 150 training faces, of which published networks see 128."""
    folder, _ = write_corpus({"train": (150,), "val": (2,)})
    return str(Path(folder).parent)


def published(folder: Path, num_identities: int = 11, scale: float = 1.0) -> tuple[VGGFace, Config]:
    """A network of the smoke preset's size and the configuration that reads its file, whose keys say BGR.

    scale: factor on the features of a network whose logits are the same.
    """
    torch.manual_seed(0)
    path = folder / "weights.pth"
    model = speech_portrait.vggface(preset("smoke"), num_identities).eval()
    scale_features(model, scale)
    state = model.state_dict()
    state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)
    torch.save({key.replace("conv", "conv_"): value for key, value in state.items()}, path)
    return model, override(preset("smoke"), {"vggface.weights": str(path)})


def test_published_weights_become_the_runs_network(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, config = published(tmp_path)
    files, figures = vggface(config, run, FINGERPRINT)
    found = artifacts.load_vggface(run, config)
    images = torch.rand(2, 3, config.image_size, config.image_size)
    torch.testing.assert_close(found(images), model(images), rtol=1e-5, atol=1e-5)
    assert files == {"vggface/model.safetensors": storage.describe(f"{run}/vggface/model.safetensors")}
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


def test_stated_activations_of_a_picture_are_compared(run: str, tmp_path: Path) -> None:
    """They are those of the file: the check comes before the features are scaled."""
    model, config = published(tmp_path)
    picture = torch.randint(0, 256, (50, 60, 3), dtype=torch.uint8)
    cv2.imwrite(str(tmp_path / "face.png"), picture.flip(2).numpy())
    with torch.no_grad():
        fc7 = model.raw_features(picture.permute(2, 0, 1)[None] / 255)[0, :16].tolist()
    sidecar = tmp_path / "weights.pth.check.json"
    sidecar.write_text(json.dumps({"image": "face.png", "fc7": fc7}))
    _, figures = vggface(config, run, FINGERPRINT)
    assert figures["feature_norm"] / figures["feature_norm_before"] != pytest.approx(1, abs=0.1)
    assert figures["check"]["compared_with_stated"] is True
    assert figures["check"]["fc7"] == pytest.approx(fc7, rel=1e-4, abs=1e-4)

    written = storage.read_bytes(f"{run}/vggface/model.safetensors")
    wrong = override(config, {"vggface.channel_order": "rgb"})
    with pytest.raises(ValueError, match=r"do not give the stated activations.*set vggface\.channel_order"):
        vggface(wrong, run, FINGERPRINT)
    assert storage.read_bytes(f"{run}/vggface/model.safetensors") == written
    (tmp_path / "face.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"face\.png: not a picture"):
        vggface(config, run, FINGERPRINT)
    sidecar.write_text(json.dumps({"fc7": fc7[:3]}))
    with pytest.raises(ValueError, match=r"weights\.pth\.check\.json: not activations of VGGFace: fc7"):
        vggface(config, run, FINGERPRINT)


def norms(model: VGGFace, faces: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.features(faces).norm(dim=1)


def sampled_faces(run: str) -> torch.Tensor:
    """The first 128 training faces at the size of the smoke preset, in [0, 1]."""
    train = tables.open_split(f"{run}/corpus", "train", 128)
    table = tables.read_rows(train, {"faces": (schema.FACE_JPEG,)}, np.arange(128))
    pictures = [decode_jpeg(jpeg, preset("smoke").image_size) for jpeg in table[schema.FACE_JPEG].to_pylist()]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(("scale", "setting"), [(1e3, 6.3), (1e-3, 2.0), (1e3, None)])
def test_the_features_of_published_weights_get_the_configured_norm(
    run: str, tmp_path: Path, scale: float, setting: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    model, config = published(tmp_path, scale=scale)
    faces = sampled_faces(run)
    before = float(norms(model, faces).mean())
    _, figures = vggface(override(config, {"vggface.feature_norm": setting}), run, FINGERPRINT)
    expected = before if setting is None else setting
    assert figures["feature_norm_before"] == pytest.approx(before, rel=1e-4)
    assert figures["feature_norm"] == pytest.approx(expected, rel=1e-4)
    assert figures["feature_norm_faces"] == 128
    found = artifacts.load_vggface(run, config)
    assert float(norms(found, faces).mean()) == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(found(faces), model(faces), rtol=1e-4, atol=1e-4)
    outcome = "left as it is (vggface.feature_norm=null)" if setting is None else f"scaled to {setting:g}"
    assert f"mean norm of the features of 128 training faces: {before:.4g}, {outcome}" in capsys.readouterr().out


def hidden_share(model: VGGFace, faces: torch.Tensor, config: Config) -> float:
    """The share of the hidden L1 term in eq. 7, for an encoder whose answers are random but of the faces' norm."""
    torch.manual_seed(1)
    hidden, weights = speech_portrait.face_decoder(config).hidden, config.loss
    with torch.no_grad():
        target = model.features(faces)
        answer = torch.randn_like(target) * target.norm(dim=1).mean() / math.sqrt(target.shape[1])
        terms = tri_item_loss(answer, target, hidden=hidden, logits=model.identity_logits)
    return float(weights.lambda2 * terms.hidden_l1 / terms.total)


def test_the_hidden_l1_term_does_not_dominate_at_any_scale_of_the_published_network(run: str, tmp_path: Path) -> None:
    faces, shares = sampled_faces(run), {}
    for scale in (1e-3, 1.0, 1e3, 1e5):
        model, config = published(tmp_path, scale=scale)
        vggface(config, run, FINGERPRINT)
        shares[scale] = hidden_share(artifacts.load_vggface(run, config), faces, config)
        if scale >= 1e3:
            assert hidden_share(model, faces, config) > 0.95  # as the file has it
    assert max(shares.values()) < 2 / 3
    assert max(shares.values()) - min(shares.values()) < 0.01


def test_weights_without_a_norm_are_refused(run: str, tmp_path: Path) -> None:
    """Such a network passes the check of its activations for one picture, which the corpus's faces are not."""
    model, config = published(tmp_path)
    torch.nn.init.constant_(model.fc7.bias, math.inf)
    with pytest.raises(ValueError, match=r"mean norm of inf: .* use another file, see docs/vggface\.md"):
        _set_norm(model, model.features(sampled_faces(run)).detach(), config.vggface.feature_norm)


def test_a_network_with_nearly_equal_features_for_all_faces_is_refused() -> None:
    torch.manual_seed(0)
    mean, noise = torch.randn(64), torch.randn(200, 64)
    _require_distinct(mean + 0.1 * noise, preset("demo"))  # near 6 degrees
    with pytest.raises(
        ValueError,
        match=r"learnt nothing: .* within 0\.[56] degrees of their mean\. Lower .*learning_rate \(0\.0005\)",
    ):
        _require_distinct(mean + 0.01 * noise, preset("demo"))
