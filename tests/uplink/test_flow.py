"""When to reconnect, when a broker counts as silent, and what is logged: with a clock of the test's own."""

from __future__ import annotations

import logging
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.errors import FaultLog
from agent.uplink.flow import (
    FIRST_BYTES,
    LEAST_BYTES,
    MOST_BYTES,
    STALL_S,
    AckWatchdog,
    Attempt,
    InflightWindow,
    ReconnectBackoff,
)
from agent.uplink.messages import OutgoingMessage
from agent.uplink.mqtt import CONNECT_S
from drivers.model import BrokerError
from drivers.rate_limit import RateLimitedLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outage(
    backoff: ReconnectBackoff, clock: Clock, seconds: float, end: Attempt = Attempt.UNREACHABLE, takes_s: float = 0.0
) -> list[float]:
    """Times at which attempts begin, counted from the loss of the connection. Each takes ``takes_s`` and fails."""
    began, found = clock.now, []
    while clock.now < began + seconds:
        clock.now += backoff.next(end, takes_s if found else 0.0)
        found.append(clock.now - began)
        clock.now += takes_s
    return found


@given(st.integers(0, 1 << 32), st.sampled_from([Attempt.UNREACHABLE, Attempt.USELESS]))
def test_an_outage_of_less_than_ten_minutes_is_noticed_within_nine_seconds_of_its_end(seed: int, end: Attempt) -> None:
    """It was 33 s once, and up to a minute if the broker accepted connections and closed them at once.

    During a longer outage there is an attempt every 30 to 60 s.
    """
    random.seed(seed)
    clock = Clock()
    backoff = ReconnectBackoff(1.0, clock)
    attempts = outage(backoff, clock, 660.0, end)
    for away_s in (5.0, 60.0, 300.0, 590.0):
        assert min(at for at in attempts if at >= away_s) - away_s <= 9.0
    assert len([at for at in attempts if at <= 60.0]) <= 16, "few attempts"
    late = outage(backoff, clock, 3600.0, end)
    assert all(30.0 <= b - a <= 60.0 for a, b in pairwise(late[1:]))


@given(st.integers(0, 1 << 32))
def test_after_a_black_hole_a_packet_reaches_the_broker_within_nine_seconds(seed: int) -> None:
    """Each attempt waits for its time-out, then came a delay of up to 10 s: together up to 13 s without a packet."""
    random.seed(seed)
    clock = Clock()
    attempts = outage(ReconnectBackoff(1.0, clock), clock, 600.0, takes_s=CONNECT_S)
    packets = [at + again_s for at in attempts for again_s in (0.0, 1.0, 3.0, 7.0)]  # SYN, as Linux repeats it
    assert max(b - a for a, b in pairwise(packets)) <= 9.0
    assert min(b - a for a, b in pairwise(attempts)) >= CONNECT_S + 0.25, "never without a delay"


def test_ten_thousand_gateways_do_not_reconnect_in_the_same_second() -> None:
    """They lose their connections at one moment. From the tenth second on, their attempts are spread evenly."""
    random.seed(1)
    gateways, seconds = 10_000, 60
    begun = Counter[int]()
    for _ in range(gateways):
        clock = Clock()
        begun.update(int(at) for at in outage(ReconnectBackoff(1.0, clock), clock, seconds, Attempt.USELESS))
    assert max(begun[second] for second in range(10, seconds)) <= gateways / 3


def test_backoff_grows_where_a_broker_answers_and_refuses() -> None:
    clock = Clock()
    backoff = ReconnectBackoff(1.0, clock)
    waits = [backoff.next(Attempt.REFUSED, 0.1) for _ in range(12)]
    assert sum(waits[:7]) > 40 and min(waits[7:]) >= 30.0
    clock.now += 40
    assert backoff.next(Attempt.USELESS, 40.0) <= 1.0, "reset by a stable connection"


def test_backoff_stays_short_on_an_unstable_link_while_its_connections_deliver() -> None:
    """It was 45 s after each connection of a few seconds, if there had been an outage before; later it was 10 s."""
    clock = Clock()
    backoff = ReconnectBackoff(1.0, clock)
    outage(backoff, clock, 300.0)
    for _ in range(50):
        clock.now += 3.0
        assert backoff.next(Attempt.SERVED, 3.0) <= 1.0
        assert outage(backoff, clock, 20.0)[-1] <= 30.0
    assert 4.0 <= backoff.next(Attempt.USELESS, 0.1) <= 8.0, "nothing was delivered"
    assert backoff.next(Attempt.REFUSED, 0.1) >= 30.0, "the broker does not want us"
    assert backoff.next(Attempt.TAKEN_OVER, 3.0) >= 30.0


def test_backoff_is_long_after_another_client_took_over_the_session() -> None:
    backoff = ReconnectBackoff(1.0, Clock())
    waits = [backoff.next(Attempt.TAKEN_OVER, 50.0) for _ in range(6)]
    assert all(wait >= 30.0 for wait in waits) and waits[-1] >= 450.0


def test_a_puback_is_overdue_only_when_the_broker_has_received_all_of_the_message() -> None:
    """A slow link is not a silent broker."""
    watchdog, message = AckWatchdog(), OutgoingMessage("t", b"", sent_s=100.0, end_offset=50_000)
    for second in range(101, 160):
        assert watchdog.overdue_s(message, float(second), 10_000 + 500 * (second - 100)) < 2
    assert watchdog.overdue_s(message, 180.0, 39_500) > 20, "no progress"
    assert watchdog.overdue_s(message, 181.0, 50_000) == 0, "its last bytes have just arrived"
    assert watchdog.overdue_s(message, 205.0, 50_000) == 24
    assert watchdog.overdue_s(message, 206.0, 60_000) == 25, "progress of later messages does not count"


def test_a_puback_is_overdue_from_sending_where_the_message_arrived_at_once() -> None:
    watchdog, message = AckWatchdog(), OutgoingMessage("t", b"", sent_s=100.0, end_offset=500)
    assert watchdog.overdue_s(message, 100.5, 500) == 0.5 and watchdog.overdue_s(message, 121.0, 500) == 21
    unknown = OutgoingMessage("t", b"", sent_s=100.0)  # a system that does not report what arrived
    assert AckWatchdog().overdue_s(unknown, 130.0, 0) == 30


def test_a_connection_in_a_black_hole_is_given_up_after_ten_seconds_and_a_slow_one_is_not() -> None:
    """TCP alone repeats its packets ever less often: after a minute in a black hole it waits for another minute."""
    watchdog, message = AckWatchdog(), OutgoingMessage("t", b"", sent_s=100.0, end_offset=50_000)
    assert not watchdog.stalled(message, 100.5, 10_000, 30.0), "idle before this message: nothing came for long"
    assert not watchdog.stalled(message, 160.0, 10_000, 2.0), "the broker reads slowly, and its TCP answers"
    assert not watchdog.stalled(message, 109.0, 10_000, 9.0), "TCP recovers from a short one by itself"
    assert watchdog.stalled(message, 111.0, 10_000, 11.0) and STALL_S == 10
    assert not watchdog.stalled(message, 111.0, 50_000, 11.0), "the broker has it, and owes an answer"
    assert not watchdog.stalled(OutgoingMessage("t", b"", sent_s=100.0), 130.0, 0, 0.0), (
        "a system without these numbers"
    )


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(1, 1 << 20)), max_size=200))
def test_the_inflight_window_keeps_its_bounds(acks: list[tuple[float, int]]) -> None:
    window, now = InflightWindow(), 0.0
    for took_s, size in acks:
        now += took_s
        window.on_ack(took_s, size, now)
        assert LEAST_BYTES <= window.limit_bytes <= MOST_BYTES


def test_the_inflight_window_follows_the_link() -> None:
    """At 64 kbit/s it shrinks until a PUBACK takes seconds, not minutes; on a fast link it grows again."""
    window, now = InflightWindow(), 0.0
    for _ in range(200):
        took_s = window.limit_bytes / 8000
        now += took_s
        window.on_ack(took_s, 2000, now)
    assert window.limit_bytes <= 48_000
    for _ in range(4000):
        window.on_ack(0.01, 2000, now)
    assert window.limit_bytes == MOST_BYTES > FIRST_BYTES


def fault(what: str) -> BrokerError:
    return BrokerError(what, where="mqtt://x:1")


def test_faults_that_come_and_go_are_logged_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """Down and up again for a day: one line an hour for each fault, and one when all are cleared."""
    clock = Clock()
    faults = FaultLog("platform", clock)
    with caplog.at_level(logging.INFO, "meterhouse.uplink"):
        faults.connected("connected")
        for _ in range(24 * 60):
            faults.fault(fault("connection lost"))
            faults.fault(fault("connection refused"))
            faults.connected("connected")
            clock.now += 5
            faults.cleared()
            clock.now += 55
        assert len(caplog.records) <= 2 + 2 * 25
        caplog.clear()
        clock.now += 11
        faults.cleared()
        faults.cleared()
    assert [record.getMessage() for record in caplog.records] == [
        "platform: recovered after 86340 s (connection lost; connection refused, 2880 faults)"
    ]


def test_each_kind_of_fault_is_logged_up_to_twenty(caplog: pytest.LogCaptureFixture) -> None:
    faults = FaultLog("platform", Clock())
    with caplog.at_level(logging.INFO, "meterhouse.uplink"):
        for n in range(1000):
            faults.fault(fault(f"code {n}"))
    assert len(caplog.records) == 20


def test_a_rate_limited_log_counts_the_lines_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limited = RateLimitedLog(clock)
    for _ in range(900):
        limited.log(logging.warning, "wrong: %s", "x")
        clock.now += 0.125
    assert [record.getMessage() for record in caplog.records] == [
        "wrong: x",
        "wrong: x (480 since the last such line)",
    ]
