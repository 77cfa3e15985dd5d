"""Stage vggface: the network of the face feature, from published weights or trained as an identity classifier."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.train.launch import train_stage
from arspm.evaluation import metrics
from arspm.media.dropped import DroppedClip
from arspm.media.frames import read_picture
from arspm.media.jpeg import decode_jpeg
from arspm.model import speech_portrait
from arspm.model.vggface import MEAN_RGB, VGGFace, load_published, scale_features
from arspm.model.vggface_check import StatedActivations, check, parse_stated
from arspm.model.vggface_weights import read_published
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from jobs.stage import main

NUM_FACES = 512  # sample of training faces whose features are measured
# With published weights, usually at the paper's size, where a face takes 0.4 s of one core. If the norms of faces
# differ by a fifth, the mean of 128 is known to 2 %.
NUM_FACES_PUBLISHED = 128
# Smallest accepted mean angle between features and their mean. For drawn faces it was 1.0 where training had failed to
# start and 32 where it had not; photographs differ more.
MIN_DEGREES = 2.0


def vggface(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load published VGGFace weights, or train the network if `vggface.weights` is empty; set its features' norm."""
    files: dict[str, Any] = {}
    if config.vggface.weights:
        model, figures = _published(config)
        features = _sample_features(model, config, run, NUM_FACES_PUBLISHED)
    else:
        files, figures = train_stage("vggface", config, run, fingerprint)
        model = artifacts.load_vggface(run, config)
        features = _sample_features(model, config, run, NUM_FACES)
        _require_distinct(features, config)
    figures = figures | _set_norm(model, features, config.vggface.feature_norm)
    return files | _save(model, run), figures


def _set_norm(model: VGGFace, features: torch.Tensor, norm: float | None) -> dict[str, Any]:
    """Scale the network so that its features have a mean norm, and return figures; None leaves the network as it is.

    features: of the corpus's faces, (faces, feature). The logits do not change. Raises ValueError for features that
    are all zero or not finite.
    """
    norms = features.norm(dim=1)
    measured = float(norms.mean())
    if not (math.isfinite(measured) and measured > 0):
        raise ValueError(
            f"the features of this corpus's faces have a mean norm of {measured}: VGGFace's weights are damaged, or of "
            "another network; use another file, see docs/vggface.md"
        )
    outcome = "left as it is (vggface.feature_norm=null)"
    if norm is not None:
        scale_features(model, norm / measured)
        outcome = f"scaled to {norm:g} (vggface.feature_norm)"
    print(f"mean norm of the features of {len(norms)} training faces: {measured:.4g}, {outcome}", flush=True)
    return {
        "feature_norm_before": measured,
        "feature_norm": measured if norm is None else norm,
        "feature_norm_faces": len(norms),
        "feature_norm_sd": float(norms.std()) if len(norms) > 1 else None,
    }


def _published(config: Config) -> tuple[VGGFace, dict[str, Any]]:
    """Return the network of `vggface.weights` and figures on the file. The size of fc8 is the file's."""
    uri = config.vggface.weights
    with storage.local_copy(uri) as path:
        published = read_published(path, config.vggface.channel_order)
        sha256 = storage.describe(str(path))["sha256"]
    model = speech_portrait.vggface(config, len(published.state_dict["fc8.weight"]))
    load_published(published.state_dict, model)
    mean = "RGB " + ", ".join(f"{value:.4f}" for value in MEAN_RGB)
    print(f"{uri}: format {published.format}, channels {published.channel_order.upper()}, mean {mean}", flush=True)
    figures = {"published": uri, "format": published.format, "channel_order": published.channel_order, "mean": mean}
    return model, figures | {"sha256": sha256, "check": check(model, *_stated(uri))}


def _stated(uri: str) -> tuple[torch.Tensor | None, StatedActivations | None]:
    """Return the image and the activations of `<weights>.check.json`, None for each that is missing."""
    sidecar = f"{storage.absolute(uri)}.check.json"
    if not storage.exists(sidecar):
        return None, None
    stated = parse_stated(storage.read_json(sidecar), sidecar)
    if not stated.image:
        return None, stated
    picture = storage.join(sidecar.rpartition("/")[0], stated.image)
    try:
        return torch.from_numpy(read_picture(storage.read_bytes(picture))), stated
    except DroppedClip as drop:
        raise ValueError(f"{picture}: not a picture ({drop.detail})") from None


def _require_distinct(features: torch.Tensor, config: Config) -> None:
    """Raise ValueError if the network gives all faces nearly the same feature; nothing can be learnt from it.

    Sixteen layers without BatchNorm may fail to start training, more often with more identities.
    features: (faces, feature).
    """
    angle = float(metrics.cos_degrees(features, features.mean(dim=0).expand_as(features)).mean())
    if angle < MIN_DEGREES:
        recipe = config.training.vggface
        raise ValueError(
            f"VGGFace learnt nothing: the features of all faces are within {angle:.1f} degrees of their mean. Lower "
            f"training.vggface.learning_rate ({recipe.learning_rate:g}), raise training.vggface.epochs "
            f"({recipe.epochs}), or give published weights by vggface.weights"
        )


@torch.no_grad()
def _sample_features(model: VGGFace, config: Config, run: str, num_faces: int) -> torch.Tensor:
    """Return the features of the first training faces: (faces, feature)."""
    train = tables.open_split(stages.corpus(run), "train", num_faces)
    features = []
    for begin in range(0, train.num_rows, config.evaluate.batch_size):
        rows = np.arange(begin, min(begin + config.evaluate.batch_size, train.num_rows))
        pictures = tables.read_rows(train, {"faces": (schema.FACE_JPEG,)}, rows)[schema.FACE_JPEG].to_pylist()
        faces = np.stack([decode_jpeg(picture, config.image_size) for picture in pictures])
        features.append(model.features(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255))
    return torch.cat(features)


def _save(model: VGGFace, run: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder, artifacts.MODEL)
        checkpoint.write_weights(path, model.state_dict())
        return {f"vggface/{artifacts.MODEL}": storage.upload(path, storage.join(run, "vggface", artifacts.MODEL))}


if __name__ == "__main__":
    main("vggface", vggface)
