"""Published models that are downloaded by name: once for each user, and verified."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from arspm import storage

TIMEOUT_SECONDS = 30


class Model(NamedTuple):
    """A published file: where it is, and what it must be."""

    url: str
    sha256: str
    num_bytes: int


MODELS = {
    # libfacedetection (S. Yu), Apache-2.0; the revision that OpenCV's own tests use.
    "yunet": Model(
        "https://github.com/ShiqiYu/libfacedetection.train/raw/02246e79b1e976c83d1e135a85e0628120c93769/onnx/"
        "yunet_s_640_640.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        232_589,
    )
}


def model_file(name: str) -> Path:
    """Return the local path of a published model, downloaded into the user's cache if it is not there.

    The cache is $XDG_CACHE_HOME/arspm, by default ~/.cache/arspm. Raises OSError with one line that says how to do
    without a connection.
    """
    path = _path(name)
    if not is_downloaded(name):
        storage.write_bytes(str(path), _download(name, MODELS[name]))
    return path


def is_downloaded(name: str) -> bool:
    """Return whether an intact copy of a published model is in the user's cache."""
    path = _path(name)
    return path.is_file() and _is_intact(path.read_bytes(), MODELS[name])


def _path(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "arspm").expanduser()
    return cache / f"{name}-{MODELS[name].sha256[:12]}.onnx"


def _download(name: str, model: Model) -> bytes:
    by_hand = f"download it elsewhere and pass its path instead of {name!r}"
    try:
        with urllib.request.urlopen(model.url, timeout=TIMEOUT_SECONDS) as reply:
            data: bytes = reply.read(model.num_bytes + 1)
    except (urllib.error.URLError, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConnectionError(f"{model.url} cannot be downloaded ({reason}): {by_hand}") from None
    if not _is_intact(data, model):
        raise ConnectionError(f"{model.url} is not the file that it was (SHA-256 {model.sha256[:12]}...): {by_hand}")
    return data


def _is_intact(data: bytes, model: Model) -> bool:
    return hashlib.sha256(data).hexdigest() == model.sha256
