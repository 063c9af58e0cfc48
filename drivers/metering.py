"""The common parts of drivers of meters: a question with its push parser, and how a value gets into the ring.

A protocol's driver says which questions bring which points and how a point is found among the readings of an answer;
asking, gaps, units, ratios and signs are here.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Generic, TypeVar

from drivers.addresses import demand_address
from drivers.clocks import offset_s, time_ms
from drivers.counter_guard import CounterGuard
from drivers.framing import FrameScanner
from drivers.line import Answer, Line
from drivers.model import (
    PACES,
    DeviceException,
    DeviceSpec,
    FrameError,
    Kind,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    MismatchError,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
    UsageError,
)
from drivers.plan import LineTiming, exact, ratio_of
from drivers.profile import concerned
from drivers.toml import show, suggestion
from drivers.units import unit_factor
from ext.ring import Ring

_log = logging.getLogger("meterhouse.meters")
F = TypeVar("F")
REFUSALS, REST_S = 2, 3600.0  # after this many refusals in a row a question is not asked for this long


class MeterRequest(Generic[F]):
    """One question to a meter for the line's owner.

    Args:
        judge: the bytes of a sound frame that answers, a LineError if it refuses, None if it is not for us
            (another meter's, our own echo); a MismatchError is kept in mind while the right one may still come.
        why: the error in bytes that do not contain a frame.
    """

    __slots__ = ("_judge", "_parser", "_why", "expect", "frame", "function", "unit", "where")

    def __init__(
        self,
        frame: bytes,
        function: int,
        unit: str,
        where: str,
        expect: int,
        parser: Callable[[], FrameScanner[F]],
        judge: Callable[[F], bytes | LineError | None],
        why: Callable[[bytes], str],
    ) -> None:
        self.frame, self.function, self.unit, self.where, self.expect = frame, function, unit, where, expect
        self._parser, self._judge, self._why = parser, judge, why

    def find(self, response: bytes, final: bool) -> bytes | LineError | None:
        """As ``drivers.line.Request`` says. An echo of our own bytes is not an answer (field pains 20, 22)."""
        seen: LineError | None = None
        frames = self._parser().feed(response)
        for frame in frames:
            verdict = self._judge(frame)
            if isinstance(verdict, MismatchError):
                seen = verdict
            elif verdict is not None:
                return verdict
        if not final or not response:
            return None
        if seen is None and not frames:
            return FrameError(self._why(response), where=self.where)
        return seen  # only an echo or other meters' words: this one was silent


@dataclass(frozen=True, slots=True)
class Query:
    """One question and the points that its answer brings; ``query_id`` is the protocol's own."""

    query_id: str
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """The result of one question, stamped when its last byte came in."""

    readings: Sequence[Reading]
    time_ns: int
    mono_ns: int
    suspect: bool = False


def field_of(name: str, words: str) -> bool:
    """Whether a reading's name is ``words``, or ``words`` below the medium's own first word (``heat.energy``)."""
    return name == words or name.removeprefix("x.mbus.").partition(".")[2] == words or name == f"x.mbus.{words}"


class MeterDevice:
    """A meter on a line; a protocol fills in ``plan``, ``fetch``, ``pick`` and ``split``."""

    protocol: ClassVar[str]
    FRAMES: ClassVar[Mapping[str, str]]

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        self.spec, self.table = spec, table
        self.where = f"{spec.name} (line {line.name} address {spec.address})"
        demand_address(self.protocol, spec.address, line.target.scheme, f"device {spec.name}")
        self._line, self._ring = line, ring
        self._options = line.request_options(spec.limits, spec.serial)
        self._asked = 0  # requests sent since the visit began
        self._refusals: dict[str, int] = {}
        self._rests: dict[str, float] = {}  # question -> monotonic seconds before which it is not asked
        self._told: set[int] = set()
        self._guard = CounterGuard(spec)
        for number in range(len(spec.points)):
            self.check(spec.points[number])

    # --- what a protocol fills in

    def check(self, point: Point) -> None:
        """Raise ConfigError if a point's key is invalid in this protocol."""
        raise NotImplementedError

    def plan(self, numbers: Sequence[int]) -> list[Query]:
        """The questions that bring these points."""
        raise NotImplementedError

    def split(self, query: Query) -> list[Query]:
        """What to ask instead, after the device refused ``query``; empty: there is no other way."""
        return []

    async def fetch(self, query_id: str) -> Response:
        """Ask. Raises LineError."""
        raise NotImplementedError

    def explain(self, query_id: str, frames: Sequence[bytes]) -> Sequence[Reading]:
        """The readings of the frames that answer ``query_id``. Raises LineError where they cannot be used."""
        raise NotImplementedError

    def brings(self, point: Point, query_id: str) -> bool:
        """Whether an answer to ``query_id`` holds a point."""
        raise NotImplementedError

    def pick(self, point: Point, query_id: str, response: Response) -> Reading | None:
        """The reading of a point among those of an answer; None where it is not there."""
        raise NotImplementedError

    def cost(self, query_id: str) -> tuple[int, int]:
        """Approximate (requests, bytes of both directions) of a question."""
        raise NotImplementedError

    # --- what pollers and commands call

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the due points. A question that fails makes gaps of its points; silence at the first ends the visit."""
        result = PollResult()
        due = [n for n, point in enumerate(self.spec.points) if paces >> PACES.index(point.pace) & 1]
        queries, streak = self.plan(due), 0
        self._asked = 0
        while queries:
            query = queries.pop(0)
            if self._resting(query):
                self._lacking(query, tick_ms, result)
                continue
            try:
                response = await self.fetch(query.query_id)
            except DeviceException as error:
                streak = 0
                result.answered += 1
                queries[:0] = self._refused(query, error, tick_ms, result)
            except LineError as error:
                result.error = error
                result.positions.append(self._gap(tick_ms, error.reason, query.points))
                streak += 1 if isinstance(error, LineTimeout) else 0
                if isinstance(error, LineDown | LineLent) or streak > 1 or (streak and not result.answered):
                    for rest in queries:
                        result.positions.append(self._gap(tick_ms, error.reason, rest.points))
                    break
            else:
                streak = 0
                result.answered += 1
                self._refusals.pop(query.query_id, None)
                self._take(query, response, tick_ms, result.positions)
        result.asked = self._asked
        return result

    async def probe(self) -> None:
        """One question. Raises LineError if the device is silent; a refusal is an answer."""
        points = self.spec.points
        wanted = [n for n, point in enumerate(points) if point.name == self.spec.probe] or [0]
        try:
            await self.fetch(self.plan(wanted[:1])[0].query_id)
        except DeviceException:
            return

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Ask for some points now. Raises UsageError for a name that is not there, LineError if all is silent."""
        places = {point.name: n for n, point in enumerate(self.spec.points)}
        for name in names:
            if name not in places:
                raise UsageError(f"unknown point {show(name)}", where=self.spec.name, hint=suggestion(name, places))
        found: dict[int, Reading] = {}
        queries, alive = self.plan([places[name] for name in dict.fromkeys(names)]), False
        while queries:
            query = queries.pop(0)
            try:
                response = await self.fetch(query.query_id)
            except (LineDown, LineLent):
                raise
            except LineError as error:
                if isinstance(error, LineTimeout) and not alive:
                    raise
                alive = True
                other = self.split(query) if isinstance(error, DeviceException) else []
                queries[:0] = other
                if not other:
                    found.update({n: _nothing(self.spec.points[n], error.reason) for n in query.points})
                continue
            alive = True
            found.update(self._readings(query.points, query.query_id, response))
        return {name: found[places[name]] for name in names}

    def read_frames(self, frames: Mapping[str, Sequence[bytes]]) -> dict[str, Reading]:
        """The values of recorded answers, by point: question -> its frames. Asks nothing. Raises LineError."""
        found: dict[int, Reading] = {}
        for query_id, raw in frames.items():
            numbers = [n for n, point in enumerate(self.spec.points) if self.brings(point, query_id)]
            found.update(self._readings(numbers, query_id, Response(self.explain(query_id, raw), 0, 0)))
        return {reading.name: reading for reading in found.values()}

    def plan_summary(self, paces: int) -> PlanSummary:
        """The approximate cost of one visit for these paces on this line: answers of meters vary in length."""
        due = [n for n, point in enumerate(self.spec.points) if paces >> PACES.index(point.pace) & 1]
        queries = self.plan(due)
        costs = [self.cost(query.query_id) for query in queries]
        timing = self._timing()
        requests, size = sum(c[0] for c in costs), sum(c[1] for c in costs)
        seconds = (requests * (timing.quiet_ns + timing.turnaround_ns) + size * timing.byte_ns) / 1e9
        return PlanSummary(requests, (size + 1) // 2, len(due), seconds)

    # --- the road of a value

    async def exchange(self, request: MeterRequest[F]) -> Answer:
        """One request on the line, counted. Raises LineError."""
        self._asked += 1
        return await self._line.exchange(request, self._options)

    def _readings(self, numbers: Sequence[int], query_id: str, response: Response) -> dict[int, Reading]:
        found: dict[int, Reading] = {}
        for number in numbers:
            point = self.spec.points[number]
            value, quality, raw, time = self._judged(number, query_id, response)
            found[number] = Reading(point.name, value if quality < 128 else None, point.unit, quality, raw, time=time)
        return found

    def _take(self, query: Query, response: Response, tick_ms: int, positions: list[int]) -> None:
        values: list[tuple[int, int, int, int, int | None]] = []
        stamp = (tick_ms, response.time_ns, response.mono_ns)
        for number in query.points:
            value, quality, _, time = self._judged(number, query.query_id, response)
            if quality >= 128:
                values.append((number, 0, 0, quality, None))
            elif isinstance(value, str):
                positions.append(
                    self._ring.append_text(self.table, number, quality, *stamp, value.encode("utf-8", "replace"))
                )
            elif value is not None:
                if number in self._guard.counters and quality == Quality.GOOD:
                    doubtful = self._guard.is_suspect([(number, Decimal(value))], response.mono_ns / 1e9)
                    quality = Quality.SUSPECT if doubtful else quality
                own_ms = time_ms(time, self.spec.zone) if time else None
                values.append((number, *exact(Decimal(value)), quality, own_ms))
        if values:
            try:
                positions.append(self._ring.append_values(self.table, *stamp, values))
            except OverflowError:  # no meter shows 19 digits: one value was nonsense, the others must not suffer
                for one in values:
                    try:
                        positions.append(self._ring.append_values(self.table, *stamp, [one]))
                    except OverflowError:
                        positions.append(self._gap(tick_ms, Reason.SENTINEL, (one[0],)))

    def _judged(
        self, number: int, query_id: str, response: Response
    ) -> tuple[Decimal | int | str | None, int, bytes, str]:
        """(value in the point's unit, quality or reason, the value's bytes, the device's own time of it)."""
        point = self.spec.points[number]
        reading = self.pick(point, query_id, response)
        if reading is None:
            return None, Reason.ABSENT, b"", ""
        if reading.value is None:
            return None, reading.quality, reading.raw, ""
        quality: int = Quality.SUSPECT if response.suspect else reading.quality
        value: Decimal | int | str | None
        if point.kind is Kind.TEXT:
            value = str(reading.value)
        elif point.clock:
            said = reading.value if isinstance(reading.value, str) else int(reading.value)
            value = offset_s(said, point.clock, self.spec.zone, response.time_ns)
            quality = Reason.SENTINEL if value is None else quality
        elif isinstance(reading.value, str):
            value, quality = None, Reason.MISMATCH
        elif point.kind is Kind.STATE:
            value = _state(point, int(reading.value))
        else:
            value, quality = self._number(number, Decimal(reading.value), reading.unit, quality)
        return value, quality, reading.raw, "" if point.kind in (Kind.TEXT, Kind.STATE) else reading.time

    def _number(self, number: int, value: Decimal, unit: str, quality: int) -> tuple[Decimal | None, int]:
        """A number in the point's unit, with ratio and sign; None where the unit does not fit."""
        point = self.spec.points[number]
        factor = unit_factor(unit, point.unit)
        if factor is None:
            if number not in self._told:
                self._told.add(number)
                name, profile = point.name, self.spec.profile
                _log.warning("%s: %s comes in %r, %s says %r", self.where, name, unit, profile, point.unit)
            return None, Reason.MISMATCH
        value = (value * factor + point.offset) * point.scale
        if (point.low is not None and value < point.low) or (point.high is not None and value > point.high):
            quality = Quality.RANGE
        value *= ratio_of(point, self.spec)
        return (-value if point.flips and concerned(point.name, self.spec.reversed) else value), quality

    def _gap(self, tick_ms: int, reason: Reason, points: Sequence[int]) -> int:
        return self._ring.append_gap(self.table, reason, tick_ms, *self._line.clock(), memoryview(array("H", points)))

    # --- what a device refuses

    def _refused(self, query: Query, error: DeviceException, tick_ms: int, result: PollResult) -> list[Query]:
        """Ask in another way now; what cannot be asked in another way is a gap, and rests when it was refused twice."""
        other = self.split(query)
        if other:
            return other
        result.error = error
        self._refusals[query.query_id] = self._refusals.get(query.query_id, 0) + 1
        if self._refusals[query.query_id] >= REFUSALS:
            self._rests[query.query_id] = self._now_s() + REST_S
            _log.info("%s: refuses %s; it is asked again in an hour", self.where, query.query_id)
        self._lacking(query, tick_ms, result)
        return []

    def _resting(self, query: Query) -> bool:
        return query.query_id in self._rests and self._now_s() < self._rests[query.query_id]

    def _lacking(self, query: Query, tick_ms: int, result: PollResult) -> None:
        points = self.spec.points
        for reason, those in (
            (Reason.EXCEPTION, [n for n in query.points if not points[n].optional]),
            (Reason.ABSENT, [n for n in query.points if points[n].optional]),
        ):
            if those:
                result.positions.append(self._gap(tick_ms, reason, those))

    def _now_s(self) -> float:
        return self._line.clock()[1] / 1e9

    def _timing(self) -> LineTiming:
        limits = self.spec.limits.over(self._line.config.limits)
        if self._line.target.scheme == "serial":
            return LineTiming.serial(self.spec.serial or self._line.config.serial, limits)
        return LineTiming.tcp(self._line.config.bus_baud, limits)


def _nothing(point: Point, reason: Reason) -> Reading:
    return Reading(point.name, None, point.unit, reason)


def _state(point: Point, number: int) -> int:
    if point.bit is not None:
        return number >> point.bit & 1
    if point.mask:
        return (number & point.mask) >> ((point.mask & -point.mask).bit_length() - 1)
    return number
