"""The folder of an exported model, a local path or s3://, which needs neither its run nor Ray.

model.safetensors    the weights of encoder, gender classifier (if the prior needs it) and decoder
priors.safetensors   the mean face features: neutral and, if there were labels, female and male
config.json          the configuration that the model was trained with; of paths and URIs, only the last part
encoder.onnx         spectrogram -> speech feature, with the prior
decoder.onnx         feature -> portrait
README.md            the model card
export.json          written last: the version, where the model comes from, and every file with size and hash
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from arspm import config as configuration
from arspm import storage
from arspm.config import Config, override
from arspm.config.tree import uri_fields
from arspm.export import onnx_networks
from arspm.model import speech_portrait
from arspm.model.speech_portrait import SpeechPortrait
from arspm.runs.provenance import versions
from arspm.storage import uris
from arspm.training import checkpoint
from arspm.training.artifacts import MODEL, PRIORS

CONFIG, CARD, EXPORT = "config.json", "README.md", "export.json"
ENCODER_ONNX, DECODER_ONNX = "encoder.onnx", "decoder.onnx"
_FILES = (MODEL, PRIORS, CONFIG, ENCODER_ONNX, DECODER_ONNX, CARD)  # in the order in which they are written
_NEEDED = (MODEL, PRIORS, CONFIG)
_AGAIN = "run `arspm export` again"


class Manifest(BaseModel):
    """`export.json`. The file may have more fields."""

    files: dict[str, dict[str, Any]]  # name -> {"bytes", "sha256"}


def is_export(uri: str) -> bool:
    """Return whether there is an exported model at a URI. Raises ValueError for one that was not written to its end."""
    if storage.exists(storage.join(uri, EXPORT)):
        return True
    if _is_interrupted(storage.entries(uri)):
        raise ValueError(f"{uris.display_uri(uri)}: an export that was interrupted; {_AGAIN}")
    return False


def require_free(dest: str) -> None:
    """Raise ValueError if a folder has files and is neither an earlier nor an interrupted export."""
    entries = storage.entries(dest)
    if entries and EXPORT not in entries and not _is_interrupted(entries):
        raise ValueError(
            f"{uris.display_uri(dest)}: not empty and no earlier export ({', '.join(entries[:3])[:100]}); give a new "
            "folder, or empty it"
        )
    if EXPORT in entries:
        _manifest(dest)


def write(
    dest: str,
    network: SpeechPortrait,
    priors: Mapping[str, Tensor],
    config: Config,
    *,
    card: str,
    source: Mapping[str, Any],
    onnx: bool = True,
) -> dict[str, Any]:
    """Write an exported model, replacing an earlier one. Return the content of `export.json`.

    card: text of README.md. source: where the model comes from, for `export.json`. onnx: write the ONNX files, too.
    Everything is made and checked on the local disk first. Raises ValueError as `require_free`, or if an ONNX file
    computes something else than the network.
    """
    require_free(dest)
    with TemporaryDirectory() as name:
        local = Path(name)
        checkpoint.write_weights(local / MODEL, network.state_dict())
        checkpoint.write_weights(local / PRIORS, priors)
        (local / CONFIG).write_text(configuration.dump(_shareable(config)) + "\n")
        (local / CARD).write_text(card)
        checked = onnx_networks.write(network, local / ENCODER_ONNX, local / DECODER_ONNX) if onnx else None
        storage.remove(storage.join(dest, EXPORT))
        files = {}
        for name in _FILES:
            if (local / name).exists():
                files[name] = storage.upload(local / name, storage.join(dest, name))
            else:
                storage.remove(storage.join(dest, name))
    about = {"versions": versions(), "source": dict(source), "onnx": checked, "files": files}
    storage.write_json(storage.join(dest, EXPORT), about)
    return about


def read(uri: str) -> tuple[SpeechPortrait, Config]:
    """Return the network, in eval mode on the CPU, and its configuration.

    Raises ValueError, with the file, if one is missing, damaged, or belongs to another network.
    """
    files = _manifest(uri).files
    with storage.local_copy(_intact(uri, CONFIG, files)) as path:
        config = configuration.load(path.read_bytes())
    priors = read_priors(uri)
    classifier = speech_portrait.gender_classifier(config) if config.prior.kind == "gender" else None
    prior = speech_portrait.face_prior(config, priors, classifier)
    network = SpeechPortrait(speech_portrait.speech_encoder(config), prior, speech_portrait.face_decoder(config))
    with storage.local_copy(model := _intact(uri, MODEL, files)) as path:
        checkpoint.restore(network, checkpoint.read_weights(path), model)
    return network.eval(), config


def read_priors(uri: str) -> dict[str, Tensor]:
    """Return the mean face features: "neutral" and, if there were labels, "female" and "male". Raises as `read`."""
    with storage.local_copy(_intact(uri, PRIORS, _manifest(uri).files)) as path:
        return checkpoint.read_weights(path)


def _manifest(uri: str) -> Manifest:
    manifest = storage.read_model(storage.join(uri, EXPORT), Manifest, "an exported model's list of files")
    if missing := [name for name in _NEEDED if name not in manifest.files]:
        raise ValueError(f"{storage.join(uri, EXPORT)}: does not list {', '.join(missing)}; {_AGAIN}")
    return manifest


def _intact(uri: str, name: str, files: Mapping[str, Any]) -> str:
    """Return the URI of a file of an export. Raises ValueError if it is not what `export.json` lists."""
    file = storage.join(uri, name)
    try:
        if storage.describe(file) == files[name]:
            return file
    except FileNotFoundError:
        raise ValueError(f"{file}: missing, though {EXPORT} lists it; {_AGAIN}") from None
    raise ValueError(f"{file}: its size or hash is not what {EXPORT} says; {_AGAIN}")


def _is_interrupted(entries: list[str]) -> bool:
    """Return whether a folder has an export's first file, and nothing that is not an export's."""
    return MODEL in entries and set(entries) <= set(_FILES)


def _shareable(config: Config) -> Config:
    """Return the configuration with only the last part of each path or URI: the folders may be nobody's business."""
    return override(config, {name: uri.rstrip("/").rpartition("/")[2] for name, uri in uri_fields(config).items()})
