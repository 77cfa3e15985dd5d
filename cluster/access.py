"""This user's state directory, and the token that gives access to a Ray head."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.proxies import is_loopback


def state_home() -> Path:
    """Return this user's state directory: ARSPM_HOME, or ~/.arspm.

    It is created if missing, and closed to other users if it is open to them. Raises ClusterError if there is no home
    directory, if it cannot be created, or for a shared directory such as /tmp, which must stay open.
    """
    home = _home()
    if home is None:
        raise ClusterError(
            f"no home directory: HOME is not set, and user {os.getuid()} has no entry in the user database; set "
            "ARSPM_HOME to a directory of your own"
        )
    try:
        make_private(home)
    except OSError as error:
        raise ClusterError(
            f"cannot create {home} ({error.strerror}): set ARSPM_HOME to a directory of your own"
        ) from None
    status = home.stat()
    if status.st_mode & 0o077:
        if status.st_uid != os.getuid() or status.st_mode & stat.S_ISVTX:
            raise ClusterError(f"{home} is shared with other users: set ARSPM_HOME to a directory of your own")
        home.chmod(0o700)
    return home


def existing_state_home() -> Path | None:
    """Return the state directory as `state_home` does, but create nothing: None if there is none."""
    home = _home()
    return state_home() if home and os.path.isdir(home) else None


def make_private(folder: Path) -> None:
    """Create a directory and its missing parents, for this user only. Also closes a state directory around it."""
    folder = folder.absolute()
    if _home() in folder.parents:
        state_home()
    for missing in [each for each in (folder, *folder.parents) if not os.path.exists(each)][::-1]:
        missing.mkdir(mode=0o700, exist_ok=True)


def _home() -> Path | None:
    """Return the path of the state directory, or None if it has no name."""
    named, user_home = os.environ.get("ARSPM_HOME"), _user_home()
    home = Path(named).expanduser() if named else user_home and user_home / ".arspm"
    return home and home.absolute()


def _user_home() -> Path | None:
    """Return the user's home directory, or None if neither HOME nor the user database names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def token_file() -> Path:
    """Return the path of the token: RAY_AUTH_TOKEN_PATH, or where Ray looks for it, ~/.ray/auth_token.

    If there is no token, but one in ARSPM_HOME, where `ensure_token` puts it if the home directory cannot be written:
    the path of that one.
    """
    usual, *others = _token_places()
    return next((path for path in (usual, *others) if _token_in(path)), usual)


def _token_places() -> list[Path]:
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return [Path(named).expanduser()]
    places = [(_user_home() or Path(os.devnull)) / ".ray" / "auth_token"]
    home = _home() if os.environ.get("ARSPM_HOME") else None
    return [*places, home / "auth_token"] if home else places


def auth_headers(address: str) -> dict[str, str]:
    """Return the HTTP header with the token for requests to this address; empty if the token must not be sent.

    This machine gets the token unless RAY_AUTH_MODE forbids it. Other machines get it only with RAY_AUTH_MODE=token:
    the token is a password, and the address can be any host.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode != "token" and (mode or not is_loopback(urlsplit(address).hostname or "")):
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not token:
        token = _token_in(token_file())
    return {"Authorization": f"Bearer {token}"} if token else {}


def ensure_token() -> None:
    """Create the token file, readable by this user only, unless RAY_AUTH_TOKEN or the file already has a token."""
    if os.environ.get("RAY_AUTH_TOKEN") or _token_in(token_file()):
        return
    problems = []
    for path in _token_places():
        try:
            return _create_token(path)
        except OSError as error:
            problems.append(f"cannot create {path} ({error.strerror})")
    raise ClusterError(f"{problems[0]}: set RAY_AUTH_TOKEN_PATH to a file of your own")


def _create_token(path: Path) -> None:
    make_private(path.parent)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(partial, path)  # never replaces a token that another machine with the same home has just created
    except FileExistsError:
        if not _token_in(path):
            partial.replace(path)
    except OSError:  # a file system without links
        partial.replace(path)
    partial.unlink(missing_ok=True)


def _token_in(path: Path) -> str:
    """Return the token in a file; empty if there is none, or none that this user may read."""
    with contextlib.suppress(OSError, UnicodeError):
        return path.read_text().strip()
    return ""
