"""Stage oracle: the best speech feature that a voice allows, for synthetic speakers, whose true causes are known."""

from typing import Any

from arspm.config import Config
from jobs.stage import main


def oracle(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Average the face features of people who share a test speaker's true causes, unless these are not known."""
    if not config.oracle.speakers:
        reason = "oracle.speakers is not given: only synthetic speakers have known true causes"
        print(f"no oracle: {reason}")
        return {}, {"made": False, "reason": reason}
    from arspm.distributed.data.oracle import make_oracle

    return make_oracle(config, run)


if __name__ == "__main__":
    main("oracle", oracle)
