"""The lease on a run: one cluster at a time works on it, and a file in its folder says which.

A *claim* is a file `_lease/<number>.json`, written with put-if-absent; the highest number counts. The drivers and jobs
of the cluster that wrote it are the lease's members. Each keeps rewriting its own file `_lease/<number>-<member>.json`
and removes it at its end. Another cluster may write the next number when the claim has no members left, when all their
processes ran on this same machine and have ended, or when no member's file has changed for EXPIRY_SECONDS. That time is
measured by whoever watches, so clocks are never compared.

A member notices a higher number within BEAT_SECONDS, and asks for it before it removes or completes anything. A process
that was stopped for longer than EXPIRY_SECONDS may still write for that long after it continues.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from pydantic import BaseModel

from arspm import storage
from arspm.runs import stages
from arspm.runs.processes import has_ended, process_name
from arspm.storage import files

FOLDER = "_lease"
BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
_LOOK_SECONDS = 1.0  # between two looks at the lease of another cluster
_JOIN_SECONDS = 5.0
_GRACE_SECONDS = 30.0  # from the loss of a lease to the end of a process that does not react to SIGINT
_CLAIM = re.compile(r"\A(\d{1,12})\.json\Z")
_MEMBER = re.compile(r"\A(\d{1,12})-[0-9a-f]{1,32}\.json\Z")

log = logging.getLogger(__name__)


class Holder(NamedTuple):
    """Who asks for a lease.

    cluster: an id that all drivers and jobs of a cluster have, and no other. where: its address, for messages.
    user: for messages; "" leaves it out.
    """

    cluster: str
    where: str
    user: str = ""


def this_process(user: str = "") -> Holder:
    """Return the holder for a process that belongs to no cluster, or to one that it does not know."""
    return Holder(f"process-{uuid.uuid4().hex}", socket.gethostname(), user)


class _Claim(BaseModel):
    cluster: str
    where: str
    user: str
    since: float  # Unix time, for messages


class LeaseHeld(RuntimeError):
    """Another cluster works on the run."""


class LeaseLost(RuntimeError):
    """Another cluster has taken over the run."""


class Lease:
    """A member's share in a lease. `member`: its name. `lost`: why the lease is lost, "" while it is held."""

    def __init__(self, run: str, cluster: str, number: int, member: str, interrupt: bool):
        self.lost, self.member = "", member
        self._run, self._cluster, self._number = run, cluster, number
        self._interrupt = interrupt
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Raise LeaseLost if another cluster has the lease now."""
        self._look()
        if self.lost:
            raise LeaseLost(self.lost)

    def close(self) -> None:
        """Give up this member's share. The lease ends with its last member."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)
        with contextlib.suppress(Exception):  # the lease then ends EXPIRY_SECONDS later
            storage.remove(_member_file(self._run, self._number, self.member))

    def _beat(self) -> None:
        beats = 1
        while not self._ended.wait(BEAT_SECONDS):
            beats += 1
            try:
                self._look()
                if self.lost:
                    return self._end_process() if self._interrupt else None
                _write_member(self._run, self._number, self.member, beats)
            except Exception as error:  # the storage is away for everyone, so nobody can take over meanwhile
                log.warning("%s: the lease could not be renewed: %s", self._run, error)

    def _end_process(self) -> None:
        """Interrupt the process, and end it if the block of `hold` does not end soon."""
        os.kill(os.getpid(), signal.SIGINT)
        if not self._ended.wait(_GRACE_SECONDS):
            print(f"error: {self.lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _look(self) -> None:
        if self.lost:
            return
        found = _read(self._run)
        if found is None or found.number < self._number:
            self.lost = f"{self._run}: its lease was removed while this program worked on it"
        elif found.claim.cluster == self._cluster:
            self._number = found.number  # another member's claim, written when this one seemed to have ended
        elif found.number > self._number:
            self.lost = f"{self._run}: {_described(found.claim)} took over this run, so this program ends"


@contextlib.contextmanager
def hold(
    run: str,
    holder: Holder,
    *,
    interrupt: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Lease]:
    """Hold the lease on a run, or on a sweep's folder, during the block.

    A run's variants have their parent's lease. A member of the same cluster joins at once; another cluster's lease is
    watched until it turns out to be alive or to have expired. `say` is told when that begins.

    interrupt: when the lease is lost, end the block by SIGINT, and the process if that does not help. Otherwise the
    caller looks at `Lease.lost`.

    Raises LeaseHeld if another cluster's lease is alive, LeaseLost after an interrupted block, and OSError if the store
    has no put-if-absent.
    """
    run = stages.parent_run(run)
    member = uuid.uuid4().hex[:12]
    number = _acquire(run, holder, member, say)
    lease = Lease(run, holder.cluster, number, member, interrupt)
    try:
        yield lease
    except BaseException:
        if interrupt and lease.lost:
            raise LeaseLost(lease.lost) from None
        raise
    finally:
        lease.close()


def describe(run: str) -> str:
    """Return who holds the lease on a run or on a sweep's folder, where and since when; "" if nobody does."""
    found = _read(stages.parent_run(run))
    if found is None or not found.members:
        return ""
    alive, seconds = last_sign(run)
    if alive:
        return f"{_described(found.claim)} works on this run since {_time(found.claim.since)}"
    silent = "" if seconds is None else f"; last sign of life at {_time(time.time() - seconds)}"
    return f"{_described(found.claim)} worked on this run from {_time(found.claim.since)}{silent}"


def last_sign(run: str, member: str = "") -> tuple[bool, float | None]:
    """Return whether a member of the lease is alive, as far as storage shows, and the seconds since its last beat.

    member: its name (default: whichever beat last). None for the seconds if there is no such member. Unlike the
    protocol, this compares the store's clock with this machine's, so it is for messages only.
    """
    run = stages.parent_run(run)
    found = _read(run)
    members = {} if found is None else {name: data for name, data in found.members.items() if member in name}
    ages: dict[str, float] = {}
    for name in members:
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
            ages[name] = max(0.0, time.time() - storage.modified(storage.join(run, FOLDER, name)))
    alive = [name for name, age in ages.items() if age < EXPIRY_SECONDS and not _all_ended({name: members[name]})]
    return bool(alive), min(ages.values(), default=None)


class _Found(NamedTuple):
    number: int
    claim: _Claim
    members: dict[str, bytes]  # file name -> content


def _acquire(run: str, holder: Holder, member: str, say: Callable[[str], None]) -> int:
    """Return the number of the claim that the holder's cluster has, with this member in it."""
    seen: dict[str, bytes] = {}
    unchanged_since = time.monotonic()
    watched = 0  # number of the claim that is being watched
    while True:
        found = _read(run)
        number = 1 if found is None else found.number + 1
        if found is not None and found.members and found.claim.cluster == holder.cluster:
            _write_member(run, found.number, member)
            return found.number
        if found is not None and not _all_ended(found.members):
            now = time.monotonic()
            if watched != found.number:
                watched, seen, unchanged_since = found.number, found.members, now
                say(
                    f"{_described(found.claim)} has worked on {run}; looking for a sign of life for up to "
                    f"{EXPIRY_SECONDS:.0f} s"
                )
            elif found.members != seen:
                raise LeaseHeld(
                    f"{run}: {_described(found.claim)} works on this run since {_time(found.claim.since)}: wait for "
                    f"it, or stop it there with `arspm cancel {run}`"
                )
            if now - unchanged_since < EXPIRY_SECONDS:
                time.sleep(_LOOK_SECONDS)
                continue
        if _claim(run, number, holder, member):
            return number


def _claim(run: str, number: int, holder: Holder, member: str) -> bool:
    """Write a claim, with its first member. Return whether this number was still free."""
    claim = _Claim(**holder._asdict(), since=time.time())
    _write_member(run, number, member)  # before the claim, because a claim without members has ended
    uri = storage.join(run, FOLDER, f"{number}.json")
    data = (claim.model_dump_json(indent=2) + "\n").encode()
    if not storage.put_if_absent(uri, data):
        storage.remove(_member_file(run, number, member))
        return False
    if storage.put_if_absent(uri, data):
        storage.remove(uri)
        raise OSError(f"{run}: {files.NO_CONDITIONS}")
    for name in storage.files_below(storage.join(run, FOLDER)):
        match = _CLAIM.match(name) or _MEMBER.match(name)
        if match and int(match[1]) < number:
            storage.remove(storage.join(run, FOLDER, name))
    return True


def _read(run: str) -> _Found | None:
    """Return the claim that counts, with its members. None if there is none."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # a member that ended between the listing and its reading
            found = storage.read_folder(storage.join(run, FOLDER), ".json")
            break
    numbers = {int(match[1]): name for name in found if (match := _CLAIM.match(name))}
    if not numbers:
        return None
    number = max(numbers)
    uri = storage.join(run, FOLDER, numbers[number])
    try:
        claim = _Claim.model_validate(json.loads(found[numbers[number]]))
    except ValueError:
        raise ValueError(f"{uri}: not a lease; remove the folder if nobody works on this run") from None
    members = {name: data for name, data in found.items() if (match := _MEMBER.match(name)) and int(match[1]) == number}
    return _Found(number, claim, members)


def _write_member(run: str, number: int, member: str, beats: int = 1) -> None:
    storage.write_json(_member_file(run, number, member), {"beats": beats, "process": process_name(os.getpid())})


def _all_ended(members: Mapping[str, bytes]) -> bool:
    """Return whether all members' processes have certainly ended. A damaged file's has not."""
    processes = []
    for data in members.values():
        with contextlib.suppress(ValueError):
            content = json.loads(data)
            processes.append(content.get("process") if isinstance(content, dict) else None)
    return len(processes) == len(members) and all(isinstance(each, str) and has_ended(each) for each in processes)


def _member_file(run: str, number: int, member: str) -> str:
    return storage.join(run, FOLDER, f"{number}-{member}.json")


def _described(claim: _Claim) -> str:
    who = f"{claim.user} on " if claim.user else ""
    return f"{who}the cluster at {claim.where}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
