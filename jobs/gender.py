"""Stage gender: train the gender classifier, whose input is speech."""

from typing import Any

from arspm.config import Config
from arspm.distributed.train.launch import train_stage
from arspm.distributed.train.rows import NothingToLearn
from jobs.stage import main


def gender(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the gender classifier, unless the corpus lacks labels of both genders.

    Without it the gender prior cannot be used.
    """
    try:
        return train_stage("gender", config, run, fingerprint)
    except NothingToLearn as error:
        if config.prior.kind == "gender":
            raise ValueError(f"prior.kind=gender needs a gender classifier, but {error}") from None
        print(f"no gender classifier: {error}")
        return {}, {"trained": False, "reason": str(error)}


if __name__ == "__main__":
    main("gender", gender)
