"""What to say when Ray kills a process because a node's memory is full."""

from __future__ import annotations

import re

import ray.exceptions

# Ray's message has 2,000 characters and more. Its "GB" are GiB.
_USED = re.compile(r"\(IP: (?P<node>[^,)\s]+).*?\) was (?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit", re.DOTALL)


class KilledForMemory(RuntimeError):
    """Ray killed a process of this stage because its node's memory was full."""


def killed_for_memory(error: BaseException, setting: str) -> KilledForMemory | None:
    """Return the error in one line if Ray's memory monitor killed a process, otherwise None.

    setting: the section of `resources` whose workers or tasks were killed.
    """
    found = _USED.search(str(error))
    of_ray = type(error).__module__.startswith("ray.")  # Tune wraps it
    if not isinstance(error, ray.exceptions.OutOfMemoryError) and not (found and of_ray):
        return None
    used = f"{found['used']} of {found['limit']} GiB were used on node {found['node']}" if found else "a node was full"
    fewer = "num_workers" if setting not in ("preprocess", "infer", "read") else "num_tasks"
    return KilledForMemory(
        f"a process was killed for memory: {used}; reserve what it needs with resources.{setting}.memory_gib, so that "
        f"fewer share a node, or lower resources.{setting}.{fewer}"
    )
