"""The rate limit of all tasks: even spacing, one pause for all, and when it gives up."""

from __future__ import annotations

import threading
import time

from arspm.distributed.data.rate_limit import REFUSALS_IN_A_ROW, RateLimit, Ticket, local_gate


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limit(clock: Clock, **more: float) -> RateLimit:
    return RateLimit(20, 60.0, 900.0, clock=clock, **more)  # type: ignore[arg-type]


def granted(tested: RateLimit, clock: Clock) -> Ticket:
    """Wait on the test's clock until a request may be sent."""
    while (ticket := tested.ask()).wait_seconds:
        clock.now += ticket.wait_seconds
    return ticket


def test_requests_are_spaced_evenly_and_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    tested = limit(clock)
    begin = clock.now
    for number in range(10):
        granted(tested, clock)
        assert clock.now - begin == 3.0 * number
    clock.now += 3600.0
    assert granted(tested, clock).wait_seconds == 0.0
    assert tested.ask().wait_seconds == 3.0


def test_a_throttled_reply_pauses_everything_and_pauses_double() -> None:
    clock = Clock()
    tested = limit(clock)
    for seconds in (60.0, 120.0, 240.0, 480.0):
        ticket = granted(tested, clock)
        tested.throttled(ticket.pause, 0.0)
        assert tested.ask().wait_seconds == seconds
    ticket = granted(tested, clock)
    tested.answered()
    tested.throttled(ticket.pause, 0.0)
    assert tested.ask().wait_seconds == 60.0, "an answer starts over"


def test_the_site_may_ask_for_a_longer_pause() -> None:
    clock = Clock()
    tested = limit(clock)
    tested.throttled(granted(tested, clock).pause, 600.0)
    assert tested.ask().wait_seconds == 600.0


def test_replies_to_requests_before_a_pause_count_once() -> None:
    clock = Clock()
    tested = limit(clock)
    tickets = [granted(tested, clock) for _ in range(4)]
    for ticket in tickets:
        tested.throttled(ticket.pause, 0.0)
    assert tested.ask().wait_seconds == 60.0
    later = granted(tested, clock)
    tested.throttled(later.pause, 0.0)
    assert tested.ask().wait_seconds == 120.0


def test_it_gives_up_after_several_pauses_in_a_row() -> None:
    clock = Clock()
    tested = limit(clock, max_pauses=3)
    for _ in range(4):
        ticket = granted(tested, clock)
        assert not ticket.gave_up
        tested.throttled(ticket.pause, 0.0)
    assert tested.ask() == Ticket(0.0, 4, True)


def test_a_few_refusals_are_of_videos_and_more_in_a_row_are_throttling() -> None:
    clock = Clock()
    tested = limit(clock)
    for _ in range(3):
        for _ in range(REFUSALS_IN_A_ROW - 1):
            assert not tested.refused(granted(tested, clock).pause)
        tested.answered()
    results = [tested.refused(granted(tested, clock).pause) for _ in range(REFUSALS_IN_A_ROW)]
    assert results == [False] * (REFUSALS_IN_A_ROW - 1) + [True]
    assert tested.ask().wait_seconds == 60.0


def test_threads_share_a_gate() -> None:
    """Without a test's clock: twelve requests of four threads take as long as eleven intervals."""
    gate = local_gate(RateLimit(6000))
    begin = time.monotonic()
    threads = [threading.Thread(target=lambda: [gate.enter() for _ in range(3)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin > 0.09
