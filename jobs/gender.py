"""The gender classifier, which hears speech."""

from typing import Any

from arspm.config import Config
from arspm.distributed.train.launch import train_stage
from arspm.distributed.train.rows import NothingToLearn
from jobs.stage import main


def gender(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the gender classifier; without labels of both sexes there is none, and the gender prior cannot be used."""
    try:
        return train_stage("gender", config, run, fingerprint)
    except NothingToLearn as reason:
        if config.prior.kind == "gender":
            raise ValueError(f"prior.kind=gender needs a gender classifier, but {reason}") from None
        print(f"no gender classifier: {reason}")
        return {}, {"trained": False, "reason": str(reason)}


if __name__ == "__main__":
    main("gender", gender)
