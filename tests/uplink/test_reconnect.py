"""How an uplink bears with its broker, by hand-made time."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.uplink.parcel import Parcel
from agent.uplink.reconnect import Edges, Pauses, Seldom, Stall
from agent.uplink.room import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, Room
from drivers.model import BrokerError


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outage(pauses: Pauses, clock: Time, seconds: float) -> list[float]:
    """Moments of attempts while nobody is reached, from the moment the connection is lost."""
    began, found = clock.now, []
    while clock.now < began + seconds:
        clock.now += pauses.next(lived_s=0.0, answered=False, taken_over=False)
        found.append(clock.now - began)
    return found


@given(st.integers(0, 1 << 32))
def test_after_a_minute_away_the_broker_waits_ten_seconds_at_most(seed: int) -> None:
    """It was 33 s once. Every outage below ten minutes ends within 10 s; a long one is tried once a minute or so."""
    random.seed(seed)
    clock = Time()
    pauses = Pauses(1.0, clock)
    tries = outage(pauses, clock, 660.0)
    for away_s in (5.0, 60.0, 300.0, 590.0):
        assert min(at for at in tries if at >= away_s) - away_s <= 10.0
    assert len([at for at in tries if at <= 60.0]) <= 16, "no hammering"
    late = outage(pauses, clock, 3600.0)
    assert all(30.0 <= b - a <= 60.0 for a, b in pairwise(late[1:]))


def test_a_broker_that_answers_and_refuses_is_tried_less_and_less() -> None:
    clock = Time()
    pauses = Pauses(1.0, clock)
    waits = [pauses.next(lived_s=0.1, answered=True, taken_over=False) for _ in range(12)]
    assert sum(waits[:7]) > 40 and min(waits[7:]) >= 30.0
    clock.now += 40
    assert pauses.next(lived_s=40.0, answered=True, taken_over=False) <= 1.0, "a connection that lived was a good one"


def test_a_shaky_modem_waits_ten_seconds_at_most_as_long_as_its_connections_do_their_work() -> None:
    """It was 45 s after each connection of a few seconds, when an outage had come before."""
    clock = Time()
    pauses = Pauses(1.0, clock)
    outage(pauses, clock, 300.0)
    for _ in range(50):
        clock.now += 3.0
        assert pauses.next(lived_s=3.0, answered=True, taken_over=False, served=True) <= 10.0
        assert outage(pauses, clock, 20.0)[-1] <= 30.0
    assert pauses.next(lived_s=0.1, answered=True, taken_over=False) >= 30.0, "one that only hangs up is not humoured"
    assert pauses.next(lived_s=3.0, answered=True, taken_over=True, served=True) >= 30.0, "nor is a clone"


def test_a_name_taken_over_is_not_fought_for() -> None:
    pauses = Pauses(1.0, Time())
    waits = [pauses.next(lived_s=50.0, answered=True, taken_over=True) for _ in range(6)]
    assert all(wait >= 30.0 for wait in waits) and waits[-1] >= 450.0


def test_silence_is_told_from_slowness() -> None:
    """While bytes get through nobody is silent; once all of a pack is there, its PUBACK is owed."""
    stall, parcel = Stall(), Parcel("t", b"", sent_s=100.0, goal=50_000)
    assert stall.age_s(None, 100.0, 10_000) == 0
    for second in range(101, 160):
        assert stall.age_s(parcel, float(second), 10_000 + 500 * (second - 100)) < 2
    assert stall.age_s(parcel, 180.0, 39_500) > 20, "nothing moves any more"
    assert stall.age_s(parcel, 181.0, 50_000) == 0, "the last of it has just arrived"
    assert stall.age_s(parcel, 205.0, 50_000) == 24
    assert stall.age_s(parcel, 206.0, 60_000) == 25, "what others send does not help it"


def test_a_pack_that_was_there_at_once_is_owed_from_its_sending() -> None:
    stall, parcel = Stall(), Parcel("t", b"", sent_s=100.0, goal=500)
    assert stall.age_s(parcel, 100.5, 500) == 0.5 and stall.age_s(parcel, 121.0, 500) == 21
    blind = Parcel("t", b"", sent_s=100.0)  # a system that does not tell what arrived
    assert Stall().age_s(blind, 130.0, 0) == 30


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(1, 1 << 20)), max_size=200))
def test_the_room_keeps_its_bounds(measured: list[tuple[float, int]]) -> None:
    room, now = Room(), 0.0
    for took_s, size in measured:
        now += took_s
        room.measured(took_s, size, now)
        assert LEAST_BYTES <= room.bytes <= MOST_BYTES


def test_the_room_follows_the_link() -> None:
    """64 kbit/s: what is in flight shrinks until a PUBACK takes seconds, not minutes; then the link is quick again."""
    room, now = Room(), 0.0
    for _ in range(200):
        took_s = room.bytes / 8000
        now += took_s
        room.measured(took_s, 2000, now)
    assert room.bytes <= 48_000
    for _ in range(4000):
        room.measured(0.01, 2000, now)
    assert room.bytes == MOST_BYTES > FIRST_BYTES


def trouble(what: str) -> BrokerError:
    return BrokerError(what, where="mqtt://x:1")


def test_a_trouble_that_comes_and_goes_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Down and up, again and again for a day: a line an hour, and one when it is over."""
    clock = Time()
    edges = Edges("platform", clock)
    with caplog.at_level(logging.INFO, "meterhouse.uplink"):
        edges.connected("connected")
        for _ in range(24 * 60):
            edges.trouble(trouble("the connection was lost"))
            edges.trouble(trouble("nothing listens there"))
            edges.connected("connected")
            clock.now += 5
            edges.well()
            clock.now += 55
        assert len(caplog.records) <= 2 + 2 * 25
        caplog.clear()
        clock.now += 11
        edges.well()
        edges.well()
    assert [r.getMessage().split(" (for")[0] for r in caplog.records] == [
        "platform: over: nothing listens there; the connection was lost"
    ]


def test_each_new_kind_of_trouble_is_said_and_there_are_so_many(caplog: pytest.LogCaptureFixture) -> None:
    edges = Edges("platform", Time())
    with caplog.at_level(logging.INFO, "meterhouse.uplink"):
        for n in range(1000):
            edges.trouble(trouble(f"code {n}"))
    assert len(caplog.records) == 20


def test_seldom_counts_what_it_does_not_say() -> None:
    clock, said = Time(), []
    seldom = Seldom(clock)
    for _ in range(900):
        seldom.say(lambda text, *args: said.append(text % args), "wrong: %s", "x")
        clock.now += 0.125
    assert said == ["wrong: x", "wrong: x (480 since the last such line)"]
