"""Why a row's clip could not be downloaded: a fixed list of reasons, and which of them an error of yt-dlp means."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from enum import Enum

import pyarrow as pa

from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.media.dropped import DroppedClip

MAX_DETAIL = 300  # characters


class FailureReason(str, Enum):
    """Every reason why a row has no file: its name in `failures.parquet`, and its description.

    `retry`: whether the next run tries again. The others are tried again only if the user asks for it.
    """

    _value_: str
    description: str
    retry: bool

    def __new__(cls, value: str, description: str, retry: bool) -> FailureReason:
        member = str.__new__(cls, value)
        member._value_, member.description, member.retry = value, description, retry
        return member

    bad_row = "bad_row", "the row is not in AVSpeech's format, or repeats an earlier one", False
    private = "private", "the video is private, or only for users who have logged in", False
    removed = "removed", "the video or its account was removed, or there is nothing at the address (404, 410)", False
    unavailable = "unavailable", "the site calls the video unavailable, and does not say why", False
    age = "age", "the site wants to know the viewer's age: needs --cookies of an account", False
    region = "region", "the video is blocked in this country", False
    members = "members", "the video must be paid for, or is for members only", False
    live = "live", "a live stream that has not ended, or a premiere to come", True
    unsupported = "unsupported", "no format that can be downloaded: DRM, or no video at the address", False
    no_video = "no_video", "there is no picture, or none during the clip", False
    no_sound = "no_sound", "the video has no sound", False
    too_short = "too_short", "the video ends before the clip does", False
    undecodable = "undecodable", "the file is broken, or no media file", False
    forbidden = "forbidden", "the site refuses access (401, 403)", True
    throttled = "throttled", "the site asks for fewer requests, again and again (429, or a robot check)", True
    network = "network", "no connection, a broken one, or a fault of the server", True
    unknown = "unknown", "another error; the detail has its text", True


class DownloadFailed(Exception):
    """A video, or a clip of it, that cannot be downloaded. `detail`: one line, without URLs, for people.

    `retry_after`: seconds that the site asked to wait, 0 if it did not say.
    """

    def __init__(self, reason: FailureReason, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(reason, detail, retry_after)  # all in args, so that pickling keeps them
        self.reason, self.detail, self.retry_after = reason, detail, retry_after

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


def failures_schema() -> pa.Schema:
    """Return the columns of `failures.parquet`: line of the CSV, ids if known, reason, details, whether to retry."""
    return pa.schema(
        [
            pa.field("row", pa.int64(), False),
            pa.field(schema.CLIP_ID, pa.string()),
            pa.field(schema.VIDEO_ID, pa.string()),
            pa.field("reason", pa.string(), False),
            pa.field("detail", pa.string(), False),
            pa.field("retry", pa.bool_(), False),
        ]
    )


# What sites say, in the order in which it is looked for: "private video; sign in if ..." is private.
_TEXTS = [
    (FailureReason.throttled, r"not a bot|rate.?limited|too many requests|try again later|captcha"),
    (FailureReason.age, r"confirm your age|age.?restricted|inappropriate for some users|age verification"),
    (FailureReason.members, r"members.only|channel's members|requires payment|premium members|rental|purchase|paid "),
    (FailureReason.private, r"private video|video is private|granted access|log ?in required|registered users"),
    (FailureReason.region, r"your country|your location|geo.?restrict|your region"),
    (FailureReason.removed, r"(been|was) (removed|deleted|terminated)|account .*(terminated|closed)|no longer exists"),
    (FailureReason.removed, r"no longer available|copyright (claim|ground|infring)|does not exist"),
    (FailureReason.live, r"live event|premieres in|will begin in|is offline|not currently live|live stream recording"),
    (
        FailureReason.unsupported,
        r"drm|unsupported url|no video formats|format is not available|no video could be found",
    ),
    (FailureReason.unavailable, r"unavailable|not available|isn't available"),
    (FailureReason.network, r"timed out|connection|unable to download|incomplete|bytes read|giving up after"),
]
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_ADVICE = re.compile(
    r"[;.]? *(\(caused by|please report this issue on|use --cookies|this helps protect|confirm you are on the).*",
    re.IGNORECASE,
)


def classify(error: BaseException) -> DownloadFailed:
    """Return what an error of yt-dlp, of a connection or of decoding means. Raises OSError if the disk is full."""
    if isinstance(error, DownloadFailed):
        return error
    if isinstance(error, DroppedClip):
        return DownloadFailed(_OF_CLIPS.get(error.reason, FailureReason.unknown), error.detail)
    chain = list(causes(error))
    detail = one_line(str(error))
    text = " ".join(str(each) for each in chain).replace("’", "'").lower()
    if "no space left" in text or "disk quota exceeded" in text:
        raise OSError(f"no space left for temporary files in {tempfile.gettempdir()}; set TMPDIR to another folder")
    statuses = [getattr(each, "status", None) for each in chain]
    status = next((each for each in statuses if isinstance(each, int)), 0)
    retry_after = next((_retry_after(each) for each in chain if hasattr(each, "response")), 0.0)
    if status == 429 or (status == 503 and retry_after):
        return DownloadFailed(FailureReason.throttled, detail, retry_after)
    if status in (404, 410):
        return DownloadFailed(FailureReason.removed, detail)
    if status in (401, 403):
        return DownloadFailed(FailureReason.forbidden, detail)
    if status:
        return DownloadFailed(FailureReason.network if status >= 500 else FailureReason.unknown, detail)
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}  # yt-dlp need not be installed here
    if "GeoRestrictedError" in names:
        return DownloadFailed(FailureReason.region, detail)
    if "TransportError" in names:
        return DownloadFailed(FailureReason.network, detail)
    for reason, pattern in _TEXTS:
        if re.search(pattern, text):
            return DownloadFailed(reason, detail)
    return DownloadFailed(FailureReason.network if "OSError" in names else FailureReason.unknown, detail)


_OF_CLIPS = {
    DropReason.no_video: FailureReason.no_video,
    DropReason.no_sound: FailureReason.no_sound,
    DropReason.wrong_length: FailureReason.too_short,
    DropReason.undecodable: FailureReason.undecodable,
}


def one_line(text: str) -> str:
    """Return an error's text in one line, without colours, advice and URLs, which may be signed."""
    text = re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", text)
    text = _ADVICE.sub("", _URL.sub("(URL)", " ".join(text.split())))
    return "".join(each for each in text if each.isprintable())[:MAX_DETAIL] or "no text"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it. yt-dlp keeps that in `exc_info`, in `cause` or in Python's own places."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop(0)
        if not isinstance(each, BaseException) or each in seen:
            continue
        seen.append(each)
        yield each
        info = getattr(each, "exc_info", None)
        queue += [info[1] if isinstance(info, tuple) else None, getattr(each, "cause", None), each.__cause__]


def _retry_after(error: BaseException) -> float:
    """Return the seconds of an HTTP error's Retry-After, 0 if it has none or a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = str(headers.get("Retry-After") or "")
    return min(float(text), 3600.0) if text.isdecimal() else 0.0
