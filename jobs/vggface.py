"""The face feature's network: published weights, or an identity classifier trained on the training faces."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from arspm import corpus, schema, stages, storage
from arspm.config import Config
from arspm.learning import artifacts, checkpoint
from arspm.media.faces import decode_jpeg
from arspm.model import speech_portrait
from arspm.model.vggface import VGGFace, load_published, scale_features
from arspm.scale.launch import train_stage
from jobs.stage import main

# The mean length of a face feature behind the paper's figures: L2 / (2 sin(Cos / 2)) over the seven models of Table 4
# has the median 6.3. The weights of eq. 7 balance its terms at that scale, and a network trained here could have any.
FEATURE_NORM = 6.3
NORM_FACES = 512


def vggface(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load published VGGFace weights, or train the network here when there are none."""
    if config.vggface.weights:
        model = speech_portrait.vggface(config, config.vggface.num_identities)
        with storage.local_copy(config.vggface.weights) as path:
            published = torch.load(path, map_location="cpu", weights_only=True)
        load_published(published, channel_order=config.vggface.channel_order, model=model)
        return _save(model, run), {"published": config.vggface.weights}
    files, figures = train_stage("vggface", config, run, fingerprint)
    model = artifacts.load_vggface(run, config)
    norm = _mean_norm(model, config, run)
    scale_features(model, FEATURE_NORM / norm)
    return files | _save(model, run), figures | {"feature_norm_before": norm, "feature_norm": FEATURE_NORM}


@torch.no_grad()
def _mean_norm(model: VGGFace, config: Config, run: str) -> float:
    """The mean length of the face features of the first training faces."""
    train = corpus.open_split(stages.corpus(run), "train", NORM_FACES)
    norms = []
    for begin in range(0, train.num_rows, config.evaluate.batch_size):
        rows = np.arange(begin, min(begin + config.evaluate.batch_size, train.num_rows))
        pictures = corpus.read_rows(train, {"faces": (schema.FACE_JPEG,)}, rows)[schema.FACE_JPEG].to_pylist()
        faces = np.stack([decode_jpeg(picture, config.image_size) for picture in pictures])
        norms.append(model.features(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255).norm(dim=1))
    return float(torch.cat(norms).mean())


def _save(model: VGGFace, run: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder, artifacts.MODEL)
        checkpoint.write_weights(path, model.state_dict())
        return {f"vggface/{artifacts.MODEL}": storage.upload(path, storage.join(run, "vggface", artifacts.MODEL))}


if __name__ == "__main__":
    main("vggface", vggface)
