"""Training and use of the speech-to-portrait model. `from arspm import SpeechPortrait` is its Python API."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arspm.portrait import Portrait, SpeechPortrait

__all__ = ["Portrait", "SpeechPortrait"]

# These libraries report their use to their makers, the first from its import on, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def __getattr__(name: str) -> Any:
    """Import the API, and with it torch, only when it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("arspm.portrait"), name)
