"""Downloads in this process, against a real web server: every row ends as a file or in failures.parquet."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import ray

from arspm.distributed.data.download import Settings, download, last_summary
from arspm.distributed.data.download_rows import existing, read_selection
from arspm.distributed.local import in_process
from arspm.media.clip_files import ClipFolder
from arspm.media.clip_rows import read_clip_rows
from arspm.media.clips import decode_clip
from tests import faulty_server as faults
from tests.conftest import Bucket
from tests.distributed.conftest import REPO
from tests.distributed.data.site_of_films import failures, film, publish, settings
from tests.faulty_server import faulty_server
from tests.media.video_server import VideoServer, video_server
from tests.s3_servers import connected_to


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in this process, and fail where Ray would be started."""
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    with in_process():
        yield


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with video_server() as started:
        yield started


def clips_of(given: Settings) -> set[str]:
    return {path.stem for path in Path(given.destination).rglob("*.mp4")}


# --- every row


EVERYTHING = """\
YouTube ID,start segment,end segment,x,y
id-,1,3.5,0.5,0.5
id-,4.25,7,0.5,0.5
_b-,2.000000,5.000000,,
_b-,2,5.0,,
_b-,9,30,,
gone,1,2,,
closed,1,2,,
silent,1,2,,
page,1,2,,
only three,1,2
../up,1,2,,
named,1,2,,,named.mp4
id-,5,4,,
"""


def test_every_row_ends_as_a_file_or_as_a_line_with_a_reason(server: VideoServer, tmp_path: Path) -> None:
    publish(server, "id-", "_b-", "named")
    server.files |= {"silent.mp4": film(with_sound=False), "page.mp4": b"<!doctype html><p>no film"}
    server.statuses["closed.mp4"] = [403, None]
    given = settings(server, tmp_path, EVERYTHING)
    progress: list[tuple[float, float]] = []
    summary = download(given, lambda done, total, message: progress.append((done, total)))
    assert clips_of(given) == {"id-_1_3.5", "id-_4.25_7", "_b-_2.000000_5.000000"}
    assert failures(given.destination) == {
        5: ("bad_row", False),  # a duplicate
        6: ("too_short", False),
        7: ("removed", False),
        8: ("forbidden", True),
        9: ("no_sound", False),
        10: ("undecodable", False),
        11: ("bad_row", False),
        12: ("bad_row", False),
        13: ("bad_row", False),  # has a file of its own
        14: ("bad_row", False),
    }
    assert (summary.num_rows, summary.num_downloaded, sum(summary.failed.values())) == (13, 3, 10)
    assert summary.failed["bad_row"] == 5
    assert summary.first["too_short"] == "_b-_9_30: the sound ends at 12.00 s, and the clip at 30.00 s"
    assert last_summary(given.destination) == summary
    assert progress[-1] == (13, 13)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert len(server.of("id-.mp4")) <= 4, "one look at the video for both of its rows"


def test_preprocessing_finds_the_clips_and_they_have_the_rows_length(server: VideoServer, tmp_path: Path) -> None:
    publish(server, "id-", "a_1", "c")
    text = "id-,1e0,3.5,,\na_1,.5,4.,,\nc,+2,6.123456,,\n"
    given = settings(server, tmp_path, text)
    assert download(given).num_downloaded == 3
    rows = read_clip_rows(given.csv, ClipFolder(given.destination))
    assert len(rows.usable()) == 3
    for row in rows:
        media = decode_clip(row.path, part=(row.start_seconds, row.end_seconds))
        assert media.waveform.size / 16_000 == pytest.approx(row.end_seconds - row.start_seconds, abs=0.07)
        assert len(media.frames) == 8


@pytest.mark.parametrize(
    ("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t")], ids=["utf-8", "bom", "utf-16"]
)
def test_tables_of_any_kind_are_read(server: VideoServer, tmp_path: Path, encoding: str, separator: str) -> None:
    publish(server, "a", "b")
    given = settings(server, tmp_path, "")
    rows = [["video_id", "start", "end", "x", "y"], ["a", "1", "3", "0.5", "0.5"], ["b", "2", "4.5", "", ""]]
    Path(given.csv).write_text("\n".join(separator.join(row) for row in rows), encoding=encoding)
    assert download(given).num_downloaded == 2
    assert clips_of(given) == {"a_1_3", "b_2_4.5"}


# --- resume


def test_the_same_command_asks_only_for_what_may_change(server: VideoServer, tmp_path: Path) -> None:
    publish(server, "a", "busy")
    server.statuses |= {"broken.mp4": [500, None], "closed.mp4": [403, None]}
    given = settings(server, tmp_path, "a,1,3,,\na,4,30,,\ngone,1,2,,\nbroken,1,2,,\nclosed,1,2,,\nbad\n")
    first = download(given)
    assert first.failed == {"bad_row": 1, "forbidden": 1, "network": 1, "removed": 1, "too_short": 1}
    counts = {name: len(server.of(f"{name}.mp4")) for name in ("a", "gone", "broken", "closed")}
    server.statuses.clear()
    publish(server, "broken", "gone")
    second = download(given)
    assert {name: len(server.of(f"{name}.mp4")) - counts[name] for name in ("a", "gone")} == {"a": 0, "gone": 0}
    assert len(server.of("broken.mp4")) > counts["broken"]
    assert len(server.of("closed.mp4")) > counts["closed"]
    assert (second.num_downloaded, second.num_there_before, second.num_failed_before) == (1, 1, 2)
    assert second.failed == {"bad_row": 1, "removed": 2, "too_short": 1}
    third = download(replace(given, retry_failed=True))
    assert third.failed == {"bad_row": 1, "removed": 1, "too_short": 1}
    assert clips_of(given) == {"a_1_3", "broken_1_2", "gone_1_2"}
    num_requests = len(server.requests)
    assert download(given).failed == third.failed
    assert len(server.requests) == num_requests


def test_clips_that_another_program_downloaded_count(server: VideoServer, tmp_path: Path) -> None:
    given = settings(server, tmp_path, "a,1,3,,\nb,1.5,4,,\nc,1,2,,,deep/own.mp4\n")
    for name in ("a_1.000_3.000.mkv", "Some title [b].webm", "deep/own.mp4"):
        path = Path(given.destination, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"there")
    assert existing(read_selection(given.csv, None), given.csv, given.destination).all()
    assert download(given).num_there_before == 3
    assert not server.requests
    assert failures(given.destination) == {}


PROGRAM = """
import json, sys
from arspm.distributed.data.download import Settings, download
from arspm.distributed.local import in_process
from arspm.media.downloads import SiteOptions
options = json.loads(sys.argv[1])
site = SiteOptions(**options.pop("site") | {"cookies": b""})
with in_process():
    download(Settings(**options, site=site))
"""


LOADED = """
import sys
from arspm.distributed.data.download_rows import VideoClips
from arspm.distributed.data import download
from arspm.distributed.data.rate_limit import Gate, Ticket
from arspm.media.downloads import SiteOptions

def ask(name):
    print("yt_dlp.extractor.generic" in sys.modules)
    return Ticket(0.0, 0, True)

download.download_video(VideoClips("a", ()), "clips", SiteOptions(url="http://127.0.0.1:9/{video_id}.mp4"), Gate(ask))
"""


def test_a_task_has_loaded_yt_dlp_when_it_asks_for_its_turn() -> None:
    """Its request follows at once: a second later, all tasks might pause."""
    result = subprocess.run([sys.executable, "-c", LOADED], cwd=REPO, capture_output=True, text=True)
    assert result.stdout.split() == ["True"], result.stderr


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_an_interrupted_download_goes_on_where_it_was(
    server: VideoServer, tmp_path: Path, by: signal.Signals, wait_until
) -> None:
    ids = [f"v{number}" for number in range(12)]
    publish(server, *ids[::2])
    server.delay = {f"{each}.mp4": 0.6 for each in ids}
    given = settings(server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids), per_minute=600.0)
    options = asdict(given) | {"site": asdict(given.site) | {"cookies": ""}}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(options)], cwd=REPO, stderr=subprocess.PIPE)
    wait_until(lambda: len({each.path for each in server.requests}) >= 7)
    program.send_signal(by)
    program.communicate()
    asked_before = {each.path for each in server.requests}
    if by is signal.SIGINT:
        lines = failures(given.destination)
        assert lines
        assert {reason for reason, _ in lines.values()} == {"removed"}
    server.requests.clear()
    server.delay.clear()
    summary = download(given)
    assert clips_of(given) == {f"{each}_1_3" for each in ids[::2]}
    assert set(failures(given.destination)) == set(range(2, 13, 2))
    assert summary.num_rows == 12
    again = {each.path for each in server.requests} & asked_before
    # The video in progress, and those that failed in the last second.
    assert len(again) <= 3
    assert not list(Path(given.destination, "_download").glob("failures-*"))


def test_failures_of_other_rows_are_kept(server: VideoServer, tmp_path: Path) -> None:
    """A smaller sample, in between, does not forget what a larger one found."""
    given = settings(server, tmp_path, "".join(f"gone{number},1,3,,\n" for number in range(6)))
    download(given)
    num_requests = len(server.requests)
    assert download(replace(given, sample=2)).failed == {"removed": 2}
    assert download(given).failed == {"removed": 6}
    assert len(server.requests) == num_requests


# --- samples


def test_samples_nest_and_are_the_same_for_everybody(tmp_path: Path) -> None:
    lines = [f"video{number % 70},{number},{number + 3},," for number in range(300)]
    chosen = {}
    for name, order in (("one", lines), ("other", lines[::-1])):
        (tmp_path / f"{name}.csv").write_text("\n".join([*order, "bad row"]))
        for size in (1, 10, 100, 300, 1000):
            chosen[name, size] = read_selection(str(tmp_path / f"{name}.csv"), size).table["clip_id"].to_pylist()
    for size in (1, 10, 100, 300):
        assert chosen["one", size] == chosen["one", 1000][:size]
        assert sorted(chosen["one", size]) == sorted(chosen["other", size])
    assert len(chosen["one", 1000]) == 300
    hashes = [hashlib.sha256(f"order:{each.split('_')[0]}".encode()).digest() for each in chosen["one", 100]]
    assert hashes == sorted(hashes)
    assert max(hashes) <= min(
        hashlib.sha256(f"order:{each.split('_')[0]}".encode()).digest() for each in chosen["one", 300][100:]
    )


def test_only_the_sample_is_downloaded(server: VideoServer, tmp_path: Path) -> None:
    publish(server, *(f"v{number}" for number in range(8)))
    given = settings(server, tmp_path, "".join(f"v{number},1,3,,\n" for number in range(8)) + "bad\n")
    summary = download(replace(given, sample=3))
    assert (summary.num_rows, summary.num_downloaded, summary.failed) == (3, 3, {})
    small = clips_of(given)
    assert download(replace(given, sample=5)).num_downloaded == 2
    assert small < clips_of(given)


# --- throttling


def test_a_throttled_video_is_tried_again_after_a_pause(server: VideoServer, tmp_path: Path) -> None:
    publish(server, "a", "b")
    server.statuses["a.mp4"] = [429, 429]
    summary = download(settings(server, tmp_path, "a,1,3,,\nb,1,3,,\n", pause_seconds=0.3))
    assert summary.num_downloaded == 2
    times = [each.time for each in server.requests if each.status == 429]
    following = min(each.time for each in server.requests if each.time > times[1])
    assert times[1] - times[0] > 0.3
    assert following - times[1] > 0.6, "the pause doubles, for other videos, too"


def test_retry_after_is_respected(server: VideoServer, tmp_path: Path) -> None:
    publish(server, "a")
    server.statuses["a.mp4"], server.retry_after = [429], "1"
    assert download(settings(server, tmp_path, "a,1,3,,\n")).num_downloaded == 1
    assert server.requests[1].time - server.requests[0].time > 1.0


def test_a_site_that_throttles_everything_is_left_alone(server: VideoServer, tmp_path: Path) -> None:
    ids = [f"v{number}" for number in range(30)]
    for each in ids:
        server.statuses[f"{each}.mp4"] = [429, None]
    given = settings(server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids), pause_seconds=0.01)
    summary = download(given)
    assert summary.gave_up
    assert summary.failed == {"throttled": 30}
    assert all(line == ("throttled", True) for line in failures(given.destination).values())
    assert len(server.requests) == 6  # the first one, and one after each of five pauses
    server.statuses.clear()
    publish(server, *ids)
    assert download(given).num_downloaded == 30


def test_many_refusals_in_a_row_are_throttling(server: VideoServer, tmp_path: Path) -> None:
    ids = [f"v{number}" for number in range(6)]
    publish(server, *ids)
    for each in ids:
        server.statuses[f"{each}.mp4"] = [403]
    summary = download(settings(server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids)))
    assert summary.failed == {"forbidden": 4}, "the third was tried again, then three more were refused"
    assert summary.num_downloaded == 2


def test_the_rate_is_kept(server: VideoServer, tmp_path: Path) -> None:
    ids = [f"v{number}" for number in range(5)]
    publish(server, *ids)
    download(settings(server, tmp_path, "".join(f"{each},1,3,,\n" for each in ids), per_minute=120.0))
    starts = sorted(min(each.time for each in server.of(f"{name}.mp4")) for name in ids)
    assert starts[-1] - starts[1] > 1.2, "three intervals; the first request waits for yt-dlp to be loaded, too"


# --- destinations and settings


def test_a_bucket_is_a_destination(server: VideoServer, tmp_path: Path, bucket: Bucket) -> None:
    """Also of a store that could not hold a run, or that lacks other functions."""
    with faulty_server(bucket.env["AWS_ENDPOINT_URL"]) as store:
        store.lacks |= {faults.NO_CONDITIONS, faults.NO_EMPTY_OBJECTS, faults.NO_CHECKSUMS, faults.MD5_TO_DELETE}
        with connected_to(bucket.env | {"AWS_ENDPOINT_URL": store.url}):
            check_destination(server, tmp_path, bucket.uri)


def check_destination(server: VideoServer, tmp_path: Path, s3: str) -> None:
    publish(server, "a", "b")
    given = settings(server, tmp_path, "a,1,3,,\nb,2,4,,\ngone,1,2,,\n", destination=f"{s3}/downloads/clips")
    first = download(given)
    assert (first.num_downloaded, first.failed) == (2, {"removed": 1})
    rows = read_clip_rows(given.csv, ClipFolder(given.destination)).usable()
    assert [
        decode_clip(row.path, part=(row.start_seconds, row.end_seconds)).waveform.size > 30_000 for row in rows
    ] == [
        True,
        True,
    ]
    num_requests = len(server.requests)
    again = download(given)
    assert (again.num_there_before, again.num_failed_before, len(server.requests)) == (2, 1, num_requests)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"csv": "{tmp}/none.csv"}, "no CSV file at {tmp}/none.csv"),
        ({"csv": "{tmp}/bad.csv"}, "{tmp}/bad.csv: none of 1 rows is usable; the first: line 1: 1 columns"),
        ({"csv": "{tmp}/empty.csv"}, "the file is empty"),
    ],
)
def test_unusable_settings_are_one_line(
    server: VideoServer, tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    (tmp_path / "bad.csv").write_text("nothing\n")
    (tmp_path / "empty.csv").write_text("")
    given = settings(server, tmp_path, "a,1,3,,\n")
    with pytest.raises((ValueError, OSError)) as caught:
        download(replace(given, **{name: value.format(tmp=tmp_path) for name, value in changes.items()}))
    assert says.format(tmp=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not server.requests
