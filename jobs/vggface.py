"""The face feature's network: published weights, or an identity classifier trained on the training faces."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from arspm import storage
from arspm.config import Config
from arspm.learning import artifacts, checkpoint
from arspm.model import speech_portrait
from arspm.model.vggface import load_published
from arspm.scale.launch import train_stage
from jobs.stage import main


def vggface(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load published VGGFace weights, or train the network here when there are none."""
    if not config.vggface.weights:
        return train_stage("vggface", config, run, fingerprint)
    model = speech_portrait.vggface(config, config.vggface.num_identities)
    with storage.local_copy(config.vggface.weights) as path:
        published = torch.load(path, map_location="cpu", weights_only=True)
    load_published(published, channel_order=config.vggface.channel_order, model=model)
    with TemporaryDirectory() as folder:
        path = Path(folder, artifacts.MODEL)
        checkpoint.write_weights(path, model.state_dict())
        described = storage.upload(path, storage.join(run, "vggface", artifacts.MODEL))
    return {f"vggface/{artifacts.MODEL}": described}, {"published": config.vggface.weights}


if __name__ == "__main__":
    main("vggface", vggface)
