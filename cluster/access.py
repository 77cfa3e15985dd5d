"""Where this user's state lives, and the token that opens a Ray head."""

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
    """Where this user's state lives: ARSPM_HOME, else ~/.arspm. Created, closed to others; one that is open is closed.

    Raises ClusterError for an open one that is not this user's alone, as /tmp is not.
    """
    home = _home()
    make_closed(home)
    status = home.stat()
    if status.st_mode & 0o077:
        if status.st_uid != os.getuid() or status.st_mode & stat.S_ISVTX:
            raise ClusterError(f"{home} is open to others and not yours to close: name another folder in ARSPM_HOME")
        home.chmod(0o700)
    return home


def make_closed(folder: Path) -> None:
    """Create the folder and what is missing above it, for this user only. The state's home around it is closed."""
    folder = folder.absolute()
    if _home() in folder.parents:
        state_home()
    for missing in [each for each in (folder, *folder.parents) if not each.exists()][::-1]:
        missing.mkdir(mode=0o700, exist_ok=True)


def _home() -> Path:
    return Path(os.environ.get("ARSPM_HOME") or Path.home() / ".arspm").expanduser().absolute()


def token_file() -> Path:
    """Where Ray looks for the token: RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def auth_headers(address: str) -> dict[str, str]:
    """The token as an HTTP header.

    Sent to this machine unless RAY_AUTH_MODE forbids, and elsewhere only where RAY_AUTH_MODE=token asks for it: a
    token is a password, and any host can be given as an address.
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
    """Have a token: RAY_AUTH_TOKEN, or the token file, made (for its owner only) when it is missing or empty."""
    path = token_file()
    if os.environ.get("RAY_AUTH_TOKEN") or (path.is_file() and path.read_text().strip()):
        return
    make_closed(path.parent)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
