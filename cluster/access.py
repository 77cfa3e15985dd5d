"""This user's state directory, and the token that gives access to a Ray head."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import stat
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ClusterError


def state_home() -> Path:
    """Return this user's state directory: ARSPM_HOME, or ~/.arspm.

    It is created if missing, and closed to other users if it is open to them. Raises ClusterError for a shared
    directory such as /tmp, which must stay open.
    """
    home = _home()
    make_private(home)
    status = home.stat()
    if status.st_mode & 0o077:
        if status.st_uid != os.getuid() or status.st_mode & stat.S_ISVTX:
            raise ClusterError(f"{home} is shared with other users: set ARSPM_HOME to a directory of your own")
        home.chmod(0o700)
    return home


def make_private(folder: Path) -> None:
    """Create a directory and its missing parents, for this user only. Also closes a state directory around it."""
    folder = folder.absolute()
    if _home() in folder.parents:
        state_home()
    for missing in [each for each in (folder, *folder.parents) if not each.exists()][::-1]:
        missing.mkdir(mode=0o700, exist_ok=True)


def _home() -> Path:
    return Path(os.environ.get("ARSPM_HOME") or Path.home() / ".arspm").expanduser().absolute()


def token_file() -> Path:
    """Return the path where Ray looks for the token: RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def auth_headers(address: str) -> dict[str, str]:
    """Return the HTTP header with the token for requests to this address; empty if the token must not be sent.

    This machine gets the token unless RAY_AUTH_MODE forbids it. Other machines get it only with RAY_AUTH_MODE=token:
    the token is a password, and the address can be any host.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode != "token" and (mode or not _is_loopback(address)):
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not token:
        with contextlib.suppress(OSError):
            token = token_file().read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def ensure_token() -> None:
    """Create the token file, readable by this user only, unless RAY_AUTH_TOKEN or the file already has a token."""
    path = token_file()
    if os.environ.get("RAY_AUTH_TOKEN") or (path.is_file() and path.read_text().strip()):
        return
    make_private(path.parent)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
