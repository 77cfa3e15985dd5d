"""URIs: a local path, or `s3://bucket/key`. Nothing here accesses storage.

A URI is checked before it is used. Errors never show credentials.
"""

from __future__ import annotations

import os
import re

MAX_BYTES = 1024  # of a URI that a user writes: S3's limit for a key

_SCHEME = re.compile(r"[^/]*:/|\s*(s3a?|file):", re.IGNORECASE)
_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
# Control characters, characters that change the text direction, and surrogates (bytes that are not UTF-8).
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffd\ud800-\udfff]")
# S3 clients read a query as a version, a signature or an option. Some downloads are named `watch?v=ID`.
_QUERY = re.compile(r"\?(?!v=)[\w.-]+=")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_RAY_TRAIN_KEY = re.compile(r"[A-Za-z0-9!$&'()*+,;=:@._~/-]*", re.ASCII)


def is_remote(uri: str) -> bool:
    return _REMOTE.match(uri) is not None


def is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """Return the URI in a form that every process understands: local paths absolute, no trailing slash.

    Raises ValueError for a URI that a user must not give (`user_uri_problem`).
    """
    if problem := user_uri_problem(uri):
        raise ValueError(f"{display_uri(uri)}: {problem}")
    return uri.rstrip("/") if is_remote(uri) else local_path(uri)


def run_uri(uri: str) -> str:
    """Return `absolute` of a run's URI. Raises ValueError for an S3 URI that Ray Train would misread."""
    if problem := run_uri_problem(uri):
        raise ValueError(f"{display_uri(uri)}: {problem}")
    return absolute(uri)


def local_path(uri: str) -> str:
    """Return the absolute path of a local URI, with `~` expanded. Raises ValueError for an invalid URI."""
    check(uri)
    path = os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return path[1:] if path.startswith("//") else path  # POSIX lets abspath keep two leading slashes


def redact(uri: str) -> str:
    """Return the URI without anything that may be a user name, a password or a signature.

    A valid URI is returned unchanged. Of an invalid one, the part before an @ and the part after a ? are replaced.
    """
    if not user_uri_problem(uri):
        return uri
    uri = re.sub(r"^(\s*[A-Za-z0-9+.:-]*:/*)?.*@", r"\1***@", uri, flags=re.DOTALL)
    return re.sub(r"\?.+", "?***", uri, flags=re.DOTALL)


def redact_text(text: str) -> str:
    """Return the text with user names and passwords removed from the URIs in it."""
    return _USER_IN_URL.sub("***@", text)


def display_uri(uri: str) -> str:
    """Return the URI as error messages show it: redacted, printable, at most 200 characters of it."""
    uri = redact(uri)
    if len(uri) > 200:
        uri = f"{uri[:200]} ..."
    return uri if uri.isprintable() and uri.strip() else repr(uri)


def check(uri: str) -> None:
    """Raise ValueError, with the URI and the reason, if the URI is invalid."""
    if problem := uri_problem(uri):
        raise ValueError(f"{display_uri(uri)}: {problem}")


def user_uri_problem(uri: str) -> str:
    """Return why a user must not give this URI, or "". Stricter than `uri_problem`: not empty, at most MAX_BYTES."""
    if not uri.strip():
        return "an empty path"
    if len(uri.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"longer than {MAX_BYTES} bytes"
    return uri_problem(uri)


def run_uri_problem(uri: str) -> str:
    """Return why a run cannot have this URI, or "". Ray Train misreads or rejects some keys on S3."""
    if is_s3(uri) and not _RAY_TRAIN_KEY.fullmatch(uri.split("://", 1)[1]):
        return "the URI of a run on S3 may contain only letters, digits and ! $ & ' ( ) * + , ; = : @ . _ ~ - /"
    return ""


def uri_problem(uri: str) -> str:
    """Return why the text is not a valid URI, or ""."""
    if _UNREADABLE.search(uri):
        return "contains control characters or is not valid UTF-8"
    if not _SCHEME.match(uri) or uri.startswith("memory://"):  # memory: in this process only, for tests
        return ""
    if uri.startswith("file://"):
        return "" if uri.startswith("file:///") else "write file:///PATH with three slashes, or just the path"
    if not is_s3(uri):
        hint = "" if "://" in uri else "; put ./ before a local path that contains a colon"
        return f"not supported; give a local path or s3://BUCKET/... in lower case{hint}"
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    if "@" in bucket or (not _BUCKET.fullmatch(bucket) and "@" in key):
        return "a URI must not contain credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
    if not _BUCKET.fullmatch(bucket):
        return f"{'invalid bucket name' if bucket else 'no bucket name'}; write s3://BUCKET/..."
    if _QUERY.search(key):
        return "a URI must not contain a query (?name=value)"
    if {"", ".", ".."} & set(key.rstrip("/").split("/")) and key.strip("/"):
        return "a key on S3 must not contain '.', '..' or empty folder names"
    return ""
