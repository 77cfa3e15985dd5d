"""A site with a short film under several ids, for tests of downloads."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from arspm.distributed.data.download import Settings
from arspm.media.downloads import SiteOptions
from tests.media.media_files import buzz, write_clip
from tests.media.video_server import VideoServer

SECONDS = 12


@functools.cache
def film(*, with_sound: bool = True) -> bytes:
    """Return an MP4 of SECONDS."""
    with tempfile.TemporaryDirectory() as folder:
        frames = [np.full((48, 64, 3), 10 + number, np.uint8) for number in range(10 * SECONDS)]
        sound = buzz(SECONDS, 16_000) if with_sound else None
        path = write_clip(Path(folder, "film.mp4"), frames, sound, rate=16_000, fps=10, video_codec="libx264")
        return Path(path).read_bytes()


def publish(server: VideoServer, *video_ids: str) -> None:
    """Put the film on the server under these ids."""
    server.files |= {f"{each}.mp4": film() for each in video_ids}


def settings(server: VideoServer, folder: Path, rows: str, **more: Any) -> Settings:
    """Return the settings of a fast download of these rows, in `folder`/clips."""
    (folder / "rows.csv").write_text(rows)
    site = SiteOptions(url=server.url + "/{video_id}.mp4", retry_seconds=0.01, timeout_seconds=10.0)
    values = {"destination": str(folder / "clips"), "per_minute": 6000.0, "pause_seconds": 0.05, "site": site} | more
    return Settings(csv=str(folder / "rows.csv"), **values)


def failures(destination: str) -> dict[int, tuple[str, bool]]:
    """Return row -> (reason, retry) of failures.parquet."""
    lines = pq.read_table(f"{destination}/failures.parquet").to_pylist()
    assert [line["row"] for line in lines] == sorted(line["row"] for line in lines)
    assert all(line["detail"] for line in lines)
    return {line["row"]: (line["reason"], line["retry"]) for line in lines}
