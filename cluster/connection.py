"""The connection to a Ray head's dashboard: one line that says what is wrong if there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

from cluster.access import auth_headers, token_file
from cluster.errors import ClusterError, Unreachable
from cluster.listeners import what_answers
from cluster.proxies import is_direct, is_loopback

_REQUEST_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_CONTACT_SECONDS = 30.0  # for the first answer, from the name's resolution to the last byte
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_PORT = "pass the port of Ray's dashboard, 8265 unless it was changed"
# Loggers of Ray that report connections and uploads at INFO, which would end up between a command's own lines. Two of
# them set their own level, so a level on the parent "ray" has no effect. A name that a later Ray lacks does no harm.
_CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def normalize_address(address: str) -> str:
    """Return an address, `HOST:PORT` or a URL, as `http(s)://HOST:PORT`.

    Raises ClusterError if it cannot be the address of a dashboard.
    """
    address = address.strip().rstrip("/")
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number below 65536, or brackets are not in pairs
        valid = False
    if not valid:
        raise ClusterError(f"{address!r} is not the address of a Ray dashboard: write it as http://HOST:8265")
    return parts.geturl()


def connect(address: str) -> Any:
    """Return a `JobSubmissionClient` that is connected to the head at `address`.

    Waits for an answer for at most 30 seconds. Raises Unreachable if nothing answers there, and ClusterError if
    something else than a dashboard does, or if the head refuses the token.
    """
    import requests

    address = normalize_address(address)
    headers = auth_headers(address)
    if not headers and os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        raise ClusterError(
            f"RAY_AUTH_MODE=token, but there is no token in {token_file()}: `arspm up` creates one for a local head; "
            "for another head, set RAY_AUTH_TOKEN_PATH to the file with its token"
        )
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _unset(_ADDRESS_VARIABLES):  # Ray would prefer them to the argument
        try:
            return _within(_CONTACT_SECONDS, lambda: _client_class()(address, headers=headers))
        except ClusterError:
            raise
        except ConnectionError as error:  # Ray's; its context is that of `requests`
            _raise_no_answer(address, error.__context__ or error)
        except (requests.HTTPError, ValueError) as error:
            _raise_other_answer(address, error)
        except (requests.RequestException, TimeoutError) as error:
            _raise_no_answer(address, error)
        except Exception as error:
            _raise_other_answer(address, error)


def _client_class() -> type:
    """Return Ray's client with a bounded wait, with our choice of proxies, and with our errors."""
    import requests
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        connected = False

        def __init__(self, address: str, headers: dict[str, str]) -> None:
            self._own_headers = headers  # Ray would add the token to them by rules of its own
            super().__init__(address, headers=dict(headers))
            self._headers = headers  # for the logs' web socket
            self.connected = True

        # Every request passes through this private method, and the public ones take neither a timeout nor a session.
        def _do_request(
            self, method: str, endpoint: str, *, data: Any = None, json_data: Any = None, **options: Any
        ) -> Any:
            options.setdefault("timeout", (_CONNECT_SECONDS, _REQUEST_SECONDS))  # Ray's default is to wait forever
            url = self._address + endpoint
            try:
                with session(self._address, self._own_headers) as opened:
                    answer = opened.request(
                        method,
                        url,
                        cookies=self._cookies,
                        data=data,
                        json=json_data,
                        headers=self._own_headers,
                        allow_redirects=False,  # to a host that the user did not name
                        **options,
                    )
            except requests.RequestException:
                if not self.connected:
                    raise  # `connect` finds out what is there
                raise Unreachable(_no_head(self._address)) from None
            _check_answer(self._address, answer)
            return answer

    return Client


@contextlib.contextmanager
def session(address: str, headers: dict[str, str]) -> Iterator[Any]:
    """Give a `requests.Session` for requests to the head at this address.

    A head that needs no proxy is asked without one. A token is never replaced by a password of .netrc.
    """
    import requests

    with requests.Session() as opened:
        if is_direct(urlsplit(address).hostname or ""):
            opened.trust_env = False
            opened.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        if "Authorization" in headers:
            opened.auth = lambda request: request  # any other than None: otherwise .netrc takes precedence
        yield opened


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """Return what `action` returns, or raise TimeoutError. A server can keep a request alive byte by byte."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="first contact", daemon=True)
    thread.start()
    thread.join(seconds)
    for error in errors:
        raise error
    if not results:
        raise TimeoutError
    return results[0]


def _no_head(address: str) -> str:
    return f"no Ray head answers at {_shown(address)}: start one with `arspm up`, or pass --ray-address"


def _shown(address: str) -> str:
    """Return an address for an error message, without the user name and password that a URL may contain."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _proxy(address: str) -> str | None:
    """Return host and port of the proxy that requests to this address pass through, or None."""
    from requests.utils import get_environ_proxies, select_proxy

    if is_direct(urlsplit(address).hostname or ""):
        return None
    proxy = select_proxy(address, get_environ_proxies(address))
    return proxy and urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]


def _raise_no_answer(address: str, error: BaseException) -> NoReturn:
    """Raise an error that says why there is no answer in HTTP."""
    import requests

    shown, parts = _shown(address), urlsplit(address)
    if proxy := _proxy(address):
        raise Unreachable(
            f"no Ray head answers at {shown} through the proxy {proxy}: if the head is reached without it, add "
            f"{parts.hostname} to NO_PROXY; otherwise check the address, and that the head is running"
        ) from None
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    found = what_answers(host, port)
    if found == "nothing" and is_loopback(host):
        raise Unreachable(_no_head(address)) from None
    if found == "grpc":
        raise ClusterError(f"{shown} is a gRPC port, such as that of Ray's GCS: {_PORT}") from None
    if found == "tls" and parts.scheme == "http":
        _raise_tls(address)
    if found == "tls" and isinstance(error, requests.exceptions.SSLError):
        raise ClusterError(
            f"the certificate of {shown} is not accepted ({_reason(error)}): set REQUESTS_CA_BUNDLE to the file with "
            "its authority's certificate"
        ) from None
    if found == "http" and parts.scheme == "https":
        raise ClusterError(f"{shown} answers without TLS: write http://{parts.netloc.rpartition('@')[2]}") from None
    if found == "other":
        raise ClusterError(f"{shown} is the port of another service, which does not speak HTTP: {_PORT}") from None
    reason = {
        "nothing": f"nothing listens there; check that the head is running, and {_PORT}",
        "unresolved": "the host's name cannot be resolved; check --ray-address",
        "unreachable": "no connection; check the address, and that no firewall is between",
    }.get(found, f"it accepts connections but gives no answer; {_PORT}")
    raise Unreachable(f"no Ray head answers at {shown}: {reason}") from None


def _raise_other_answer(address: str, error: Exception) -> NoReturn:
    """Raise an error for an answer in HTTP that is not a dashboard's."""
    import requests

    shown, parts = _shown(address), urlsplit(address)
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
    if isinstance(error, requests.JSONDecodeError | KeyError | TypeError):
        line = "its answer contains no version of Ray"
    elif isinstance(error, requests.HTTPError):
        if parts.scheme == "http" and what_answers(parts.hostname or "", parts.port or 80) == "tls":
            _raise_tls(address)  # a web server that tells in HTTP that it expects TLS
        line = line.partition(" for url")[0]
    elif isinstance(error, OSError):  # such as a proxy that `requests` cannot use
        raise ClusterError(f"cannot send requests to {shown}: {line}") from error
    raise ClusterError(f"{shown} answers, but is not a Ray head: {line}; {_PORT}") from error


def _raise_tls(address: str) -> NoReturn:
    https = _shown(urlsplit(address)._replace(scheme="https").geturl())
    raise ClusterError(f"{_shown(address)} answers with TLS: write {https}") from None


def _check_answer(address: str, answer: Any) -> None:
    """Raise an error that says what to do if the answer is a refusal, a redirection, or a proxy's own."""
    shown, status = _shown(address), answer.status_code
    if answer.is_redirect:
        target = _shown(answer.headers["Location"]).partition("?")[0]
        raise ClusterError(f"{shown} redirects to {target}: pass the address of the dashboard itself")
    if status == 407 or (status in (502, 503, 504) and _proxy(address)):
        raise Unreachable(
            f"the proxy {_proxy(address)} does not reach {shown} ({status} {answer.reason}): if the head is reached "
            f"without it, add {urlsplit(address).hostname} to NO_PROXY"
        )
    if status in (502, 503, 504):
        raise Unreachable(f"{shown} answers {status} {answer.reason}: the head behind it is not running, or not ready")
    if status not in (401, 403):
        return
    if "authentication token" not in answer.text:  # in both of Ray's refusals
        raise ClusterError(
            f"{shown} answers {status} {answer.reason}, but not as a Ray head does: {_PORT}; if a server in front of "
            "the head asks for a password of its own, connect to the head through a tunnel"
        )
    if status == 401:
        raise ClusterError(
            f"the Ray head at {shown} requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file "
            "with the token (or RAY_AUTH_TOKEN to the token)"
        )
    source = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(token_file())
    raise ClusterError(
        f"the Ray head at {shown} refuses the token in {source}: set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the "
        "token that it was started with"
    )


def _reason(error: BaseException) -> str:
    """Return the reason that OpenSSL gives, from the innermost of an error's causes."""
    inner: BaseException | None = error
    while inner is not None:
        if message := getattr(inner, "verify_message", None) or getattr(inner, "reason", None):
            if isinstance(message, BaseException):
                inner = message
                continue
            return str(message)
        inner = inner.args[0] if inner.args and isinstance(inner.args[0], BaseException) else inner.__cause__
    return type(error).__name__


@contextlib.contextmanager
def _unset(names: Sequence[str]) -> Iterator[None]:
    """Remove these environment variables for the duration of the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
