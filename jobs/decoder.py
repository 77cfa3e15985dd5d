"""Stage decoder: train the face decoder."""

from typing import Any

from arspm.config import Config
from arspm.distributed.train.launch import train_stage
from jobs.stage import main


def decoder(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the face decoder."""
    return train_stage("decoder", config, run, fingerprint)


if __name__ == "__main__":
    main("decoder", decoder)
