"""The exception for a clip that cannot be used."""

from __future__ import annotations

from arspm.corpus.schema import DropReason


class DroppedClip(Exception):
    """A clip that cannot be used. `reason`: one of a fixed list; `detail`: one line for people."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(reason, detail)  # both in args, so that pickling keeps them
        self.reason = reason
        self.detail = detail

    @property
    def text(self) -> str:
        """The detail, for those who are not shown the reason: a level alone does not say what is wrong."""
        return f"silent: {self.detail}" if self.reason is DropReason.silent else self.detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
