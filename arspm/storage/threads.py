"""Several operations on storage at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_THREADS = 8

S = TypeVar("S")
T = TypeVar("T")


def in_threads(action: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return `action` of each item, in order. The actions wait for storage, or for a server."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(action, items))
