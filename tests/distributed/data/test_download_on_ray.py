"""Downloads as Ray tasks: one rate limit and one pause for all, processes that crash, and the command's job."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arspm.corpus.hashes import order_hash
from arspm.distributed.data.download import download
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import read_clip_rows
from arspm.media.clips import decode_clip
from arspm.synthetic.films import write_corpus
from tests.distributed.conftest import busy_workers
from tests.distributed.data.site_of_films import failures, publish, settings
from tests.jobs.conftest import arspm
from tests.media.video_server import VideoServer, video_server

pytestmark = pytest.mark.ray


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with video_server() as started:
        yield started


def test_tasks_share_the_rate_and_the_pause(driver: None, server: VideoServer, tmp_path: Path) -> None:
    ids = sorted((f"v{number}" for number in range(10)), key=order_hash)  # in which they are downloaded
    publish(server, *ids[:8])
    server.statuses[f"{ids[5]}.mp4"] = [429, 429]  # when all processes have loaded yt-dlp
    given = settings(
        server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids), per_minute=150.0, concurrency=4, pause_seconds=2.0
    )
    summary = download(given)
    assert (summary.num_downloaded, summary.failed) == (8, {"removed": 2})
    assert set(failures(given.destination)) == {9, 10}
    throttled = [each.time for each in server.requests if each.status == 429]
    begun = [min(each.time for each in server.of(f"{name}.mp4")) for name in ids]
    for reply in throttled:
        # A request that had its turn just before may follow the reply, and no other one.
        assert sum(reply + 0.5 < each < reply + 1.9 for each in begun) == 0
    assert throttled[1] - throttled[0] > 1.9
    assert max(begun) - min(begun) > 2.0 + 4.0 + 3 * 0.4


def test_several_videos_are_downloaded_at_a_time(driver: None, server: VideoServer, tmp_path: Path) -> None:
    ids = [f"v{number}" for number in range(6)]
    publish(server, *ids)
    server.delay = {f"{each}.mp4": 1.0 for each in ids}
    given = settings(server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids), concurrency=2)
    assert download(given).num_downloaded == 6
    begun = sorted(min(each.time for each in server.of(f"{name}.mp4")) for name in ids)
    assert begun[1] - begun[0] < 1.0 < begun[2] - begun[0], "two, and then the next two"


def test_a_process_that_crashes_does_not_end_the_download(
    head: Any, driver: None, server: VideoServer, tmp_path: Path
) -> None:
    publish(server, "good", "deadly")
    server.delay["deadly.mp4"] = 600.0
    given = settings(server, tmp_path, "good,1,3,,\ndeadly,1,3,,\n")
    killed: set[int] = set()
    stop = threading.Event()

    def kill() -> None:
        while not stop.is_set() and not [*tmp_path.rglob("good_*.mp4")]:  # until only the other one is downloaded
            time.sleep(0.1)
        while not stop.is_set():
            for worker in busy_workers(head, "_download_on_ray"):
                if len(killed) < 2 and worker.pid not in killed and not stop.wait(1.0):
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.add(worker.pid)
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = download(given)
    finally:
        stop.set()
        killer.join()
    assert summary.failed == {"unknown": 1}
    assert "ended twice" in summary.first["unknown"]
    assert failures(given.destination) == {2: ("unknown", True)}


def test_the_command_runs_as_a_job_and_shows_no_cookies(head: Any, server: VideoServer, tmp_path: Path) -> None:
    """Films of synthetic speakers are published as videos, and parts of them downloaded."""
    made = write_corpus(tmp_path / "made", num_speakers=2, clips_per_speaker=2, fps=10)
    films = sorted(made.clips_dir.glob("*.mp4"))
    server.files |= {f"film{number}.mp4": path.read_bytes() for number, path in enumerate(films)}
    table, clips, cookies = (tmp_path / name for name in ("rows.csv", "clips", "cookies.txt"))
    table.write_text("".join(f"film{number},0.25,2.5,0.5,0.5\n" for number in range(len(films))) + "gone,1,2,,\n")
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\ts3cret\n")
    words = ["download", table, clips, "--url", server.url + "/{video_id}.mp4", "--per-minute", 600]
    done = arspm(*words, "--cookies", cookies)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "download: done in" in done.stdout
    assert "5 rows: 4 downloaded, 1 failed" in done.stdout
    assert "session=s3cret" in {each.cookie for each in server.requests}
    for path in Path(head.session_dir, "logs").rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    for row, film in zip(read_clip_rows(table, ClipFolder(clips)).usable(), films, strict=True):
        clip, original = decode_clip(row.path, part=(0.25, 2.5)), decode_clip(film, part=(0.25, 2.5))
        assert clip.waveform.size == pytest.approx(original.waveform.size, abs=2100)  # two packets at 16 kHz
        assert len(clip.frames) == 8
    again = arspm(*words)
    assert "5 rows: 0 downloaded, 4 were there before, 1 failed" in again.stdout, again.stdout + again.stderr
