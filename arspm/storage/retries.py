"""Repeat operations on object storage, which throttles, resets connections, stalls and truncates bodies.

The clients try each request REQUEST_TRIES times, or as often as AWS_MAX_ATTEMPTS says. An operation that still fails
with a transient error is repeated, with full-jitter back-off, for up to RETRY_SECONDS since its last progress. A try
that lasts longer than that has made progress, since requests without any end by their time-outs. Then one
StorageUnavailable is raised, with the URI, the last error and the number of tries. AWS_MAX_ATTEMPTS=1 turns off all
repeats, here and in the chain. Denied access and missing files are not repeated. Messages never show credentials.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from arspm.storage import credentials
from arspm.storage.uris import display_uri, is_remote, is_s3, redact_text

RETRY_SECONDS = 60.0  # from an operation's last progress to its last try, which may end later by its time-outs
_LONG_TRIES = 5  # that made progress and failed: of an operation that takes an hour, not even a fifth try helps
REQUEST_TRIES = 3
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0  # time-outs; READ_SECONDS is the longest wait for the next byte
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 8.0

# S3's error codes with a status of 4xx that are transient. NoSuchUpload: the reply that completed an upload was lost.
_TRANSIENT = {"RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody"}
_TRANSIENT |= {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_TRANSIENT |= {"XAmzContentSHA256Mismatch", "NoSuchUpload"}
# pyarrow raises plain OSErrors: only their text tells them apart.
_ARROW_TRANSIENT = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT"
    r"|UNKNOWN \(HTTP status (408|429|5(?!01)\d\d)\))"
)
_ARROW_DENIED = re.compile(
    r"AWS Error (ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID"
    r"|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|UNKNOWN \(HTTP status 40[13]\))"
)
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_KEY_ID = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b")

T = TypeVar("T")
log = logging.getLogger(__name__)


class StorageUnavailable(OSError):
    """The storage failed for as long as this module retries."""

    temporary = True  # the stage may be run again


def retried(uri: str, action: Callable[[], T]) -> T:
    """Return `action()`, repeated while the URI's storage fails with transient errors. `action` must be idempotent.

    Raises StorageUnavailable when the retries end, PermissionError with the URI and, for expired credentials, what to
    do; ValueError for a bucket where a file is needed, and any other error of `action`.
    """
    if not is_remote(uri):
        return action()

    started = progress = time.monotonic()
    tries = long_tries = 0
    while True:
        tries += 1
        begun = time.monotonic()
        try:
            return action()
        except Exception as error:
            message = " ".join(without_credentials(str(error) or type(error).__name__).split())
            if not is_transient(error):
                explained = _explained(uri, error, message)
                if explained is error:
                    raise
                raise explained from None  # the error's own chain may quote the request
        now = time.monotonic()
        if now - begun > RETRY_SECONDS and long_tries < _LONG_TRIES:
            progress, long_tries = now, long_tries + 1
        only_once = max_attempts() == 1
        if only_once or now - progress >= RETRY_SECONDS:
            unavailable = StorageUnavailable(
                f"{display_uri(uri)}: storage unavailable: tried {tries} times in {now - started:.0f} s; "
                f"last error: {message}"
            )
            unavailable.temporary = not only_once
            raise unavailable
        wait = random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(tries, 16)))
        log.warning("%s: storage unavailable (%s); try %d in %.1f s", display_uri(uri), message, tries + 1, wait)
        time.sleep(wait)


def _explained(uri: str, error: Exception, message: str) -> Exception:
    """Return the error that says in one line what is wrong, where and what to do: this one if it says so itself.

    message: of the error, without credentials.
    """
    import botocore.exceptions as aws  # slow, and already imported whenever S3 is used

    where = display_uri(uri)
    if problem := credentials.problem(uri, error):
        return PermissionError(f"{where}: {without_credentials(problem)}")
    if _is_denied(error):
        return PermissionError(
            f"{where}: access denied ({message}){_at(uri)}; check the credentials and their permissions"
        )
    if isinstance(error, aws.ParamValidationError):  # before a request is sent
        return ValueError(f"{where}: not a file on S3 ({message})")
    if isinstance(error, ValueError) and message.startswith("Invalid endpoint"):  # botocore's
        return ValueError(f"{where}: {message}; write http://HOST:PORT or https://HOST, docs/storage.md")
    if isinstance(error, aws.BotoCoreError):
        return PermissionError(f"{where}: cannot be accessed ({message}); check the AWS settings, docs/storage.md")
    if type(error) in (OSError, FileNotFoundError) and (reply_status(error)[0] or "AWS Error" in message):
        return type(error)(f"{where}: {message}{_at(uri) if 'bucket' in message else ''}")
    return error


def _at(uri: str) -> str:
    """Return which endpoint answered, for an error that may be that of a wrong one; "" if there is none."""
    if not is_s3(uri):
        return ""
    from arspm.storage.clients import filesystem  # it uses this module

    try:
        return without_credentials(f" at {filesystem(uri)[0].s3.meta.endpoint_url}")
    except Exception:  # no client, which is then what the error is about
        return ""


def max_attempts() -> int | None:
    """Return AWS_MAX_ATTEMPTS, the number of tries per request that every S3 client reads; None if it is not set."""
    text = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(1, int(text)) if text.isdecimal() else None


def without_credentials(text: str) -> str:
    """Return an error's text with credentials removed: servers and clients may quote the request."""
    for name in _CREDENTIALS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return _KEY_ID.sub("***", redact_text(text))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without credentials; the error's type if it has no text."""
    return (without_credentials(str(error)).strip().splitlines() or [type(error).__name__])[0]


def reply_status(error: Exception) -> tuple[int, str]:
    """Return S3's HTTP status and error code from an s3fs error; (0, "") for any other error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def reply_headers(error: Exception) -> dict[str, str]:
    """Return the headers of S3's reply, in lower case, from an s3fs error; {} for any other error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    found = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return dict(found.get("HTTPHeaders", {}))


def is_transient(error: Exception) -> bool:
    """Return whether repeating the operation may succeed."""
    if isinstance(error, StorageUnavailable):
        return False
    status, code = reply_status(error)
    if status:
        return code in _TRANSIENT or status in (408, 429) or (status >= 500 and status != 501)
    if isinstance(error, (FileNotFoundError, FileExistsError)):
        return False
    # Imported here: slow, and already imported whenever S3 is used.
    import aiohttp
    import botocore.exceptions as aws
    from botocore.parsers import ResponseParserError
    from s3fs.utils import FileExpired

    if isinstance(error, aws.SSLError) and "certificate verify failed" in str(error).lower():
        return False
    cut = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ResponseParserError)
    if isinstance(error, (*cut, aws.FlexibleChecksumError, aiohttp.ClientError, FileExpired)):
        return True
    # s3fs's time-out is asyncio's, which is another class than TimeoutError before Python 3.11.
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and _ARROW_TRANSIENT.search(str(error)) is not None


def _is_denied(error: Exception) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return True
    if reply_status(error)[0] in (401, 403):
        return True
    return isinstance(error, OSError) and _ARROW_DENIED.search(str(error)) is not None
