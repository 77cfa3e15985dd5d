"""Stage features: VGGFace's feature of every face, the features family of the corpus."""

from typing import Any

from arspm.config import Config
from arspm.distributed.data.infer import make_features
from jobs.stage import main


def features(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the face feature of every face once, so that no later stage runs VGGFace on a real image."""
    return make_features(config, run)


if __name__ == "__main__":
    main("features", features)
