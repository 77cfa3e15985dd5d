"""Asking object storage again, which throttles, resets connections, stalls and cuts bodies short.

A request is tried REQUEST_TRIES times by the clients themselves, or as often as AWS_MAX_ATTEMPTS says; whatever still
fails is done over as a whole, with back-off and full jitter, until RETRY_SECONDS have gone by since it was begun. Then
StorageUnavailable is raised, once, with the URI, the last error and the number of tries. With AWS_MAX_ATTEMPTS=1 nothing is
tried again, here or by the chain. Refusals and what is not there are never tried again. No message of this module holds
a credential.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from arspm.storage.uris import display_uri, is_remote, redact_text

RETRY_SECONDS = 60.0  # from an operation's begin to the last try's; the last may take its time-outs longer
REQUEST_TRIES = 3
CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0  # without a byte; a request stalls no longer
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 8.0

# Codes of S3 that come with a status of 4xx and mean "again". NoSuchUpload: the reply that ended an upload was lost.
_PASSING = {"RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody"}
_PASSING |= {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_PASSING |= {"XAmzContentSHA256Mismatch", "NoSuchUpload"}
# pyarrow has no exceptions of its own, only this text.
_ARROW_PASSING = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT"
    r"|UNKNOWN \(HTTP status (408|429|5\d\d)\))"
)
_ARROW_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID"
    r"|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|UNKNOWN \(HTTP status 40[13]\))"
)
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_KEY_ID = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b")

T = TypeVar("T")
log = logging.getLogger(__name__)


class StorageUnavailable(OSError):
    """The storage did not answer, or not well, for as long as this module tries."""

    temporary = True  # the stage may be run again


def retried(uri: str, action: Callable[[], T]) -> T:
    """What `action` gives, which asks the storage of a URI; done over while the storage is away, as said above.

    `action` must bear to be done over after any part of it. Raises StorageUnavailable, PermissionError with the URI,
    ValueError for a bucket where a file is meant, and what else `action` raises.
    """
    if not is_remote(uri):
        return action()
    begun, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return action()
        except Exception as error:
            said = " ".join(without_credentials(str(error) or type(error).__name__).split())
            if _is_refusal(error):
                # Without the error's own chain, which may quote the request.
                raise PermissionError(
                    f"{display_uri(uri)}: access refused ({said}); look at the credentials and what they allow"
                ) from None
            if type(error).__name__ == "ParamValidationError":  # of botocore, before it asks
                raise ValueError(f"{display_uri(uri)}: no name of a file on S3 ({said})") from None
            if not is_passing(error):
                if type(error) in (OSError, FileNotFoundError) and (answer(error)[0] or "AWS Error" in said):
                    raise type(error)(f"{display_uri(uri)}: {said}") from None
                raise
        seconds = time.monotonic() - begun
        only_once = asked_tries() == 1
        if only_once or seconds >= RETRY_SECONDS:
            away = StorageUnavailable(
                f"{display_uri(uri)}: storage away: tried {tries} times in {seconds:.0f} s, the last time: {said}"
            )
            away.temporary = not only_once
            raise away
        wait = random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(tries, 16)))
        log.warning("%s: storage away (%s); try %d in %.1f s", display_uri(uri), said, tries + 1, wait)
        time.sleep(wait)


def asked_tries() -> int | None:
    """How often the user wants a request tried, by the variable that every client of S3 knows."""
    said = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(1, int(said)) if said.isdecimal() else None


def without_credentials(text: str) -> str:
    """An error's text, in which a server or a client may have quoted what it was sent."""
    for name in _CREDENTIALS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return _KEY_ID.sub("***", redact_text(text))


def answer(error: Exception) -> tuple[int, str]:
    """Status and code that S3 gave, as s3fs hands them on; (0, "") when the error is not S3's."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return True
    if answer(error)[0] in (401, 403):
        return True
    return isinstance(error, OSError) and _ARROW_REFUSED.search(str(error)) is not None


def is_passing(error: Exception) -> bool:
    """Whether the storage may give another answer the next time."""
    if isinstance(error, StorageUnavailable):
        return False
    status, code = answer(error)
    if status:
        return code in _PASSING or status in (408, 429) or (status >= 500 and status != 501)
    if isinstance(error, (FileNotFoundError, FileExistsError)):
        return False
    # Slow to import, and whoever gets here by S3 has done so.
    import aiohttp
    import botocore.exceptions as aws
    from botocore.parsers import ResponseParserError
    from s3fs.utils import FileExpired

    if isinstance(error, aws.SSLError) and "certificate verify failed" in str(error).lower():
        return False
    cut = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ResponseParserError)
    if isinstance(error, (*cut, aws.FlexibleChecksumError, aiohttp.ClientError, FileExpired)):
        return True
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and _ARROW_PASSING.search(str(error)) is not None
