"""One video of a site, by yt-dlp: its formats, and clips of it, read in ranges or from a complete download."""

from __future__ import annotations

import functools
import re
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from arspm import storage
from arspm.media.download_failures import DownloadFailed, FailureReason, causes, classify
from arspm.media.remote_files import BLOCK_BYTES, RangeFile
from arspm.media.segments import cut

T = TypeVar("T")

DEFAULT_URL = "https://www.youtube.com/watch?v={video_id}"
MISSING = "yt-dlp is not installed: run `pip install 'arspm[download]'` where the downloads run"
CONNECTION_TRIES = 3
_EXPIRY = re.compile(r"\d*(\.\d+)?", re.ASCII)  # Unix time; empty: until the browser is closed
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class SiteOptions:
    """How a site is asked. url: template with {video_id}. cookies: content of a file in Netscape's format."""

    url: str = DEFAULT_URL
    max_height: int = 720
    cookies: bytes = field(default=b"", repr=False)
    timeout_seconds: float = 20.0
    retry_seconds: float = 2.0  # before a connection is tried again; doubles


def check_url(template: str) -> None:
    """Raise ValueError unless this is a template of http(s) URLs in which an id cannot change the server."""
    try:
        parts = urllib.parse.urlsplit(template)
        outside = f"{parts.scheme}{parts.netloc}"
    except ValueError:
        parts, outside = urllib.parse.SplitResult("", "", "", "", ""), ""
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("--url: write an address that begins with https:// or http://")
    if "{video_id}" not in template or "{" in outside:
        raise ValueError("--url: must contain {video_id}, after the name of the server")


def video_url(template: str, video_id: str) -> str:
    """Return a video's URL. Nothing in the id has a meaning in it."""
    return template.replace("{video_id}", urllib.parse.quote(video_id, safe=""))


def read_cookies(uri: str) -> bytes:
    """Return the content of a cookies file. Raises FileNotFoundError, or ValueError that shows nothing of it.

    yt-dlp would print the lines that it cannot read.
    """
    data = storage.read_bytes(uri)
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        text = line.removeprefix("#HttpOnly_")
        cells = text.split("\t")
        if text.strip() and not text.startswith("#") and (len(cells) != 7 or not _EXPIRY.fullmatch(cells[4])):
            raise ValueError(
                f"{uri} line {number}: not a cookies file in Netscape's format, seven cells separated by tabs; "
                "export it again, as docs/data.md says"
            )
    return data


def require_yt_dlp() -> Any:
    """Return the module. Raises ValueError with one line that says what to install."""
    try:
        import yt_dlp
    except ModuleNotFoundError:
        raise ValueError(MISSING) from None
    return yt_dlp


@functools.lru_cache(maxsize=1)
def load_yt_dlp(url: str) -> None:
    """Load what yt-dlp needs for the videos of a site. url: with {video_id}, as in `SiteOptions`.

    It compares a process's first address with the patterns of all sites that it knows, which takes a second or more. If
    that were done when a task has its turn, the request would follow later, perhaps in a pause of all tasks.
    """
    yt_dlp = require_yt_dlp()
    extractor = next(
        each for each in yt_dlp.extractor.gen_extractor_classes() if each.suitable(video_url(url, "a" * 11))
    )
    with yt_dlp.YoutubeDL({"quiet": True, "no_warnings": True}) as client:
        client.get_info_extractor(extractor.ie_key())


class Video:
    """A video's files: one, or the picture and the sound. They are opened when the first clip is cut."""

    def __init__(self, client: Any, info: dict[str, Any], folder: Path, options: SiteOptions) -> None:
        self._client, self._info, self._folder, self._options = client, info, folder, options
        self._formats: Sequence[dict[str, Any]] = info.get("requested_formats") or [info]
        self._files: list[BinaryIO] = []
        self._stack = ExitStack()

    def cut(self, start: float, end: float, folder: str) -> str:
        """Write [start, end) into a folder and return the path. Raises DownloadFailed."""
        seconds = self._info.get("duration")
        if isinstance(seconds, (int, float)) and seconds + 1 < end:
            raise DownloadFailed(
                FailureReason.too_short, f"the video lasts {seconds:g} s, and the clip ends at {end:g} s"
            )
        try:
            if not self._files:
                self._files = [self._open(number, each) for number, each in enumerate(self._formats)]
            try:
                return cut(self._files, start, end, folder)
            finally:
                for file in self._files:
                    if isinstance(file, RangeFile) and file.error is not None:
                        error, file.error = file.error, None
                        raise error
        except Exception as error:
            raise classify(error) from error

    def close(self) -> None:
        self._stack.close()

    def _open(self, number: int, media: dict[str, Any]) -> BinaryIO:
        """Return a format's file: its ranges if the server sends those, otherwise a complete copy."""
        if media.get("protocol") in ("http", "https"):
            first = self._request(media, 0, BLOCK_BYTES - 1)
            if first is not None:
                size, data = first
                return cast(BinaryIO, RangeFile(lambda a, b: self._range(media, a, b), size, data))
        path = self._folder / f"format-{number}"
        success, _ = self._client.dl(str(path), {**self._info, **media, "requested_formats": None})
        if not success or not path.exists():
            raise DownloadFailed(FailureReason.network, "the download ended early")
        return self._stack.enter_context(open(path, "rb"))

    def _range(self, media: dict[str, Any], first: int, last: int) -> bytes:
        reply = self._request(media, first, last)
        if reply is None or len(reply[1]) != last - first + 1:
            raise DownloadFailed(FailureReason.network, "the server sent another part than was asked for")
        return reply[1]

    def _request(self, media: dict[str, Any], first: int, last: int) -> tuple[int, bytes] | None:
        """Return the file's size and these bytes of it; None if the server sends only all of it."""
        from yt_dlp.networking import Request

        headers = {**(media.get("http_headers") or {}), "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}

        def ask() -> tuple[int, bytes] | None:
            with self._client.urlopen(Request(media["url"], headers=headers)) as reply:
                found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range") or "")
                if reply.status != 206 or found is None or int(found[1]) != first:
                    return None
                data = reply.read(last - first + 1)
                if len(data) != int(found[2]) - first + 1:
                    raise DownloadFailed(FailureReason.network, "the connection ended early")
                return int(found[3]), data

        return _persistent(ask, self._options.retry_seconds)


def _persistent(action: Callable[[], T], wait_seconds: float) -> T:
    """Return the action's result. It is tried again after a fault of the network."""
    for number in range(CONNECTION_TRIES):
        try:
            return action()
        except Exception as error:
            failed = classify(error)
            for each in causes(error):
                if (reply := getattr(each, "response", None)) is not None:
                    reply.close()
            if failed.reason is not FailureReason.network or number == CONNECTION_TRIES - 1:
                raise failed from error
        time.sleep(wait_seconds * 2**number)
    raise AssertionError


@contextmanager
def open_video(video_id: str, options: SiteOptions) -> Iterator[Video]:
    """Yield a video of the site. Raises DownloadFailed if the site does not give it.

    Temporary files, and a copy of the cookies, which yt-dlp changes, are removed at the end.
    """
    yt_dlp = require_yt_dlp()
    url = video_url(options.url, video_id)
    with tempfile.TemporaryDirectory(prefix="arspm-download-") as folder, ExitStack() as stack:
        settings: dict[str, Any] = {
            "format": "bv*+ba/b/bv*/ba",
            "format_sort": [f"res:{options.max_height}", "vcodec:h264", "acodec:aac"],
            "noplaylist": True,
            "quiet": True,
            "no_warnings": True,
            "noprogress": True,
            "logger": _Silent(),  # its messages contain signed URLs
            "socket_timeout": options.timeout_seconds,
            "retries": CONNECTION_TRIES - 1,
            "fragment_retries": CONNECTION_TRIES - 1,
            "extractor_retries": 0,  # the caller waits longer
            "retry_sleep_functions": {
                kind: lambda n: options.retry_seconds * 2**n for kind in ("http", "fragment", "extractor")
            },
            "skip_unavailable_fragments": False,
            "nopart": True,
            "fixup": "never",
            "color": "no_color",
        }
        if options.cookies:
            path = Path(folder, "cookies.txt")
            path.touch(mode=0o600)
            path.write_bytes(options.cookies)
            settings["cookiefile"] = str(path)
        try:
            client = stack.enter_context(yt_dlp.YoutubeDL(settings))
            info = _persistent(lambda: client.extract_info(url, download=False), options.retry_seconds)
        except Exception as error:
            raise classify(error) from error
        if info is None or info.get("entries") is not None or not (info.get("url") or info.get("requested_formats")):
            raise DownloadFailed(FailureReason.unsupported, "no single video at the address")
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            raise DownloadFailed(FailureReason.live, "a live stream or a premiere")
        video = Video(client, info, Path(folder), options)
        stack.callback(video.close)
        yield video


class _Silent:
    """A logger of yt-dlp that drops everything: errors are raised, too."""

    def debug(self, message: str) -> None: ...

    def info(self, message: str) -> None: ...

    def warning(self, message: str, **_: Any) -> None: ...

    def error(self, message: str) -> None: ...
