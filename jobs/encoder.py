"""Stage encoder: train the speech encoder."""

from typing import Any

from arspm.config import Config
from arspm.distributed.train.launch import train_stage
from jobs.stage import main


def encoder(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the speech encoder."""
    return train_stage("encoder", config, run, fingerprint)


if __name__ == "__main__":
    main("encoder", encoder)
