"""pyarrow's S3 client, with what botocore resolved for s3fs.

pyarrow has its own resolution, which knows neither an endpoint in a file, nor a profile's role, nor a proxy.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec.asyn
import pyarrow.fs
import s3fs

from arspm.storage.retries import reply_headers

# AWS's own endpoints, for which pyarrow needs the region only.
_OF_AWS = re.compile(r"https://s3\.([a-z0-9-]+\.)?amazonaws\.com(\.cn)?")
_REGION = "x-amz-bucket-region"  # header of a reply

_regions: dict[tuple[str, str], str | None] = {}  # (endpoint, bucket) -> region


class Settings(NamedTuple):
    """Arguments of `pyarrow.fs.S3FileSystem`."""

    access_key: str
    secret_key: str
    session_token: str | None
    region: str | None
    endpoint_override: str | None
    force_virtual_addressing: bool
    proxy_options: str | None
    tls_ca_file_path: str | None


def settings(fs: s3fs.S3FileSystem, bucket: str) -> Settings:
    """Return the settings and the present credentials of an s3fs file system.

    Raises botocore's errors if there are no credentials or if they cannot be renewed, and those of a request.
    """
    meta = fs.s3.meta
    endpoint, style = urlsplit(meta.endpoint_url).geturl(), (meta.config.s3 or {}).get("addressing_style")
    of_aws = _OF_AWS.fullmatch(endpoint) is not None
    certificates = fs.session.get_config_variable("ca_bundle")
    return Settings(
        *_credentials(fs),
        region=_region(fs, bucket) if of_aws else meta.region_name,
        endpoint_override=None if of_aws and style != "path" else endpoint,
        force_virtual_addressing=style == "virtual",
        proxy_options=_proxy(endpoint),
        tls_ca_file_path=certificates or None,
    )


@functools.lru_cache(maxsize=16)
def client(
    settings: Settings, connect_seconds: float, read_seconds: float, tries: int, pid: int
) -> pyarrow.fs.S3FileSystem:
    """Return pyarrow's client, which keeps connections. Threads may share it.

    pid: of this process, because a forked one must not use its parent's connections.
    """
    options: dict[str, Any] = {name: value for name, value in settings._asdict().items() if value is not None}
    if settings.proxy_options:
        proxy = urlsplit(settings.proxy_options)
        options["proxy_options"] = {
            "scheme": proxy.scheme,
            "host": proxy.hostname or "",
            "port": proxy.port or (443 if proxy.scheme == "https" else 80),
            "username": unquote(proxy.username or ""),
            "password": unquote(proxy.password or ""),
        }
    return pyarrow.fs.S3FileSystem(
        **options,
        connect_timeout=connect_seconds,
        request_timeout=read_seconds,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=tries),
    )


def _credentials(fs: s3fs.S3FileSystem) -> tuple[str, str, str | None]:
    """Return key id, secret and session token. botocore renews those that expire, if it knows how."""
    from botocore.exceptions import NoCredentialsError

    async def resolve() -> Any:
        found = await fs.session.get_credentials()
        return None if found is None else await found.get_frozen_credentials()

    found = fsspec.asyn.sync(fs.loop, resolve)
    if found is None:
        raise NoCredentialsError
    return found.access_key, found.secret_key, found.token


def _region(fs: s3fs.S3FileSystem, bucket: str) -> str | None:
    """Return the region of a bucket on AWS. s3fs follows AWS's redirections, pyarrow does not."""
    where = str(fs.s3.meta.endpoint_url), bucket
    if where not in _regions:
        try:
            headers = fs.call_s3("head_bucket", Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        except OSError as error:  # AWS names the region also to those who may not list the bucket
            headers = reply_headers(error)
            if _REGION not in headers:
                raise
        _regions[where] = headers.get(_REGION, fs.s3.meta.region_name)
    return _regions[where]


def _proxy(endpoint: str) -> str | None:
    """Return the URL of the proxy for an endpoint, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as botocore does."""
    from botocore.httpsession import ProxyConfiguration
    from botocore.utils import get_environ_proxies

    found: str | None = ProxyConfiguration(get_environ_proxies(endpoint)).proxy_url_for(endpoint)
    return found
