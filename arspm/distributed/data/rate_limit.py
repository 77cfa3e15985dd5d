"""One limit on the requests to a site, for all tasks of a cluster, and one pause when the site throttles.

On a cluster the `RateLimit` is an actor; in one process it is the object itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_SLEEP_SECONDS = 10.0  # until a task asks again: another task's throttled reply may have begun a pause
REFUSALS_IN_A_ROW = 3  # from then on, 403 is not about one video: many sites throttle so


class Ticket(NamedTuple):
    """The answer to a task that wants to send a request.

    wait_seconds: until it may ask again; 0 if it may send now. pause: number of pauses so far, which a report repeats.
    gave_up: the site has throttled for so long that no more is sent.
    """

    wait_seconds: float
    pause: int
    gave_up: bool


class RateLimit:
    """Spaces requests evenly, and pauses all of them after a throttled reply: the longer, the more follow in a row.

    per_minute: requests. pause_seconds: of the first pause; each doubles, up to `max_pause_seconds`, or takes as long
    as the site says. After `max_pauses` in a row without an answer between them, it gives up.
    """

    def __init__(
        self,
        per_minute: float,
        pause_seconds: float = 60.0,
        max_pause_seconds: float = 900.0,
        max_pauses: int = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spacing = 60.0 / per_minute
        self._pause_seconds, self._max_pause_seconds, self._max_pauses = pause_seconds, max_pause_seconds, max_pauses
        self._clock = clock
        self._next = clock()
        self._pauses = self._pauses_in_a_row = self._refusals = 0

    def ask(self) -> Ticket:
        """Return whether a request may be sent now, and count it if so."""
        now = self._clock()
        gave_up = self._pauses_in_a_row > self._max_pauses
        if now < self._next and not gave_up:
            return Ticket(self._next - now, self._pauses, False)
        if not gave_up:
            self._next = max(self._next, now) + self._spacing
        return Ticket(0.0, self._pauses, gave_up)

    def answered(self) -> None:
        """Note that the site answered as usual, with a video or the reason why there is none."""
        self._pauses_in_a_row = self._refusals = 0

    def throttled(self, pause: int, retry_after: float) -> None:
        """Pause all requests. A reply to a request that was sent before the last pause began counts no more."""
        if pause != self._pauses:
            return
        seconds = min(self._pause_seconds * 2**self._pauses_in_a_row, self._max_pause_seconds)
        self._pauses += 1
        self._pauses_in_a_row += 1
        self._next = max(self._next, self._clock() + max(seconds, retry_after))

    def refused(self, pause: int) -> bool:
        """Note a 403. Return whether it counts as a throttled reply, which it then is."""
        self._refusals += pause == self._pauses
        if self._refusals < REFUSALS_IN_A_ROW:
            return False
        self.throttled(pause, 0.0)
        return True


class Gate:
    """What a task needs of the rate limit. `call`: calls a method of it by its name, here or in its actor."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def enter(self) -> Ticket:
        """Return when a request may be sent, or when there will be none: `gave_up`."""
        while True:
            ticket: Ticket = self.call("ask")
            if not ticket.wait_seconds:
                return ticket
            time.sleep(min(ticket.wait_seconds, MAX_SLEEP_SECONDS))


def local_gate(limit: RateLimit) -> Gate:
    """Return the gate of a rate limit in this process."""
    return Gate(lambda name, *arguments: getattr(limit, name)(*arguments))
