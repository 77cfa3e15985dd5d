"""What a user may give as a place: a local path, or `s3://bucket/key`. Nothing here asks a storage.

A place is refused before anything is done with it, and told then without what may be a password.
"""

from __future__ import annotations

import re

MAX_BYTES = 1024  # of a place that is given: a key's limit on S3

_SCHEME = re.compile(r"[^/]*:/|\s*(s3a?|file):", re.IGNORECASE)
_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
# Control characters, those that turn the line round, and what stands for bytes that are not UTF-8.
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffd\ud800-\udfff]")
# Clients take it for a version, a signature or an option. `watch?v=ID` is what some downloads are called.
_QUERY = re.compile(r"\?(?!v=)[\w.-]+=")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_RAYS = re.compile(r"[A-Za-z0-9!$&'()*+,;=:@._~/-]*", re.ASCII)


def is_remote(place: str) -> bool:
    return _REMOTE.match(place) is not None


def is_s3(place: str) -> bool:
    return place.startswith(("s3://", "s3a://"))


def redact(place: str) -> str:
    """A place without whatever may be a user, a password or a signature in it: of one that is refused, what is before
    an @ and what is behind a question mark."""
    if not given_problem(place):
        return place
    place = re.sub(r"^(\s*[A-Za-z0-9+.:-]*:/*)?.*@", r"\1***@", place, flags=re.DOTALL)
    return re.sub(r"\?.+", "?***", place, flags=re.DOTALL)


def redact_text(text: str) -> str:
    """A text without the users and passwords of URIs in it."""
    return _USER_IN_URL.sub("***@", text)


def display_uri(place: str) -> str:
    """A place as a line of an error has it."""
    place = redact(place)
    if len(place) > 200:
        place = f"{place[:200]} ..."
    return place if place.isprintable() and place.strip() else repr(place)


def check(place: str) -> None:
    """Raises ValueError with the place and what is wrong with it."""
    if why := problem(place):
        raise ValueError(f"{display_uri(place)}: {why}")


def check_given(place: str) -> None:
    """`check` of what a user gives, which is neither empty nor endless."""
    if why := given_problem(place):
        raise ValueError(f"{display_uri(place)}: {why}")


def given_problem(place: str) -> str:
    if not place.strip():
        return "an empty path"
    if len(place.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"longer than {MAX_BYTES} bytes"
    return problem(place)


def run_problem(run: str) -> str:
    """What keeps a place from being a run's: on S3, a name that Ray Train would read otherwise or not at all."""
    if is_s3(run) and not _RAYS.fullmatch(run.split("://", 1)[1]):
        return "a run's name on S3 is of letters, digits and ! $ & ' ( ) * + , ; = : @ . _ ~ - / only"
    return ""


def problem(place: str) -> str:
    """What keeps a text from being a place; nothing if it is one."""
    if _UNREADABLE.search(place):
        return "a path has no control characters, and is text in UTF-8"
    if not _SCHEME.match(place) or place.startswith("memory://"):  # this process's own, for tests
        return ""
    if place.startswith("file://"):
        return "" if place.startswith("file:///") else "a file:// address begins with three slashes, or give a path"
    if not is_s3(place):
        hint = "" if "://" in place else "; a path with a colon in it begins with ./"
        return f"give a local path, or s3://BUCKET/... in small letters{hint}"
    bucket, _, key = place.split("://", 1)[1].partition("/")
    if "@" in bucket or (not _BUCKET.fullmatch(bucket) and "@" in key):
        return "credentials do not belong in a URI; set AWS_ACCESS_KEY_ID and its like"
    if not _BUCKET.fullmatch(bucket):
        return f"{'no bucket is named' if not bucket else 'not the name of a bucket'}; write s3://BUCKET/..."
    if _QUERY.search(key):
        return "a query does not belong in a URI"
    if {"", ".", ".."} & set(key.rstrip("/").split("/")) and key.strip("/"):
        return "'.', '..' and empty names are no folders on S3"
    return ""
