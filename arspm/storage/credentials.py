"""Why a store does not accept credentials that it accepted before: they expired, or a clock is wrong."""

from __future__ import annotations

import re
import socket

from arspm.storage.uris import is_s3

# S3's error codes, and those of AWS's other services, from which credentials come.
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "SecurityTokenExpired"}
_WRONG_TOKEN = {"InvalidToken", "InvalidTokenId", "InvalidTokenException"}
_WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestInTheFuture"}
# pyarrow raises plain OSErrors: only their text tells them apart.
_OF_PYARROW = {"REQUEST_EXPIRED": "RequestExpired", "REQUEST_TIME_TOO_SKEWED": "RequestTimeTooSkewed"}
_CODE = re.compile(r"AWS Error (REQUEST_EXPIRED|REQUEST_TIME_TOO_SKEWED)|Unable to parse ExceptionName: (\w+)")
# A reply to HEAD has no body, so it has no code either; pyarrow does not read that of a reply to GET.
_NO_CODE = re.compile(
    r"AWS Error (ACCESS_DENIED|UNKNOWN \(HTTP status 40[03]\)) during \w+ operation:\s*(No response body\.?)?\s*\Z"
)

_RESUME = "and run the same command again to resume"


def problem(uri: str, error: Exception) -> str:
    """Return what is wrong with the credentials for a URI and what to do, in one line; "" if it is something else.

    error: of s3fs or pyarrow, for a request that was refused. Sends another request if the reply had no reason.
    """
    code, text = _code(error)
    if code is None and is_s3(uri):
        code, text = _asked(uri)
    if code in _EXPIRED:
        return f"the credentials have expired ({text}); renew them (docs/storage.md#credentials) {_RESUME}"
    if code in _WRONG_TOKEN:
        return (
            f"the session token is not valid ({text}); it must belong to the same credentials as the key: set them "
            f"together (docs/storage.md#credentials) {_RESUME}"
        )
    if code in _WRONG_CLOCK:
        return f"the clock of {socket.gethostname()} is not the store's ({text}); set it, for example by NTP, {_RESUME}"
    return ""


def _code(error: Exception) -> tuple[str | None, str]:
    """Return the store's error code and message. The code is "" if there is no reply, None if it gave no reason."""
    from arspm.storage.retries import reply_status  # it uses this module

    status, code = reply_status(error)
    if status in (400, 403) and code in ("", str(status)):
        return None, ""
    if status:
        return code, f"{code}: {error}"
    if isinstance(error, RuntimeError) and "refreshed credentials are still expired" in str(error):  # botocore's
        return "ExpiredToken", str(error)
    if isinstance(error, OSError) and _NO_CODE.search(str(error)):
        return None, ""
    if not isinstance(error, OSError) or (found := _CODE.search(str(error))) is None:
        return "", ""
    code = found[2] or _OF_PYARROW[found[1]]
    message = str(error).split("Message: ", 1)[-1].split("operation: ", 1)[-1]
    return code, f"{code}: {message.split(' (Request ID')[0]}"


def _asked(uri: str) -> tuple[str, str]:
    """Return the code and message of the reply to a GET, which has a body; ("", "") if it is no error."""
    from arspm.storage.clients import filesystem  # it uses `retries`, which uses this module

    try:
        fs, path = filesystem(uri)
        fs.call_s3("list_objects_v2", Bucket=fs.split_path(path)[0], MaxKeys=1)
    except Exception as error:
        code, text = _code(error)
        return code or "", text
    return "", ""
