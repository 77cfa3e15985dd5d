"""Folder trees of empty files, and short forms of the rows that they give."""

from __future__ import annotations

from pathlib import Path

from arspm.media.clip_rows import ClipRow, DroppedRow


def write_files(root: Path, *names: str) -> str:
    """Write empty files below `root` and return it."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root)


def summary(rows: list[ClipRow | DroppedRow], root: Path) -> list[tuple[str, ...]]:
    """Return each row in short: a clip's ids and relative paths, or a dropped row's reason and ids."""
    short: list[tuple[str, ...]] = []
    for row in rows:
        if isinstance(row, ClipRow):
            files = [path[len(str(root)) + 1 :] for path in (row.path, row.image) if path]
            short.append((row.video_id, row.clip_id, *files))
        else:
            short.append((row.reason.value, row.video_id, row.clip_id))
    return short
