"""Videos from a real web server through yt-dlp's generic extractor: ranges, whole files, faults, and error texts."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import yt_dlp
from yt_dlp.networking.exceptions import IncompleteRead
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError

from arspm.media.clips import decode_clip
from arspm.media.download_failures import DownloadFailed, FailureReason, classify, one_line
from arspm.media.downloads import SiteOptions, Video, check_url, open_video, read_cookies, video_url
from tests.media.media_files import buzz, write_clip
from tests.media.video_server import VideoServer, video_server

FPS, SECONDS = 10, 60
PART = (31.3, 35.9)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Films of a minute and several megabytes: the index at the end, at the beginning, and in fragments."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(20)]
    frames = [np.maximum(noise[number % 20], 4 * (number // FPS)) for number in range(FPS * SECONDS)]
    write_clip(folder / "film.mp4", frames, buzz(SECONDS), fps=FPS, video_codec="libx264", gop_size=20)
    for name, flags in (
        ("front.mp4", "faststart"),
        ("dash.mp4", "frag_keyframe+empty_moov+default_base_moof+dash+global_sidx"),
    ):
        remux(folder / "film.mp4", folder / name, ("video", "audio"), flags)
    for kind in ("video", "audio"):
        remux(folder / "film.mp4", folder / f"{kind}.mp4", (kind,), "faststart")
    remux(folder / "film.mp4", folder / "film.mkv", ("video", "audio"))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"unrated.mkv": without_frame_rate(found["film.mkv"])}


def without_frame_rate(mkv: bytes) -> bytes:
    """Return a Matroska file without the durations of frames in its header: voids of the same length replace them."""
    header, rest = mkv[:4096], mkv[4096:]
    return re.sub(rb"\x23\xe3\x83([\x81-\x88])", lambda found: bytes([0xEC, found[1][0] + 2, 0, 0]), header) + rest


def remux(source: Path, target: Path, kinds: tuple[str, ...], flags: str = "") -> None:
    options = {"movflags": flags} if flags else {}
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        copies = {each: written.add_stream_from_template(each) for each in read.streams if each.type in kinds}
        for packet in read.demux([*copies]):
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                written.mux(packet)


@pytest.fixture
def server(films: dict[str, bytes]) -> Iterator[VideoServer]:
    with video_server() as started:
        started.files = dict(films)
        yield started


def options(server: VideoServer, **more: object) -> SiteOptions:
    values: dict[str, object] = {"url": server.url + "/{video_id}", "retry_seconds": 0.01, "timeout_seconds": 5.0}
    return SiteOptions(**(values | more))  # type: ignore[arg-type]


def cut_one(server: VideoServer, name: str, folder: Path, part: tuple[float, float] = PART, **more: object) -> str:
    with open_video(name, options(server, **more)) as video:
        return video.cut(*part, str(folder))


def failure(server: VideoServer, name: str, folder: Path, **more: object) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        cut_one(server, name, folder, **more)
    assert "://" not in caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("name", ["film.mp4", "front.mp4", "dash.mp4", "film.mkv", "unrated.mkv"])
def test_only_the_segment_is_fetched_where_the_server_has_ranges(
    server: VideoServer, tmp_path: Path, name: str
) -> None:
    path = cut_one(server, name, tmp_path)
    replies = server.of(name)
    asked = sum(
        int(each.range.split("-")[1]) - int(each.range.removeprefix("bytes=").split("-")[0]) + 1
        for each in replies
        if each.range
    )
    assert {each.status for each in replies if each.range} == {206}
    assert len([each for each in replies if not each.range]) == 1  # of the extractor, which reads its beginning
    assert asked < len(server.files[name]) / 4
    assert len(replies) < 15
    (tmp_path / "whole").write_bytes(server.files[name])
    clip, original = decode_clip(path, part=PART), decode_clip(tmp_path / "whole", part=PART)
    assert clip.waveform.size == pytest.approx(original.waveform.size, abs=800)
    for ours, theirs in zip(clip.frames, original.frames, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 2


def test_two_clips_of_a_video_share_the_index(server: VideoServer, tmp_path: Path) -> None:
    with open_video("film.mp4", options(server)) as video:
        video.cut(*PART, str(tmp_path))
        before = len(server.of("film.mp4"))
        video.cut(PART[0] + 0.4, PART[1], str(tmp_path))
    assert len(server.of("film.mp4")) == before


def test_without_ranges_the_video_is_downloaded_and_cut(server: VideoServer, tmp_path: Path) -> None:
    server.without_ranges = {"film.mp4"}
    temporary = set(os.listdir("/tmp"))
    path = cut_one(server, "film.mp4", tmp_path)
    assert decode_clip(path, part=PART).waveform.size == pytest.approx(16_000 * 4.6, abs=800)
    assert {each.status for each in server.of("film.mp4")} == {200}
    assert not [each for each in set(os.listdir("/tmp")) - temporary if each.startswith("arspm-download-")]


def test_picture_and_sound_may_be_two_files(server: VideoServer, tmp_path: Path) -> None:
    """As yt-dlp describes a video of YouTube: `requested_formats`."""
    formats = [{"url": f"{server.url}/{name}", "protocol": "http", "ext": "mp4"} for name in ("video.mp4", "audio.mp4")]
    with yt_dlp.YoutubeDL({"quiet": True}) as client:
        video = Video(client, {"id": "x", "requested_formats": formats, "duration": 60}, tmp_path, options(server))
        media = decode_clip(video.cut(*PART, str(tmp_path)), part=PART)
        with pytest.raises(DownloadFailed, match="too_short: the video lasts 60 s"):
            video.cut(58.0, 66.0, str(tmp_path))
        video.close()
    assert media.waveform.size == pytest.approx(16_000 * 4.6, abs=800)
    assert len(media.frames) == 8
    for name in ("video.mp4", "audio.mp4"):
        assert sum(each.status == 206 for each in server.of(name)) >= 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, FailureReason.removed),
        (410, FailureReason.removed),
        (401, FailureReason.forbidden),
        (403, FailureReason.forbidden),
        (429, FailureReason.throttled),
        (500, FailureReason.network),
    ],
)
def test_a_status_has_a_reason(server: VideoServer, tmp_path: Path, status: int, reason: FailureReason) -> None:
    server.statuses["film.mp4"] = [status, None]
    server.retry_after = "7"
    found = failure(server, "film.mp4", tmp_path)
    assert found.reason is reason
    assert found.retry_after == (7 if status == 429 else 0)
    assert len(server.of("film.mp4")) == (3 if status == 500 else 1)  # only what may be an accident is repeated


def test_a_media_file_that_is_throttled_later_has_that_reason(server: VideoServer, tmp_path: Path) -> None:
    with open_video("film.mp4", options(server)) as video:
        video.cut(*PART, str(tmp_path))
        server.statuses["film.mp4"] = [429, None]
        with pytest.raises(DownloadFailed, match="throttled") as caught:
            video.cut(3.0, 6.0, str(tmp_path))
        assert caught.value.reason is FailureReason.throttled
        server.statuses["film.mp4"] = []
        video.cut(3.0, 6.0, str(tmp_path))


def test_a_transfer_that_breaks_off_is_repeated(server: VideoServer, tmp_path: Path) -> None:
    with open_video("film.mp4", options(server)) as video:
        server.cut_off["film.mp4"] = 2
        video.cut(*PART, str(tmp_path))
        server.cut_off["film.mp4"] = 1000
        with pytest.raises(DownloadFailed) as caught:
            video.cut(3.0, 6.0, str(tmp_path))
    assert caught.value.reason is FailureReason.network
    server.without_ranges, server.cut_off = {"front.mp4"}, server.cut_off.__class__({"front.mp4": 2})
    assert failure_or_path(server, "front.mp4", tmp_path)


def failure_or_path(server: VideoServer, name: str, folder: Path) -> bool:
    """Whether a clip of the right length came out of broken downloads."""
    return decode_clip(cut_one(server, name, folder), part=PART).waveform.size > 16_000 * 4.5


def test_a_server_that_is_silent_or_absent_is_a_network_failure(server: VideoServer, tmp_path: Path) -> None:
    server.delay["film.mp4"] = 1.5
    begin = time.monotonic()
    assert failure(server, "film.mp4", tmp_path, timeout_seconds=0.2).reason is FailureReason.network
    assert time.monotonic() - begin < 1.5
    absent = SiteOptions(url="http://127.0.0.1:9/{video_id}", retry_seconds=0.01)
    with pytest.raises(DownloadFailed) as caught, open_video("a", absent):
        pass
    assert caught.value.reason is FailureReason.network


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("video.mp4", None, FailureReason.no_sound),
        ("audio.mp4", None, FailureReason.no_video),
        ("broken.mp4", b"\x00" * 70_000, FailureReason.undecodable),
        ("page.html", b"<!doctype html><title>nothing</title><p>no film here", FailureReason.unsupported),
    ],
)
def test_what_is_no_clip_has_a_reason(
    server: VideoServer, tmp_path: Path, name: str, content: bytes | None, reason: FailureReason
) -> None:
    if content is not None:
        server.files[name] = content
    assert failure(server, name, tmp_path).reason is reason


# --- cookies and addresses


COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t{expires}\tsession\ts3cret\n"


def test_cookies_are_sent_and_the_file_stays_as_it_is(
    server: VideoServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(COOKIES.format(expires=int(time.time()) + 10_000))
    before = file.read_bytes()
    file.chmod(0o400)
    given = options(server, cookies=read_cookies(str(file)))
    with open_video("film.mp4", given) as video:
        video.cut(*PART, str(tmp_path))
    assert {each.cookie for each in server.of("film.mp4")} == {"session=s3cret"}
    assert file.read_bytes() == before
    assert "s3cret" not in repr(given)
    out = capfd.readouterr()
    assert "s3cret" not in out.out + out.err


@pytest.mark.parametrize("text", ['[{"name": "session", "value": "s3cret"}]', "127.0.0.1\tFALSE\t/\tsession\ts3cret"])
def test_a_file_that_holds_no_cookies_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "cookies.txt").write_text(f"# Netscape HTTP Cookie File\n{text}\n")
    with pytest.raises(ValueError, match=r"cookies.txt line 2: not a cookies file") as caught:
        read_cookies(str(tmp_path / "cookies.txt"))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_cookies(str(tmp_path / "none.txt"))


@pytest.mark.parametrize("video_id", ["../../etc/passwd", "a&list=b", "a?x#y", "@evil.example/", "é b", "a/b"])
def test_an_id_cannot_change_the_address(video_id: str) -> None:
    url = video_url("https://site.example/watch?v={video_id}", video_id)
    assert url.startswith("https://site.example/watch?v=")
    assert not set(url.removeprefix("https://site.example/watch?v=")) & set("/&?#@ é")


@pytest.mark.parametrize(
    "template",
    [
        "file:///srv/{video_id}.mp4",
        "ftp://site.example/{video_id}",
        "{video_id}",
        "https://{video_id}.example/a",
        "https://site.example/watch",
        "https:///{video_id}",
        "http://[/{video_id}",
    ],
)
def test_templates_that_could_lead_elsewhere_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"^--url: "):
        check_url(template)


# --- error texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Private video. Sign in if you've been granted access to this video", "private"),
        ("Video unavailable. This video has been removed by the uploader", "removed"),
        ("This video is no longer available because the YouTube account has been terminated.", "removed"),
        ("This video has been removed for violating YouTube's Terms of Service", "removed"),
        ("Video unavailable. This video is no longer available due to a copyright claim by X", "removed"),
        ("Video unavailable", "unavailable"),
        ("Video unavailable. This video is not available", "unavailable"),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "age"),
        ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", "throttled"),
        ("This content isn't available, try again later. The current session has been rate-limited", "throttled"),
        ("HTTP Error 429: Too Many Requests", "throttled"),
        ("Video unavailable. This video contains content from X, who has blocked it in your country", "region"),
        ("The uploader has not made this video available in your country", "region"),
        ("Join this channel to get access to members-only content like this video", "members"),
        ("This video is available to this channel's members on level: Gold", "members"),
        ("This video requires payment to watch", "members"),
        ("This live event will begin in 3 hours.", "live"),
        ("Premieres in 21 hours", "live"),
        ("This video is DRM protected", "unsupported"),
        ("Requested format is not available. Use --list-formats", "unsupported"),
        ("Unable to download webpage: The read operation timed out", "network"),
        ("Something entirely new", "unknown"),
    ],
)
def test_what_a_site_says_has_a_reason(text: str, reason: str) -> None:
    error = DownloadError(f"ERROR: [youtube] abc: {text}", (None, ExtractorError(text, expected=True), None))
    assert classify(error).reason == reason


def test_errors_of_other_kinds_have_a_reason() -> None:
    assert classify(GeoRestrictedError("blocked")).reason is FailureReason.region
    assert classify(IncompleteRead(3, 5)).reason is FailureReason.network
    assert classify(ConnectionResetError("reset by peer")).reason is FailureReason.network
    with pytest.raises(OSError, match="set TMPDIR"):
        classify(DownloadError("unable to write data: [Errno 28] No space left on device"))
    failed = DownloadFailed(FailureReason.throttled, "slow", 3.0)
    assert classify(failed) is failed
    copy = pickle.loads(pickle.dumps(failed))
    assert (copy.reason, copy.detail, copy.retry_after) == (FailureReason.throttled, "slow", 3.0)


def test_a_detail_is_one_line_without_addresses_and_advice() -> None:
    text = "ERROR: [generic] a: Unable to open https://cdn.example/v?sig=s3cret\nfor a; please report this issue on x"
    assert one_line(text) == "[generic] a: Unable to open (URL) for a"
    assert len(one_line("x" * 1000)) == 300
    assert one_line("\x1b[0;31mERROR:\x1b[0m") != ""


def test_every_reason_has_a_description() -> None:
    assert all(each.description and each.name == each.value for each in FailureReason)
    assert len({each.description for each in FailureReason}) == len(FailureReason)
    assert {each.value for each in FailureReason if each.retry} == {
        *("live", "forbidden", "throttled", "network", "unknown")
    }
