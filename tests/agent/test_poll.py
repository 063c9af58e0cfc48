"""The poller: the grid, overload, the dead-device rule. Time is made up, so that minutes cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from agent.clock import SteadyClock
from agent.poll import DEAD_SHARE, MAX_BACKOFF_S, Availability, DevicePoll, LinePoller
from drivers.model import (
    PACES,
    DeviceSpec,
    FrameError,
    FreshnessRule,
    Kind,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    Point,
    PollResult,
    Reading,
    Reason,
)
from drivers.night import Night
from ext.ring import GAP, Ring

EPOCH_MS = 1_795_500_000_000
NEVER = (0, 0, 0, 0, 0)


def spec(name: str, fast_ms: int = 1000, slow_ms: int = 0, once: bool = False, phase_ms: int = 0) -> DeviceSpec:
    points = [Point("ac.power.active", Kind.GAUGE, "W", "fast"), Point("ac.frequency", Kind.GAUGE, "Hz", "slow")]
    if once:
        points.append(Point("device.firmware", Kind.TEXT, "", "once"))
    return DeviceSpec(
        name, f"p/g/{name}", "1", "test", "test/test", tuple(points),
        (fast_ms, 0, slow_ms, 0, 86_400_000 if once else 0), phase_ms=phase_ms,
    )  # fmt: skip


class FakeDriver:
    """Answers after ``cost_s`` of line time, or is silent for ``timeout_s``."""

    def __init__(self, spec: DeviceSpec, table: int, cost_s: float = 0.01, timeout_s: float = 0.4) -> None:
        self.spec, self.table = spec, table
        self.cost_s, self.timeout_s = cost_s, timeout_s
        self.silent = False
        self.down = self.lent = self.garbled = False
        self.lose = 0  # so many of the next requests are not answered
        self.polls: list[tuple[int, int]] = []
        self.probes: list[float] = []
        self.spent = 0.0

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        self.polls.append((tick_ms, paces))
        try:
            await self.ask(self.timeout_s)
        except LineError as error:
            return PollResult([], 1, 0, error)
        return PollResult([tick_ms], 1, 1)

    async def probe(self) -> None:
        self.probes.append(asyncio.get_running_loop().time())
        await self.ask(self.timeout_s)

    async def probe_within(self, timeout_s: float) -> None:
        self.probes.append(asyncio.get_running_loop().time())
        self.lose += not self.lose and self.cost_s > timeout_s
        await self.ask(min(timeout_s, self.timeout_s))

    async def ask(self, timeout_s: float) -> None:
        """One request. Raises LineError."""
        if self.down:
            raise LineDown("no port", where="fake")
        if self.lent:
            raise LineLent("lent to scan by li", where="fake")
        if self.garbled:
            raise FrameError("wrong CRC", where="fake")
        lost = self.silent or self.lose > 0
        self.lose -= self.lose > 0
        await asyncio.sleep(timeout_s if lost else self.cost_s)
        if lost:
            self.spent += timeout_s
            raise LineTimeout("no answer", where="fake")

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        await self.probe()
        return {}


class Bench:
    """A line of fake devices with a poller on made-up time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Ring, *drivers: FakeDriver) -> None:
        self.loop, self.ring, self.drivers = loop, ring, drivers
        mono: Callable[[], int] = loop.mono_ns  # type: ignore[attr-defined]
        start = mono()
        self.clock = SteadyClock(lambda: EPOCH_MS * 1_000_000 + mono() - start, mono)
        self.got: list[tuple[str, list[int], bool]] = []
        self.devices = [DevicePoll(d, ring, EPOCH_MS, partial(self.record, d)) for d in drivers]

    def record(self, driver: FakeDriver, table: int, positions: list[int], answered: bool) -> None:
        self.got.append((driver.spec.name, positions, answered))

    def run(self, seconds: float) -> None:
        async def go() -> None:
            task = asyncio.ensure_future(LinePoller(self.devices, self.clock).run())
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        self.loop.run_until_complete(go())

    def gaps(self, table: int) -> list[tuple[int, int]]:
        """(seconds after the start, reason) of the gap records of a table."""
        return [
            ((r.tick_ms - EPOCH_MS) // 1000, r.aux)
            for r in self.ring.scan(0, self.ring.head)
            if r.kind == GAP and r.table == table
        ]


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 1, 2, bytes(32))
    yield ring
    ring.close()


def test_ticks_fall_on_the_utc_grid_and_paces_due_together_are_asked_together(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 1000, 5000), 1)
    Bench(made_up_time, ring, driver).run(10.5)
    ticks = [(t - EPOCH_MS) // 1000 for t, _ in driver.polls]
    assert ticks == list(range(0, 11))
    fast, slow = 1 << PACES.index("fast"), 1 << PACES.index("slow")
    assert [p for _, p in driver.polls] == [fast | slow if t % 5 == 0 else fast for t in range(0, 11)]


def test_a_driver_with_other_points_is_asked_at_their_periods(made_up_time, ring) -> None:
    """Identified as another model while it runs: its slow points are new, and the fast ones have another period."""
    bench = Bench(made_up_time, ring, FakeDriver(spec("a", 1000), 1))
    bench.run(3.5)
    bench.devices[0].driver = driver = FakeDriver(spec("a", 2000, 5000), 1)
    bench.devices[0].driver_changed()
    begun_ms = bench.clock.now_ms()
    bench.run(20)
    fast, slow = 1 << PACES.index("fast"), 1 << PACES.index("slow")
    asked = {(t - EPOCH_MS) // 1000: p for t, p in driver.polls if t > begun_ms}
    first = min(asked)
    assert asked == {
        t: (fast if t % 2 == 0 else 0) | (slow if t % 5 == 0 else 0)
        for t in range(first, max(asked) + 1)
        if t % 2 == 0 or t % 5 == 0
    }
    assert len(asked) >= 11


def test_a_phase_moves_a_device_off_its_neighbours(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 1000, phase_ms=250), 1)
    Bench(made_up_time, ring, driver).run(3)
    assert [t - EPOCH_MS for t, _ in driver.polls] == [250, 1250, 2250]


def test_once_is_read_at_the_start_and_after_an_absence(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", once=True), 1)
    bench = Bench(made_up_time, ring, driver)
    bench.run(3.5)
    once = 1 << PACES.index("once")
    assert [bool(p & once) for _, p in driver.polls] == [True, False, False, False]
    bench.devices[0].availability = Availability.UNKNOWN
    driver.polls.clear()
    bench.run(2)
    assert [bool(p & once) for _, p in driver.polls][:2] == [True, False]


def test_one_dead_device_of_five_leaves_the_others_their_period(made_up_time, ring) -> None:
    # field pain 1, field pain 4, field pain 5, field pain 6
    drivers = [FakeDriver(spec(n), k, cost_s=0.05, timeout_s=0.5) for k, n in enumerate("abcde")]
    bench = Bench(made_up_time, ring, *drivers)
    drivers[2].silent = True
    bench.run(600)
    for healthy in (0, 1, 3, 4):
        assert len(drivers[healthy].polls) >= 0.99 * 600, "the neighbours keep their period"
    assert drivers[2].spent <= DEAD_SHARE * 600, "a dead device costs at most its share"
    assert {reason for _, reason in bench.gaps(2)} <= {Reason.TIMEOUT, Reason.ABSENT}
    pauses = [b - a for a, b in zip(drivers[2].probes, drivers[2].probes[1:], strict=False)]
    assert max(pauses) >= MAX_BACKOFF_S - 2, "the pause grows to a minute"
    assert len(bench.gaps(2)) >= 595, "each tick without it is stated"


def test_many_dead_devices_together_get_at_most_a_tenth(made_up_time, ring) -> None:
    # field pain 4: bounded share of bus time for dead slaves
    drivers = [FakeDriver(spec(str(n)), n, cost_s=0.02, timeout_s=1.0) for n in range(10)]
    for driver in drivers[1:]:
        driver.silent = True
    bench = Bench(made_up_time, ring, *drivers)
    bench.run(3600)
    assert sum(d.spent for d in drivers) <= DEAD_SHARE * 3600 + 10
    assert len(drivers[0].polls) >= 0.85 * 3600


def test_a_device_that_returns_is_met_again_before_its_data_counts(made_up_time, ring) -> None:
    # field pain 5, field pain 9
    driver = FakeDriver(spec("a"), 1)
    bench = Bench(made_up_time, ring, driver)
    bench.run(5)
    driver.silent = True
    bench.run(30)
    assert bench.devices[0].availability is Availability.DEAD
    driver.silent = False
    before, probes = len(driver.polls), len(driver.probes)
    bench.run(90)
    assert bench.devices[0].availability is Availability.ALIVE
    assert len(driver.probes) == probes + 2 and len(driver.polls) > before + 25, "a try, then its identity"


def test_one_lost_round_is_no_death(made_up_time, ring) -> None:
    # field pain 9: hysteresis
    driver = FakeDriver(spec("a"), 1)
    bench = Bench(made_up_time, ring, driver)
    bench.run(5)
    driver.silent = True
    bench.run(2)
    driver.silent = False
    bench.run(5)
    assert bench.devices[0].availability is Availability.ALIVE and len(driver.polls) >= 9


@pytest.mark.parametrize(("timeout_s", "first_s", "later_s"), [(1.0, 4.0, 2.0), (2.0, 6.0, 3.0), (10.0, 22.0, 6.0)])
def test_a_silent_device_costs_its_line_little_from_the_first_minute_on(
    made_up_time, ring, timeout_s: float, first_s: float, later_s: float
) -> None:
    """field pain 8. One whole time-out, then short tries at growing distances, a whole one again each fourth time."""
    drivers = [FakeDriver(spec(str(n)), n, cost_s=0.1, timeout_s=timeout_s) for n in range(7)]
    bench = Bench(made_up_time, ring, *drivers)
    bench.run(30)
    drivers[3].silent = True
    bench.run(60)
    first = drivers[3].spent
    assert timeout_s <= first <= first_s
    for _ in range(5):
        before = drivers[3].spent
        bench.run(60)
        assert drivers[3].spent - before <= later_s
    assert min(len(driver.polls) for n, driver in enumerate(drivers) if n != 3) >= 0.9 * 390 - timeout_s


def test_four_that_fall_silent_at_once_cost_four_time_outs_and_no_more(made_up_time, ring) -> None:
    drivers = [FakeDriver(spec(str(n), 5000), n, cost_s=0.2, timeout_s=2.0) for n in range(7)]
    bench = Bench(made_up_time, ring, *drivers)
    bench.run(30)
    before = [len(driver.polls) for driver in drivers]
    for driver in drivers[3:]:
        driver.silent = True
    bench.run(60)
    assert sum(driver.spent for driver in drivers) <= 4 * (2.0 + 0.4) + DEAD_SHARE * 60
    assert min(len(d.polls) - n for d, n in zip(drivers[:3], before, strict=False)) >= 11


@pytest.mark.parametrize(("outage_s", "most_s"), [(6, 4), (30, 5), (34, 5), (600, 16)])
@pytest.mark.parametrize("mute", [0, 3, 5])
def test_a_bus_that_was_silent_is_read_again_at_once_but_for_its_dead_device(
    made_up_time, ring, outage_s: int, most_s: int, mute: int
) -> None:
    """All tries went to the dead one, and the others lost a minute. Whoever answers first tells of the others."""
    drivers = [FakeDriver(spec(str(n)), n, cost_s=0.05, timeout_s=1.0) for n in range(6)]
    bench = Bench(made_up_time, ring, *drivers)

    async def go() -> None:
        task = asyncio.ensure_future(LinePoller(bench.devices, bench.clock).run())
        await asyncio.sleep(20)
        for driver in drivers:
            driver.silent = True
        await asyncio.sleep(outage_s)
        tried = [len(driver.probes) for driver in drivers]
        assert max(tried) - min(tried) <= 1, "in turn"
        for n, driver in enumerate(drivers):
            driver.silent = n == mute
        asked = sum(tried)
        while not all(device.answers_now for n, device in enumerate(bench.devices) if n != mute):
            await asyncio.sleep(0.05)
            assert len(drivers[mute].probes) <= tried[mute] + 2
        # each of the five: a try, and its identity after an absence
        assert sum(len(driver.probes) for driver in drivers) - asked <= 2 * 5 + 2
        told.append(bench.clock.now_ms() - EPOCH_MS - (20 + outage_s) * 1000)
        await asyncio.sleep(120)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    told: list[int] = []
    made_up_time.run_until_complete(go())
    assert told[0] <= 1000 * most_s
    back_ms = EPOCH_MS + (20 + outage_s) * 1000 + told[0]
    for n, driver in enumerate(drivers):
        ticks = [tick for tick, _ in driver.polls if tick > back_ms]
        assert len(ticks) >= 0.97 * 120 if n != mute else not ticks
    pauses = [b - a for a, b in zip(drivers[mute].probes, drivers[mute].probes[1:], strict=False)]
    assert pauses[-1] >= 15, "backs off again"
    reasons = {reason for driver in drivers for _, reason in bench.gaps(driver.table)}
    assert reasons <= {Reason.TIMEOUT, Reason.ABSENT}


@pytest.mark.parametrize(
    ("outage_s", "most_s"), [(6, 3), (15, 3), (30, 4), (34, 4), (120, 10), (600, 35), (86_400, 65)]
)
def test_a_device_alone_on_its_line_is_read_again_soon_and_costs_little(
    made_up_time, ring, outage_s: int, most_s: int
) -> None:
    """No try of it takes time from another: the tries grow apart with the silence, to a minute."""
    driver = FakeDriver(spec("a"), 1, cost_s=0.05, timeout_s=1.0)
    bench = Bench(made_up_time, ring, driver)

    async def go() -> None:
        task = asyncio.ensure_future(LinePoller(bench.devices, bench.clock).run())
        await asyncio.sleep(20)
        driver.silent = True
        await asyncio.sleep(outage_s)
        assert len(driver.probes) <= 120 + outage_s / 60
        driver.silent = False
        await asyncio.sleep(most_s)
        assert bench.devices[0].answers_now
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    made_up_time.run_until_complete(go())


def test_what_a_device_was_not_asked_is_counted_apart_from_what_it_lacks(made_up_time, ring) -> None:
    """Two points each second, for five minutes of silence; a line that cannot be opened counts as well."""
    driver = FakeDriver(spec("a", 1000, 1000), 1, timeout_s=0.2)
    bench = Bench(made_up_time, ring, driver)
    (device,) = bench.devices
    bench.run(60)
    assert device.not_asked.count(0, bench.clock.now_ms()) == 0
    driver.silent = True
    bench.run(300)
    driver.silent = False
    bench.run(120)
    silent = [at for at, reason in bench.gaps(1) if reason == Reason.ABSENT]
    assert len(silent) > 200 and device.not_asked.count(0, bench.clock.now_ms()) == 2 * len(silent)
    assert device.not_asked.count(EPOCH_MS + 450_000, bench.clock.now_ms()) == 0
    driver.down = True
    bench.run(60)
    assert abs(device.not_asked.count(EPOCH_MS + 470_000, bench.clock.now_ms()) - 2 * 60) <= 2


def test_a_silent_bus_is_dead_after_ten_seconds_though_each_first_try_is_long(made_up_time, ring) -> None:
    """Six time-outs of 5 s: the last ones had no turn yet when all were dead."""
    drivers = [FakeDriver(spec(str(n)), n, cost_s=0.05, timeout_s=5.0) for n in range(6)]
    bench = Bench(made_up_time, ring, *drivers)

    async def go() -> None:
        task = asyncio.ensure_future(LinePoller(bench.devices, bench.clock).run())
        await asyncio.sleep(20.5)
        for driver in drivers:
            driver.silent = True
        await asyncio.sleep(9)
        assert {device.life(bench.clock.now_ms()) for device in bench.devices} == {"alive"}
        await asyncio.sleep(3)
        assert {device.life(bench.clock.now_ms()) for device in bench.devices} == {"dead"}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    made_up_time.run_until_complete(go())


@pytest.mark.parametrize("timeout_s", [0.4, 3.0, 10.0])
def test_what_is_due_while_a_silent_device_is_waited_for_is_no_overload(made_up_time, ring, timeout_s: float) -> None:
    """Its line has nothing else to do. After that it says `overload` again where answers take too long."""
    driver = FakeDriver(spec("a", 1000, 5000), 1, cost_s=0.1, timeout_s=timeout_s)
    bench = Bench(made_up_time, ring, driver)

    async def go() -> None:
        task = asyncio.ensure_future(LinePoller(bench.devices, bench.clock).run())
        await asyncio.sleep(20)
        driver.silent = True
        await asyncio.sleep(30)
        driver.silent = False
        await asyncio.sleep(60)
        assert {reason for _, reason in bench.gaps(1)} <= {Reason.TIMEOUT, Reason.ABSENT}
        assert bench.devices[0].overloads == 0 and len(bench.gaps(1)) >= 25
        driver.cost_s = 2.5
        await asyncio.sleep(20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    made_up_time.run_until_complete(go())
    assert [at for at, reason in bench.gaps(1) if reason == Reason.OVERLOAD and at > 110]


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
def test_a_slow_device_comes_back_from_a_silence(made_up_time, ring, lost: int) -> None:
    """It takes 0.7 s, much longer than a short try of another: its own habit counts."""
    drivers = [FakeDriver(spec("a", 2000), 1, cost_s=0.7, timeout_s=1.0), FakeDriver(spec("b"), 2, timeout_s=1.0)]
    bench = Bench(made_up_time, ring, *drivers)
    bench.run(10)
    drivers[0].lose = lost
    bench.run(60)
    assert bench.devices[0].availability is Availability.ALIVE
    assert drivers[0].polls[-1][0] >= EPOCH_MS + 66_000


def test_a_device_that_became_slow_is_met_by_a_whole_time_out(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 2000), 1, cost_s=0.02, timeout_s=1.0)
    bench = Bench(made_up_time, ring, driver)
    bench.run(10)
    driver.lose, driver.cost_s = 1, 0.8
    bench.run(40)
    assert bench.devices[0].availability is Availability.ALIVE and bench.devices[0].failures == 0


@pytest.mark.parametrize(("period_s", "dead_after_s"), [(1, 10), (5, 15), (60, 180), (900, 2700)])
def test_a_silent_device_is_dead_after_ten_seconds_or_three_periods(
    made_up_time, ring, period_s: int, dead_after_s: int
) -> None:
    """# field pain 70: whichever is longer, counted from its last answer; the state of a moment, not of a poll"""
    driver = FakeDriver(spec("a", period_s * 1000), 1, timeout_s=0.1)
    bench = Bench(made_up_time, ring, driver)
    bench.run(3 * period_s + 0.5)
    (device,) = bench.devices
    assert device.life(bench.clock.now_ms()) == "alive"
    driver.silent = True
    last = device.last_answer_ms
    while bench.clock.now_ms() < last + dead_after_s * 1000 - 100:
        bench.run(min(1.0, (last + dead_after_s * 1000 - 50 - bench.clock.now_ms()) / 1000))
        assert device.life(bench.clock.now_ms()) == "alive"
    bench.run(1.0)
    assert device.life(bench.clock.now_ms()) == "dead"
    bench.run(period_s + 3)
    assert device.availability is Availability.DEAD
    driver.silent = False
    bench.run(period_s + 70)
    assert device.life(bench.clock.now_ms()) == "alive" and device.answering_since_ms > last


def test_a_device_is_dead_while_its_first_request_still_waits(made_up_time, ring) -> None:
    """Three tries of ten seconds, as behind a dongle: it is dead when the time is up, not when the last try is over."""
    driver = FakeDriver(spec("a"), 1, timeout_s=30.0)
    bench = Bench(made_up_time, ring, driver)
    (device,) = bench.devices
    states: list[tuple[int, str]] = []

    async def look() -> None:
        for second in range(60):
            driver.silent = second >= 5
            states.append((second, device.life(bench.clock.now_ms())))
            await asyncio.sleep(1)

    async def both() -> None:
        task = asyncio.ensure_future(LinePoller(bench.devices, bench.clock).run())
        await look()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    made_up_time.run_until_complete(both())
    assert {state for second, state in states if second < 14} == {"unknown", "alive"}
    assert {state for second, state in states if 18 <= second < 35} == {"dead"}


def test_a_device_that_never_answers_is_unknown_until_it_is_dead(made_up_time, ring) -> None:
    """A first request that is lost after a start is not a fault."""
    driver = FakeDriver(spec("a"), 1)
    driver.silent = True
    bench = Bench(made_up_time, ring, driver)
    states = []
    for _ in range(12):
        bench.run(1)
        states.append(bench.devices[0].life(bench.clock.now_ms()))
    assert states[:9] == ["unknown"] * 9 and states[-1] == "dead" and not bench.devices[0].answering_since_ms


def test_one_timeout_on_a_line_that_starves_a_device_is_not_its_death(made_up_time, ring, caplog) -> None:
    """Its last answer is old because it was not asked."""

    class Hiccup(FakeDriver):
        async def poll(self, tick_ms: int, paces: int) -> PollResult:
            self.silent = len(self.polls) == 3
            return await super().poll(tick_ms, paces)

        async def probe_within(self, timeout_s: float) -> None:
            self.silent = False
            await super().probe_within(timeout_s)

    hog, starved = FakeDriver(spec("a"), 1, cost_s=15.0), Hiccup(spec("b"), 2)
    bench = Bench(made_up_time, ring, hog, starved)
    bench.run(200)
    assert len(starved.polls) > 8 and starved.spent, "it was silent once"
    assert "not responding" not in caplog.text
    assert not [at for at, reason in bench.gaps(2) if reason == Reason.ABSENT]


def test_a_hint_at_another_device_makes_the_agent_ask_who_it_is(made_up_time, ring) -> None:
    """At the next poll, for a reopened line as for an odd counter; one that flaps all day costs some requests a day."""
    driver = FakeDriver(spec("a"), 1)
    driver.doubts = 0  # type: ignore[attr-defined]
    bench = Bench(made_up_time, ring, driver)
    opened = 1
    (device,) = bench.devices
    device.opened = lambda: opened
    bench.run(5)
    assert len(driver.probes) == 1, "at the start"
    opened += 1
    bench.run(2)
    assert len(driver.probes) == 2
    bench.run(300)
    driver.doubts += 1  # type: ignore[attr-defined]
    bench.run(2)
    assert len(driver.probes) == 3
    bench.run(200)
    assert len(driver.probes) == 3, "once for each hint"
    for _ in range(3600):
        opened += 1
        bench.run(1)
    assert len(driver.probes) <= 10


def test_bytes_without_a_sound_frame_are_not_silence(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a"), 1)
    bench = Bench(made_up_time, ring, driver)
    (device,) = bench.devices
    bench.run(5)
    driver.garbled = True
    bench.run(20)
    assert device.life(bench.clock.now_ms()) == "dead" and device.is_garbled
    driver.garbled, driver.silent = False, True
    bench.run(3600)
    assert device.life(bench.clock.now_ms()) == "dead" and not device.is_garbled, "it was pulled since"
    driver.silent = False
    bench.run(90)
    assert device.life(bench.clock.now_ms()) == "alive"
    driver.silent, driver.lose = True, 0
    bench.run(20)
    assert not device.is_garbled, "what was garbled before its last answer does not count"


def test_a_poll_that_has_not_begun_by_its_next_tick_is_overload(made_up_time, ring) -> None:
    slow = FakeDriver(spec("a"), 1, cost_s=2.5)
    bench = Bench(made_up_time, ring, slow)
    bench.run(20)
    polled = [(t - EPOCH_MS) // 1000 for t, _ in slow.polls]
    lost = [t for t, reason in bench.gaps(1) if reason == Reason.OVERLOAD]
    assert lost and not set(polled) & set(lost)
    assert sorted(set(polled) | set(lost)) == list(range(0, max(polled) + 1)), "each tick is polled or stated"


def test_a_slow_pace_is_not_starved_by_a_fast_one_that_an_identity_brought(made_up_time, ring) -> None:
    """The wait of the slow pace kept the limit of the periods before: its ticks became overload."""
    bench = Bench(made_up_time, ring, FakeDriver(spec("a", 0, 300_000), 1))
    bench.run(2)
    bench.devices[0].driver = driver = FakeDriver(spec("a", 1000, 300_000), 1, cost_s=1.4)
    bench.devices[0].driver_changed()
    bench.run(900)
    slow = [(tick - EPOCH_MS) // 1000 for tick, paces in driver.polls if paces & 1 << PACES.index("slow")]
    assert slow == [300, 600, 900], slow


def test_a_slow_pace_is_not_starved_by_a_fast_one(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 1000, 10_000), 1, cost_s=1.4)
    bench = Bench(made_up_time, ring, driver)
    bench.run(60)
    slow = 1 << PACES.index("slow")
    assert sum(1 for _, p in driver.polls if p & slow) == 6


def test_a_line_that_is_down_costs_nothing_and_blames_nobody(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a"), 1)
    bench = Bench(made_up_time, ring, driver)
    bench.run(2)
    driver.down = True
    bench.run(20)
    device = bench.devices[0]
    assert device.availability is Availability.UNKNOWN and device.failures == 0 and not device.is_asleep(EPOCH_MS)
    assert device.line_down and device.life(bench.clock.now_ms()) == "dead"
    assert device.life(device.last_answer_ms + 9000) == "unknown"
    driver.spec = replace(driver.spec, night=Night(Decimal(90), Decimal(0)))
    assert device.is_asleep(EPOCH_MS), "a dongle that its inverter feeds goes out with it"


@pytest.mark.parametrize("how", ["a port of this machine is gone", "answers that are not sound"])
def test_what_is_not_silence_is_no_sleep(made_up_time, ring, how: str) -> None:
    """An unplugged adapter was `asleep` all night, and so was an inverter whose answers contradict each other."""
    night = Night(Decimal(90), Decimal(0))  # at the pole, in winter
    driver = FakeDriver(replace(spec("a"), night=night, own_port=True), 1)
    bench = Bench(made_up_time, ring, driver)
    driver.down, driver.garbled = how.startswith("a port"), how.startswith("answers")
    bench.run(60)
    device = bench.devices[0]
    assert device.life(bench.clock.now_ms()) == "dead" and not device.is_asleep(EPOCH_MS + 60_000)
    assert Reason.ASLEEP not in {reason for _, reason in bench.gaps(1)}
    driver.down = driver.garbled = False
    driver.silent = True
    bench.run(120)
    assert device.is_asleep(bench.clock.now_ms()), "then it falls silent"
    assert bench.gaps(1)[-1][1] == Reason.ASLEEP


def test_a_sleeping_inverter_is_asleep_until_it_answers_or_day_breaks(made_up_time, ring) -> None:
    """Silent through dusk, a night and a dawn that are put into two minutes: counted apart only while it is dark."""
    dusk_s, dawn_s = 30, 90

    class ShortNight(Night):
        def is_dark(self, utc_ms: int) -> bool:
            return EPOCH_MS + dusk_s * 1000 <= utc_ms < EPOCH_MS + dawn_s * 1000

    night = ShortNight(Decimal(0), Decimal(0))
    sleeper = FakeDriver(replace(spec("a"), night=night), 1, timeout_s=0.1)
    faulty = FakeDriver(spec("b"), 2, timeout_s=0.1)
    sleeper.silent = faulty.silent = True
    bench = Bench(made_up_time, ring, sleeper, faulty)
    bench.run(120)
    device = bench.devices[0]
    for at, reason in bench.gaps(1):
        assert (reason == Reason.ASLEEP) is (dusk_s <= at < dawn_s), (at, reason)
    assert Reason.ASLEEP not in {reason for _, reason in bench.gaps(2)}
    assert device.is_asleep(EPOCH_MS + 60_000) and not device.is_asleep(EPOCH_MS + 100_000)
    sleeper.silent = False
    bench.run(70)
    assert device.availability is Availability.ALIVE and not device.is_asleep(EPOCH_MS + 60_000)


def test_settled_means_that_nothing_before_it_is_open(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 1000, 5000), 1)
    bench = Bench(made_up_time, ring, driver)
    device = bench.devices[0]
    assert device.settled_ms == EPOCH_MS
    device.advance(EPOCH_MS + 100)
    assert device.settled_ms == EPOCH_MS
    bench.run(2.5)
    assert device.settled_ms == EPOCH_MS + 3000


def test_the_grid_follows_drift_and_reports_a_step() -> None:
    # field pain 62: schedule on the monotonic clock, realign
    wall, mono = [EPOCH_MS * 1_000_000], [0]
    clock = SteadyClock(lambda: wall[0], lambda: mono[0])
    assert clock.now_ms() == EPOCH_MS
    wall[0] += 1_000_000_000
    mono[0] += 1_000_000_000 - 20_000_000
    assert clock.check_step() is None
    assert clock.now_ms() == EPOCH_MS + 1000, "drift forward is followed"
    wall[0] += 3_600_000_000_000
    assert clock.check_step() == (EPOCH_MS + 1000, EPOCH_MS + 3_601_000)
    assert clock.now_ms() == EPOCH_MS + 1000, "a step is not taken before the packs are cut"
    clock.take_step()
    assert clock.now_ms() == EPOCH_MS + 3_601_000


@pytest.mark.parametrize("by_ms", [1_800_000, -1_800_000, -86_400_000])
def test_a_step_of_the_clock_does_not_change_how_long_a_device_has_been_silent(made_up_time, ring, by_ms: int) -> None:
    poll = Bench(made_up_time, ring, FakeDriver(spec("a", 1000), 1)).devices[0]
    assert poll.silent_ms(EPOCH_MS + 5000) == 5000, "without an answer, since polling began"
    poll.mark_alive(EPOCH_MS + 7000)

    poll.step(EPOCH_MS + 12_000, EPOCH_MS + 12_000 + by_ms)
    poll.step(EPOCH_MS + 13_000 + by_ms, EPOCH_MS + 13_000)

    assert poll.silent_ms(EPOCH_MS + 14_000) == 7000
    poll.mark_alive(EPOCH_MS + 20_000)
    assert poll.silent_ms(EPOCH_MS + 21_000) == 1000


def test_a_line_asked_for_too_much_serves_all_alike(made_up_time, ring) -> None:
    """Five devices want 0.4 s each of every second: nobody starves for standing last in the list."""
    drivers = [FakeDriver(spec(f"d{n}"), n, cost_s=0.4) for n in range(5)]
    Bench(made_up_time, ring, *drivers).run(60)
    counts = [len(driver.polls) for driver in drivers]
    assert max(counts) - min(counts) <= 1 and sum(counts) >= 145


class BeatingDriver(FakeDriver):
    """A caching master whose heartbeat moves once every ``beat_s``."""

    def __init__(self, spec: DeviceSpec, table: int, beat_s: float) -> None:
        rule = FreshnessRule("device.heartbeat", changes_within_s=60.0)
        super().__init__(replace(spec, fresh=rule, caching=True), table)
        self.beat_s = beat_s
        self.looks = 0

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        await self.probe()
        self.looks += 1
        return {name: Reading(name, int(asyncio.get_running_loop().time() / self.beat_s)) for name in names}


def test_at_a_start_the_heartbeat_is_given_time_to_move(made_up_time, ring) -> None:
    """Else the first tick of each start of the agent was missing, though the master lived."""
    driver = BeatingDriver(spec("a", 1000), 1, 0.4)
    bench = Bench(made_up_time, ring, driver)
    bench.run(3.5)
    assert bench.gaps(1) == [] and len(driver.polls) == 4
    assert driver.looks <= 3 + 3, "looked at again at the start only"


def test_a_heartbeat_that_stands_holds_up_nobody(made_up_time, ring) -> None:
    """Looking again ends before the next tick, and at once where another device waits for the line."""
    alone = Bench(made_up_time, ring, BeatingDriver(spec("a", 1000), 1, 1e9))
    alone.run(3.5)
    assert alone.gaps(1) == [(n, Reason.STALE_SOURCE) for n in range(4)]
    beating, other = BeatingDriver(spec("a", 1000), 2, 1e9), FakeDriver(spec("b", 1000), 3)
    Bench(made_up_time, ring, beating, other).run(0.1)
    assert beating.looks == 1 and len(other.polls) == 1


def begins(bench: Bench, most: int = 1) -> list[int]:
    """Where the devices of a bench begin again, in seconds after the start; allowed for the first ``most`` calls."""
    found: list[int] = []

    def begin_at(tick_ms: int) -> bool:
        found.append((tick_ms - EPOCH_MS) // 1000)
        return len(found) <= most

    for device in bench.devices:
        device.begin_at = begin_at
    return found


def test_what_is_reached_after_several_ticks_is_due_from_the_newest_one_on(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a", 1000, 5000, once=True), 1, cost_s=3.3, timeout_s=9)
    bench = Bench(made_up_time, ring, driver)
    found = begins(bench)

    made_up_time.call_later(3.2, setattr, driver, "cost_s", 0.01)
    bench.run(12.5)
    assert found == [3] and not bench.gaps(1)
    assert [(t - EPOCH_MS) // 1000 for t, _ in driver.polls] == list(range(3, 13))
    fast, slow, once = (1 << PACES.index(pace) for pace in ("fast", "slow", "once"))
    assert driver.polls[0][1] == fast | once and len(driver.probes) == 1, "identified once"
    slow_ticks = [(t - EPOCH_MS) // 1000 for t, paces in driver.polls if paces & slow]
    assert slow_ticks == [5, 10]


@pytest.mark.parametrize("refused", [True, False])
def test_who_does_not_answer_or_began_already_is_due_from_the_start_on(made_up_time, ring, refused: bool) -> None:
    driver = FakeDriver(spec("a"), 1, cost_s=3.3, timeout_s=3.3)
    driver.silent = not refused
    bench = Bench(made_up_time, ring, driver)
    found = begins(bench, most=0)
    bench.run(20)
    assert found == ([3] if refused else [])
    due = {tick for tick, _ in bench.gaps(1)} | {(t - EPOCH_MS) // 1000 for t, _ in driver.polls}
    assert due >= set(range(17)), "each tick is asked for, or a gap"


def test_a_device_whose_first_visit_takes_very_long_is_overload(made_up_time, ring) -> None:
    driver = FakeDriver(spec("a"), 1, cost_s=100, timeout_s=200)
    neighbour = FakeDriver(spec("b"), 2)
    bench = Bench(made_up_time, ring, driver, neighbour)
    found = begins(bench)
    bench.run(230)
    assert found == [100] and bench.devices[0].last_answer_ms
    assert [gap for gap in bench.gaps(2) if gap[1] == Reason.OVERLOAD], "it waited for its neighbour for over 30 s"


def test_a_slow_line_that_catches_up_after_a_lease_is_not_overloaded(made_up_time, ring) -> None:
    """A busy line has no time to spare: once it is back, all devices are identified again, and some ticks are late."""
    drivers = [FakeDriver(spec(name, 5000), n, cost_s=1.1) for n, name in enumerate("abcd", 1)]
    bench = Bench(made_up_time, ring, *drivers)
    opened = 1

    def lend(begins: bool) -> None:
        nonlocal opened
        opened += not begins
        for driver in drivers:
            driver.lent = begins

    for device in bench.devices:
        device.opened = lambda: opened
    made_up_time.call_later(63, lend, True)
    made_up_time.call_later(93, lend, False)
    bench.run(180)
    gaps = [bench.gaps(driver.table) for driver in drivers]
    late = [at for one in gaps for at, reason in one if reason == Reason.OVERLOAD and at > 30]
    assert not late and sum(device.overloads for device in bench.devices) == sum(
        reason == Reason.OVERLOAD for one in gaps for _, reason in one
    )
    lent = sorted(at for one in gaps for at, reason in one if reason == Reason.LENT)
    assert lent and lent[0] > 93 and lent[-1] <= 120, "some were late because of it"
    for driver in drivers:
        ticks = {(tick - EPOCH_MS) // 1000 for tick, _ in driver.polls}
        assert ticks >= set(range(120, 175, 5))


def test_a_line_that_is_overloaded_says_so_again_after_a_lease(made_up_time, ring) -> None:
    drivers = [FakeDriver(spec(name, 1000), n, cost_s=0.8) for n, name in enumerate("ab", 1)]
    bench = Bench(made_up_time, ring, *drivers)
    for at, is_lent in ((20, True), (30, False)):
        for driver in drivers:
            made_up_time.call_later(at, setattr, driver, "lent", is_lent)
    bench.run(120)
    late = [at for driver in drivers for at, reason in bench.gaps(driver.table) if reason == Reason.OVERLOAD]
    assert sum(at > 33 for at in late) > 15 and not any(30 < at < 85 for at in late)
