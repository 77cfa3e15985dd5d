"""`arspm download` in this process. As a job, it is in `tests/distributed/data/test_download_on_ray.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.data.site_of_films import failures, publish
from tests.jobs.conftest import arspm
from tests.media.video_server import VideoServer, video_server


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with video_server() as started:
        publish(started, "a-", "b")
        yield started


def where(server: VideoServer, folder: Path, *rows: str) -> list[object]:
    (folder / "rows.csv").write_text("".join(f"{row}\n" for row in rows))
    url = server.url + "/{video_id}.mp4"
    return ["download", folder / "rows.csv", folder / "clips", "--url", url, "--per-minute", 6000]


def test_in_this_process_it_ends_with_counts_and_examples(server: VideoServer, tmp_path: Path) -> None:
    words = [*where(server, tmp_path, "a-,1,3,,", "b,2,4,,", "gone,1,2,,", "b,2,400,,"), "--local"]
    done = arspm(*words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("download: 4 of 4 clips, 2 downloaded") or "of 4 clips" in line for line in lines)
    assert lines[-4:] == [
        "4 rows: 2 downloaded, 2 failed",
        "removed 1: gone_1_2: [generic] gone: Unable to download webpage: HTTP Error 404: Not Found",
        "too_short 1: b_2_400: the sound ends at 12.00 s, and the clip at 400.00 s",
        f"all of them: {tmp_path}/clips/failures.parquet",
    ]
    again = arspm(*words).stdout.splitlines()
    assert "4 rows: 0 downloaded, 2 were there before, 2 failed" in again
    assert "2 of them failed before and were not tried again; see --retry-failed" in again
    assert sorted(failures(str(tmp_path / "clips")).values()) == [("removed", False), ("too_short", False)]


def test_wrong_settings_are_one_line(server: VideoServer, tmp_path: Path) -> None:
    for words, says in (
        (["--url", "file:///{video_id}"], "error: --url: write an address that begins with https:// or http://"),
        (["--cookies", tmp_path / "none.txt"], f"error: {tmp_path}/none.txt: no such file"),
    ):
        done = arspm(*where(server, tmp_path, "a-,1,3,,"), *words, "--local")
        assert (done.returncode, done.stderr) == (1, says + "\n")
    assert not server.requests


def test_without_a_head_the_error_says_what_to_do(server: VideoServer, tmp_path: Path) -> None:
    done = arspm(*where(server, tmp_path, "a-,1,3,,"), ARSPM_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "arspm up" in done.stderr


def test_without_yt_dlp_the_error_says_what_to_install(server: VideoServer, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "yt_dlp.py").write_text("raise ModuleNotFoundError(\"No module named 'yt_dlp'\")\n")
    done = arspm(
        *where(server, tmp_path, "a-,1,3,,"),
        "--local",
        PYTHONPATH=os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 1
    assert (
        done.stderr == "error: yt-dlp is not installed: run `pip install 'arspm[download]'` where the downloads run\n"
    )
