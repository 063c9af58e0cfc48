"""The registers of a simulated device, which show its part of the park. A read first updates the registers that it
reads.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal

from drivers.model import Kind, Point
from drivers.sim.encode import EncodeError, Value, served_value, size_of
from drivers.sim.facts import FactLookup, default_number, default_text, in_unit
from drivers.sim.image import Image
from drivers.sim.physics import Physics

# After a long pause, such as a suspended process, at most this many steps are caught up. The park's clock skips all
# further steps.
CATCH_UP = 20_000


class ParkClock:
    """Moves the physics with real time. One real second is ``speed`` seconds of the park; 0 stops the park.

    One step takes ``tick_s`` of real time. All values that are read within one step belong to the same instant of the
    park.
    """

    def __init__(
        self,
        seed: int = 1,
        speed: float = 1.0,
        *,
        start_s: float = 10 * 3600.0,
        tick_s: float = 0.1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.physics = Physics(seed, start_s=start_s, step_s=tick_s * (speed or 1.0))
        self.speed, self.tick_s = speed, tick_s
        self._lock = threading.RLock()  # a lock is needed because a serial line reads from its own thread
        self._held = 0
        self._monotonic = monotonic
        self._began = monotonic()

    @contextmanager
    def hold(self) -> Iterator[Physics]:
        """A context in which the park does not move, so that all values belong to one instant."""
        with self._lock:
            physics = self._catch_up()
            self._held += 1
            try:
                yield physics
            finally:
                self._held -= 1

    def _catch_up(self) -> Physics:
        if self.speed and not self._held:
            due = int((self._monotonic() - self._began) / self.tick_s) - self.physics.steps
            for _ in range(min(due, CATCH_UP)):
                self.physics.step()
            if due > CATCH_UP:
                self._began += (due - CATCH_UP) * self.tick_s
        return self.physics


class Display:
    """The registers of one device. They follow the park: a point is encoded when a read touches its registers."""

    def __init__(
        self,
        clock: ParkClock,
        points: tuple[Point, ...],
        role: str,
        *,
        seed: int = 1,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.clock, self.points, self.role = clock, points, role
        self.image = Image()
        self.image.define(points)
        self.unfit: dict[str, str] = {}  # point -> why its value could not be written; the point then shows 0
        self.unknown = [p.name for p in points if p.kind in (Kind.GAUGE, Kind.COUNTER) and not self._knows(p)]
        self.journal: dict[str, list[tuple[int, Decimal]]] | None = (
            None  # point -> (UTC ns, value) of each new value that was read; None: no journal is kept
        )
        self._book = FactLookup(role, clock.physics)
        # counter -> its value in the park at the last reboot; the device shows the growth since then
        self._zero: dict[str, float] = {}
        self._texts = dict(texts or {})
        self._written: dict[str, int] = {}
        rng = random.Random(seed)
        # function -> (first address, end, point) of each point
        self._places: dict[int, list[tuple[int, int, Point]]] = {}
        for point in points:
            if point.kind is Kind.TEXT:
                self.image.set(point, self._texts.setdefault(point.name, default_text(point, rng)))
                continue
            spans = [
                (p.function or point.function, p.address, p.address + (size_of(p.type, 1) + 1) // 2)
                for p in point.parts
            ]
            for function, start, end in spans or [(point.function, point.address, point.address + point.count)]:
                self._places.setdefault(function, []).append((start, end, point))
        for places in self._places.values():
            places.sort(key=lambda place: place[:2])
        self._longest = max((p.count for p in points), default=1)
        self.write_all()

    def _knows(self, point: Point) -> bool:
        return FactLookup(self.role, self.clock.physics).get(point.name) is not None

    def keep_journal(self) -> None:
        """Record in ``journal``, from now on, each value that is read."""
        with self.clock.hold():
            self.journal = {}
            self._written.clear()

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the text points."""
        return dict(self._texts)

    def asleep(self) -> bool:
        """Whether this device is an inverter that sleeps because it is dark."""
        if not self.role.startswith("pv"):
            return False
        with self.clock.hold() as physics:
            return physics.sun() <= 0.0

    def refresh(self, function: int, address: int, count: int) -> None:
        """Update the registers of one read to the present values."""
        places = self._places.get(function, [])
        with self.clock.hold() as physics:
            step = physics.steps
            at = bisect_left(places, address - self._longest, key=lambda place: place[0])
            while at < len(places) and places[at][0] < address + count:
                _, end, point = places[at]
                if end > address and self._written.get(point.name) != step:
                    self._written[point.name] = step
                    self._write(point)
                at += 1

    def write_all(self) -> None:
        """Update all registers to the present values."""
        with self.clock.hold() as physics:
            step = physics.steps
            for point in self.points:
                if point.kind is not Kind.TEXT:
                    self._written[point.name] = step
                    self._write(point)

    def _write(self, point: Point) -> None:
        value = self._value(point)
        try:
            self.image.set(point, value)
        except EncodeError as error:
            self.unfit[point.name] = error.what
            value = 0
            self.image.set(point, value)
        if self.journal is not None and point.kind in (Kind.GAUGE, Kind.COUNTER):
            self.journal.setdefault(point.name, []).append((time.time_ns(), served_value(point, value)))

    def _value(self, point: Point) -> Value:
        """The present value of a point, in its unit. It is limited to the point's range, and to what its registers can
        hold.
        """
        fact = self._book.get(point.name)
        if fact is None:
            return self._made_up(point)
        if point.kind is Kind.STATE:
            return round(fact)
        value = in_unit(fact - self._zero.get(point.name, 0.0), point.unit)
        if point.kind is Kind.COUNTER:
            return _wrapped(point, value)
        if point.low is not None:
            value = max(value, float(point.low))
        return value if point.high is None else min(value, float(point.high))

    def _made_up(self, point: Point) -> Value:
        """Make up a value for a quantity that the park does not have. Gauges whose names begin with ``x.`` vary, so
        that they look real.
        """
        physics = self._book.physics
        if point.kind is Kind.STATE:
            return default_number(point, self.role.startswith("pv") and physics.sun() <= 0.0)
        low, high = float(point.low or 0), float(100 if point.high is None else point.high)
        if point.kind is Kind.GAUGE and point.name.startswith("x."):
            return low + (high - low) * (0.5 + 0.2 * physics.wobble(physics.t_s + 7 * point.address))
        return max(0.0, low)

    def values(self) -> dict[str, Decimal | int | str]:
        """The values that a reader must read now, by point: numbers as rounded by the registers, raw states, and
        texts.
        """
        result: dict[str, Decimal | int | str] = dict(self._texts)
        with self.clock.hold():
            for point in self.points:
                if point.kind is Kind.TEXT:
                    continue
                value = 0 if point.name in self.unfit else self._value(point)
                result[point.name] = int(value) if point.kind is Kind.STATE else served_value(point, value)
        return result

    def restart(self) -> None:
        """Simulate a reboot after which the counters start again from zero."""
        with self.clock.hold():
            for point in self.points:
                if point.kind is Kind.COUNTER:
                    self._zero[point.name] = self._book.get(point.name) or 0.0
        self.write_all()


def _wrapped(point: Point, value: float) -> float:
    """The value of a counter after rollovers: beyond the width of its registers it continues from 0."""
    turns = [float(point.scale) * 2.0**point.bits] if point.bits and not point.parts else []
    if point.digits:
        turns.append(float(point.scale) * 10.0**point.digits)
    return value % min(turns) if turns else value
