"""The common part of all drivers: polling, reading some points now, and gaps for missing values.

A driver decides which queries return which points (``plan``) and sends the queries (``ask``). It writes their answers
into the ring (``take``), or makes readings for a person from them (``readings``). The only poll loop is in this module.
It decides when to send a query, which queries to skip for a while, and which gap is written for a missing value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Awaitable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from drivers.backoff import Backoff
from drivers.clocks import time_ms
from drivers.counter_guard import CounterGuard, CounterJump
from drivers.line import Line
from drivers.model import (
    PACES,
    DeviceException,
    DeviceSpec,
    Kind,
    Limits,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    PollResult,
    Quality,
    Reading,
    Reason,
    UsageError,
)
from drivers.plan import LineTiming, ZeroGuard
from drivers.registry import demand_address
from drivers.toml import show, suggestion
from ext.ring import Ring

WHO = ("device.firmware", "device.serial", "device.model", "device.vendor")  # texts that identify the device
# ``read_points`` plans its queries and sends them at most this many times. Isolating a missing register by halving
# needs far fewer rounds.
_ROUNDS = 40


class Query(Protocol):
    """One query, and the numbers of the points whose values are in its answer."""

    @property
    def points(self) -> Sequence[int]: ...

    @property
    def query_id(self) -> Hashable:
        """Identifies the request that the query sends. Two queries that need the same answer for different points have
        the same id.
        """


Q = TypeVar("Q", bound=Query)
A = TypeVar("A")  # an answer


class Decoded(NamedTuple):
    """The value of one point, decoded from an answer."""

    number: int
    value: tuple[int, int] | str | None  # (mantissa, exponent) in the point's unit, or a text; None: no value
    quality: int  # a Quality; if ``value`` is None, the gap Reason
    raw: bytes = b""
    time: str = ""  # the time that the device reports for the value; see ``Reading.time``


@dataclass(slots=True)
class VisitPlan(Generic[Q]):
    """The queries that one visit sends for a set of paces, in order. Also lists the points that no query returns."""

    queries: list[Q]
    lacking: list[tuple[list[int], Reason]]  # points that no query returns, with their gap reason


@dataclass(slots=True)
class Failures:
    """The failures of a query since its last answer."""

    count: int = 0
    backoff: Backoff | None = None
    rest_until: float = 0.0  # the query is not sent before this time, in monotonic seconds
    reason: Reason = Reason.TIMEOUT  # gap reason of the query's points until ``rest_until``


class Device(ABC, Generic[Q, A]):
    """One device on one line. It owns no task and no socket; the poller calls its methods.

    Args:
        spec: the device; the index of a point in ``spec.points`` is its number in the ring.
        line: the line, which the device shares with all other devices on it.
        ring: the ring that readings and gaps are written to.
        table: number of the device's point table in the ring.

    Raises:
        ConfigError: an invalid address or serial setting.
    """

    protocol: ClassVar[str]
    ADDRESS: ClassVar[str] = "address"  # the word that this protocol uses for an address, in messages
    TRIES: ClassVar[int] = 1  # how often ``read_points`` sends a query that the device refuses, the first time included
    UNPLANNED: ClassVar[Reason] = Reason.EXCEPTION  # gap reason of points that no query returns

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        self.spec, self.table = spec, table
        place = f"{self.ADDRESS} {spec.address}"
        self.where = f"{spec.name} ({line.where} {place})" if line.name else f"{line.where}, {place}"
        at = f"device {spec.name}" if line.name else self.where
        demand_address(self.protocol, spec.address, line.target.scheme, at)
        self._line, self._ring = line, ring
        self._limits = spec.limits.over(line.config.limits)
        self._options = line.request_options(spec.limits, spec.serial)
        self._timing = _timing(line, spec, self._limits)
        self._guard = CounterGuard(spec)
        self._zeros = ZeroGuard(spec.points, spec.impossible)
        self._used = 0  # bit mask of the paces that the points have
        for point in spec.points:
            self._used |= 1 << PACES.index(point.pace)
        self._plans: dict[int, VisitPlan[Q]] = {}  # the plan of each set of paces; the key is the bit mask of the paces
        self._failures: dict[Hashable, Failures] = {}  # ``query_id`` -> the failures of this query
        self._resting = False  # whether a query may be resting
        self._texts: dict[int, bytes] = {}  # number of a point that identifies the device -> its last text
        self._other_texts = 0

    # --- implemented by a driver

    @abstractmethod
    def plan(self, numbers: Sequence[int]) -> list[Q]:
        """The queries that return these points. Points that the device is known to lack are left out.

        The result is cached for each set of paces. If a driver's plan changes, the driver must call ``replan``.
        """

    @abstractmethod
    def ask(self, queries: Sequence[Q]) -> Awaitable[Sequence[A | LineError]]:
        """Send the first query, or the first few queries. Returns an answer or an error for each query that was
        sent.
        """

    @abstractmethod
    def take(self, query: Q, answer: A, tick_ms: int, positions: list[int]) -> None:
        """Write an answer into the ring, and append the ring positions to ``positions``."""

    @abstractmethod
    def decoded(self, query: Q, answer: A) -> Iterable[Decoded]:
        """The readings in an answer, for a person."""

    @abstractmethod
    def zeros(self, query: Q, answer: A) -> frozenset[int]:
        """The points of which the answer contains only zeros, as the device sends them."""

    @abstractmethod
    def without(self, query: Q, numbers: Set[int]) -> Q:
        """The same query, without some of its points. ``take`` then writes nothing for them."""

    @property
    def is_prepared(self) -> bool:
        """Whether enough is known about the device to plan a visit."""
        return True

    async def prepare(self, result: PollResult) -> None:
        """Read the facts about the device that ``plan`` needs. Adds the number of requests to ``result``. Raises
        LineError.
        """

    def lacking(self, numbers: Sequence[int]) -> list[tuple[list[int], Reason]]:
        """The points that the device was found to lack, with their gap reasons."""
        return []

    def proves_life(self, error: LineError) -> bool:
        """Whether the device itself sent this error, which proves that the device is alive."""
        return isinstance(error, DeviceException)

    def on_silent(self, plan: VisitPlan[Q], silent: list[Q], is_alive: bool) -> None:
        """Draw conclusions from queries that timed out. ``is_alive``: the device answered other queries in this
        visit.
        """

    def learn(self, query: Q, error: LineError) -> bool:
        """Draw conclusions from a query that failed. Returns True if ``plan`` now uses other queries for the points of
        this query.
        """
        return False

    # --- called by pollers and commands

    @property
    def doubts(self) -> int:
        """How many signs suggest that the device was exchanged: impossible changes of counters, and changes of its
        serial number or firmware.
        """
        return self._guard.jumps + self._other_texts

    @property
    def counter_jump(self) -> CounterJump | None:
        """The newest accepted jump of a counter to another level. None: no jump was accepted."""
        return self._guard.jump

    def use_ring(self, ring: Ring, table: int) -> None:
        """Write into another ring from now on. ``table`` is the number of the point table there. Not allowed during a
        poll.
        """
        self._ring, self.table = ring, table

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Send the queries that are due at a tick and not resting. A failed query becomes a gap, never a zero."""
        result = PollResult()
        try:
            if not self.is_prepared:
                await self.prepare(result)
        except LineError as error:
            result.error, result.answered = error, int(self.proves_life(error))
            self.miss(self.due(paces), error, tick_ms, result)
            return result
        plan = self._plans.get(paces) or self.visit_plan(paces)
        for numbers, reason in plan.lacking:
            result.positions.append(self.gap(tick_ms, reason, numbers))
        queries = self._awake(plan.queries, tick_ms, result) if self._resting else plan.queries
        silent = await self.visit(queries, tick_ms, result)
        if silent and isinstance(result.error, LineTimeout):
            self.on_silent(plan, silent, result.answered > 0)
        return result

    @abstractmethod
    async def probe(self) -> None:
        """Send one cheap request. Raises LineError if the device is silent; a refusal counts as an answer."""

    async def probe_within(self, timeout_s: float) -> None:
        """Check whether a silent device answers again: call ``probe`` without retries and with a timeout of
        ``timeout_s``.
        """
        options = self._options
        self._options = replace(options, timeout_s=min(timeout_s, options.timeout_s), retries=0)
        try:
            await self.probe()
        finally:
            self._options = options

    def readings(self, query: Q, answer: A) -> dict[int, Reading]:
        """The readings in an answer, for a person: point number -> reading."""
        found: dict[int, Reading] = {}
        for number, given, quality, raw, time in self.decoded(query, answer):
            point = self.spec.points[number]
            value: Decimal | int | str | None = decimal_of(*given) if isinstance(given, tuple) else given
            if point.kind is Kind.STATE and isinstance(value, Decimal) and value == int(value):
                value = int(value)
            found[number] = Reading(point.name, value, point.unit, quality, raw, time=time)
        return found

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Read some points now, for a person or an identity check. A failed query does not affect the others.

        A point that the device refuses or does not have becomes a Reading without value; its quality is the reason.
        Raises UsageError for an unknown name, LineError if the device is silent.
        """
        numbers = self.numbers_of(names)
        found: dict[int, Reading] = {}
        tries: Counter[tuple[int, ...]] = Counter()
        zeros: set[int] = set()
        alive = False
        for _ in range(_ROUNDS):
            queries = self.plan([n for n in numbers if n not in found])
            if not queries:
                break
            for query in queries:
                (answer,) = await self.ask([query])
                if not isinstance(answer, LineError):
                    alive = True
                    self.on_answered(query)
                    found.update(self.readings(query, answer))
                    zeros |= self.zeros(query, answer) if self._zeros.rules else frozenset()
                    continue
                learned = self.learn(query, answer)
                if learned:
                    self.replan()
                if isinstance(answer, LineDown | LineLent) or (isinstance(answer, LineTimeout) and not alive):
                    raise answer
                alive = True
                tries[tuple(query.points)] += 1
                refused = isinstance(answer, DeviceException)
                if not learned and not (refused and tries[tuple(query.points)] < self.TRIES):
                    found.update({n: self.no_reading(n, answer.reason) for n in query.points})
        self.drop_zeros(found, zeros)
        return {self.spec.points[n].name: found.get(n) or self.no_reading(n, self.UNPLANNED) for n in numbers}

    def drop_zeros(self, found: dict[int, Reading], zeros: Set[int]) -> None:
        """Remove the values that are impossible together from ``found``, which was read at one time."""
        for number in self._zeros.lost(zeros):
            found[number] = self.no_reading(number, Reason.SENTINEL)

    @abstractmethod
    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        """The readings in recorded answers, by point name. Sends nothing. See ``drivers.samples.read_sample``."""

    # --- parts of a driver

    def visit_plan(self, paces: int) -> VisitPlan[Q]:
        """The plan of a visit for these paces, cached until ``replan``."""
        used = paces & self._used
        if (plan := self._plans.get(used)) is None:
            due = self.due(used)
            plan = VisitPlan(self.plan(due), self.lacking(due))
        self._plans[paces] = self._plans[used] = plan
        return plan

    def replan(self) -> None:
        """Drop the cached plans. Called when the device, or what is known about it, has changed."""
        self._plans.clear()

    def on_answered(self, query: Q) -> None:
        """Note that a query was answered."""
        if self._failures:
            self._failures.pop(query.query_id, None)

    def count_failure(self, query: Q) -> Failures:
        """Count one more failure of a query. Returns the record of its failures since its last answer."""
        found = self._failures.setdefault(query.query_id, Failures())
        found.count += 1
        return found

    def rest(self, failures: Failures, seconds: float, reason: Reason) -> None:
        """Do not send this query again for ``seconds``. Until then its points are gaps with ``reason``.

        ``failures`` is the record of the query's failures.
        """
        failures.rest_until, failures.reason = self.mono_s() + seconds, reason
        self._resting = True

    def _awake(self, queries: list[Q], tick_ms: int, result: PollResult) -> list[Q]:
        """Return the queries that are not resting. Writes gaps for the points of resting queries."""
        now, awake = self.mono_s(), list[Q]()
        for query in queries:
            failures = self._failures.get(query.query_id)
            if failures is None or now >= failures.rest_until:
                awake.append(query)
            else:
                self.write_gaps(query.points, failures.reason, tick_ms, result)
        self._resting = any(now < failures.rest_until for failures in self._failures.values())
        return awake

    def write_gaps(self, points: Iterable[int], reason: Reason, tick_ms: int, result: PollResult) -> None:
        """Write gaps for the points of a refused or resting query. A refused point that is optional gets the reason
        ABSENT.
        """
        for why, those in self.by_reason(points, reason):
            result.positions.append(self.gap(tick_ms, why, those))

    def by_reason(self, points: Iterable[int], reason: Reason) -> list[tuple[Reason, list[int]]]:
        """Group points by gap reason. A refused point that is optional gets the reason ABSENT, which is not a fault."""
        absent = [n for n in points if reason is Reason.EXCEPTION and self.spec.points[n].optional]
        others = [n for n in points if reason is not Reason.EXCEPTION or not self.spec.points[n].optional]
        return [(why, those) for why, those in ((reason, others), (Reason.ABSENT, absent)) if those]

    async def visit(self, queries: list[Q], tick_ms: int, result: PollResult) -> list[Q]:
        """Send the queries that are due at a tick, in order. A failed query becomes a gap with its reason, never a
        zero.

        The visit ends after a timeout if no earlier query was answered. So a dead device costs only one timeout per
        visit. The visit also ends after two timeouts in a row.

        Args:
            queries: changed in place when a failed query is replaced by others.

        Returns:
            The queries that were not answered in time.
        """
        silent: list[Q] = []
        # answers that are written at the end of the visit, because only then it is known which zeros are readings
        held: list[tuple[Q, A]] | None = [] if self._zeros.rules else None
        at = streak = 0
        while at < len(queries):
            some = queries[at:] if at else queries
            answers = await self.ask(some)
            at += len(answers)
            result.asked += len(answers)
            for query, answer in zip(some, answers, strict=False):
                if not isinstance(answer, LineError):
                    result.answered += 1
                    streak = 0
                    self.on_answered(query)
                    if held is None:
                        self.take(query, answer, tick_ms, result.positions)
                    else:
                        held.append((query, answer))
                    continue
                queries[at:at] = self.failed(query, answer, tick_ms, result)
                if isinstance(answer, LineTimeout):
                    streak += 1
                    silent.append(query)
                # a line that is down or lent ends the visit. After a broken frame the visit continues: the next query
                # may succeed.
                else:
                    streak = 2 if isinstance(answer, LineDown | LineLent) else 0
            if streak > 1 or (streak and not result.answered):
                break
        if held:
            self._take_held(held, tick_ms, result.positions)
        if result.error is not None:
            for query in queries[at:]:
                self.miss(query.points, result.error, tick_ms, result)
        return silent

    def _take_held(self, held: Sequence[tuple[Q, A]], tick_ms: int, positions: list[int]) -> None:
        """Write the answers of one visit. Zeros that are impossible together become gaps."""
        zeros = [self.zeros(query, answer) for query, answer in held]
        lost = self._zeros.lost(frozenset().union(*zeros))
        for (query, answer), mine in zip(held, zeros, strict=True):
            if gone := mine & lost:
                positions.append(self.gap(tick_ms, self.spec.lack(tick_ms), sorted(gone)))
            self.take(self.without(query, gone) if gone else query, answer, tick_ms, positions)

    def failed(self, query: Q, error: LineError, tick_ms: int, result: PollResult) -> Sequence[Q]:
        """Record a failed query. Returns the queries that replace it in the same visit."""
        result.error = error
        result.answered += self.proves_life(error)
        if self.learn(query, error):
            self.replan()
        self.miss(query.points, error, tick_ms, result)
        return ()

    def miss(self, points: Iterable[int], error: LineError, tick_ms: int, result: PollResult) -> None:
        """Write a gap for ``points`` with the error's reason. If the device is silent at night, the reason is ASLEEP
        instead.
        """
        reason = error.reason if result.answered else self.spec.reason_of(error, tick_ms)
        result.positions.append(self.gap(tick_ms, reason, points))

    def gap(self, tick_ms: int, reason: Reason, points: Iterable[int]) -> int:
        """Write a gap into the ring. Returns its ring position."""
        return self._ring.append_gap(self.table, reason, tick_ms, *self._line.clock(), memoryview(array("H", points)))

    def write(self, values: Iterable[Decoded], stamp: tuple[int, int, int], positions: list[int]) -> None:
        """Write the values of an answer into the ring; each missing value becomes a gap. ``stamp``: see
        ``append_text``.
        """
        numbers: list[tuple[int, int, int, int, int | None]] = []
        for number, value, quality, _, time in values:
            if isinstance(value, str):
                positions.append(self.append_text(number, quality, stamp, value))
                continue
            doubtful = False
            if value is not None and quality == Quality.GOOD and number in self._guard.counters:
                doubtful = self._guard.is_suspect([(number, decimal_of(*value))], stamp[2] / 1e9)
            own_ms = time_ms(time, self.spec.zone) if time else None
            numbers.append((number, *(value or (0, 0)), Quality.SUSPECT if doubtful else quality, own_ms))
        if numbers:
            positions.append(self._ring.append_values(self.table, *stamp, numbers))

    def append_text(self, number: int, quality: int, stamp: tuple[int, int, int], text: str) -> int:
        """Write a text into the ring. Returns its ring position.

        ``stamp``: the tick in ms, then the time of arrival, first in UTC ns and then in monotonic ns.
        """
        encoded = text.encode("utf-8", "replace")
        if quality == Quality.GOOD and self.spec.points[number].name.startswith(WHO):
            self._other_texts += self._texts.setdefault(number, encoded) != encoded
            self._texts[number] = encoded
        return self._ring.append_text(self.table, number, quality, *stamp, encoded)

    def due(self, paces: int) -> list[int]:
        """The numbers of the points whose pace is in the bit mask ``paces``."""
        if paces == self._used:
            return list(range(len(self.spec.points)))
        return [n for n, point in enumerate(self.spec.points) if paces >> PACES.index(point.pace) & 1]

    def numbers_of(self, names: Iterable[str]) -> list[int]:
        """The numbers of the points with these names. A repeated name counts once. Raises UsageError for an unknown
        name.
        """
        numbers = {point.name: n for n, point in enumerate(self.spec.points)}
        for name in names:
            if name not in numbers:
                raise UsageError(f"unknown point {show(name)}", where=self.spec.name, hint=suggestion(name, numbers))
        return [numbers[name] for name in dict.fromkeys(names)]

    def no_reading(self, number: int, reason: int) -> Reading:
        """A reading without value. Its quality is ``reason``, the gap reason."""
        point = self.spec.points[number]
        return Reading(point.name, None, point.unit, reason)

    def mono_s(self) -> float:
        """The line's monotonic clock, in seconds."""
        return self._line.clock()[1] / 1e9


def decimal_of(mantissa: int, exponent: int) -> Decimal:
    """``mantissa * 10**exponent`` as a Decimal with an exponent of 0 or below."""
    return Decimal(mantissa * 10**exponent) if exponent > 0 else Decimal(mantissa).scaleb(exponent)


def _timing(line: Line, spec: DeviceSpec, limits: Limits) -> LineTiming:
    """The time that requests to a device cost on its line. The plan of reads is optimized with it."""
    if line.target.scheme == "serial":
        return LineTiming.serial(spec.serial or line.config.serial, limits)
    return LineTiming.tcp(line.config.bus_baud, limits)
