"""The file of `gender.weights`: the gender network of another run."""

from __future__ import annotations

from typing import Any

from arspm import storage
from arspm.config import Config, ConfigError
from arspm.runs import stages

MODEL = "gender/model.safetensors"  # in a run


def find_gender_weights(config: Config, run: str) -> tuple[str, dict[str, Any] | None]:
    """Return the URI of the file of `gender.weights`, and its size and hash by its run's manifest, None without one.

    Raises ConfigError, FileNotFoundError or ValueError, in one line, if the setting names neither a .safetensors file
    nor a run that has a gender network of this width, or names `run` itself.
    """
    weights = config.gender.weights
    named, own = storage.absolute(weights), storage.absolute(run)
    if stages.parent_run(named) == own or named.startswith(f"{own}/gender/"):
        raise ConfigError(
            f"gender.weights: {weights} is of this run, whose stage gender would remove it; name another run, or copy "
            "the file elsewhere"
        )
    if weights.endswith(".safetensors"):
        return weights, None
    manifest = stages.success(weights, "gender")
    if manifest is None:
        raise FileNotFoundError(
            f"gender.weights: {weights} is neither a run whose stage gender is done nor a .safetensors file"
        )
    if MODEL not in manifest.files:
        raise ValueError(f"gender.weights: {weights} has no gender network: {manifest.figures.get('reason')}")
    width = manifest.config.get("gender", {}).get("width")
    if width != config.gender.width:
        raise ConfigError(
            f"gender.width: must be {width}, which the network of gender.weights={weights} has, not "
            f"{config.gender.width:g}"
        )
    return storage.join(stages.parent_run(weights), MODEL), manifest.files[MODEL]
