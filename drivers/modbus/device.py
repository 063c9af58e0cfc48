"""One Modbus device on one line. Polling makes no Python object per reading; commands for people use a slower way."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from drivers.backoff import Backoff
from drivers.base import VisitPlan
from drivers.line import Line
from drivers.modbus.frames import ModbusRequest
from drivers.modbus.registers import Read, RegisterDevice
from drivers.modbus.requests import identification_request, read_identification, read_request
from drivers.model import (
    PACES,
    DeviceException,
    DeviceSpec,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    Point,
    PollResult,
    ProfileError,
    Quality,
    Reading,
    Reason,
)
from drivers.plan import KnownHoles, read_image
from drivers.plan.holes import STRIKES
from ext.ring import Ring

# A read that times out while other reads are answered is split, or sent less often, after this many such visits in a
# row.
SILENT_VISITS = 8
FIRST_REST_S, LONGEST_REST_S = 60.0, 3600.0
# A read that was split because it got no answer is tried again as a whole after this time, when all other reads are
# answered, and less and less often if it fails. It may have been noise.
FIRST_TRIAL_S, LONGEST_TRIAL_S = 600.0, 86_400.0
_EXPIRE_EVERY = 1024  # number of visits between two checks of the age of learned facts
_log = logging.getLogger("meterhouse.modbus")


class ModbusDevice(RegisterDevice):
    """Polls one device.

    ``holes`` are the facts that are already known about the register map of this identity and firmware. None: nothing
    is known.

    Raises:
        ConfigError: an invalid address or serial setting.
        ProfileError: points that cannot be planned or compiled.
    """

    protocol = "modbus"
    TRIES = STRIKES

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int, holes: KnownHoles | None = None) -> None:
        super().__init__(spec, line, ring, table)
        self._holes = holes or KnownHoles()
        self._version = self.holes.version
        self._polls = 0
        self._trial_backoff = Backoff(FIRST_TRIAL_S, LONGEST_TRIAL_S)
        self._next_trial_s: float | None = None  # None: no read was split because it got no answer
        self._trials = 0  # number of trials; each one reads another block, the largest first
        self._objects = tuple(n for n, point in enumerate(spec.points) if point.is_object)
        self.visit_plan(self._used)  # raise a ProfileError now, not at the first tick
        if any(not point.is_decodable_from(point.address + 1) for point in spec.points):
            # whether a point of many coils can be decoded depends on the points of its group that are due with it
            for paces in range(1, self._used):
                self.visit_plan(paces)

    @property
    def holes(self) -> KnownHoles:
        """Facts learned about this device's register map."""
        return self._holes

    @holes.setter
    def holes(self, holes: KnownHoles) -> None:
        self._holes, self._version = holes, holes.version
        self.replan()

    def plan(self, numbers: Sequence[int]) -> list[Read]:
        """The reads that cover the points. Points that the device lacks are left out.

        If the points can be planned only without the learned facts, the facts are forgotten: an error during a poll
        would end the agent, and the stored facts would end it again after each start. Raises ProfileError if the points
        cannot be planned at all.
        """
        try:
            return self.reads(numbers, self._limits, self.holes)
        except ProfileError:
            if not self.holes.summary():
                raise
            _log.info("%s: forgot learned facts that leave no way to read: %s", self.where, self.holes.summary())
            self.holes.forget()
            return self.reads(numbers, self._limits, self.holes)

    def lacking(self, numbers: Sequence[int]) -> list[tuple[list[int], Reason]]:
        if not self.holes.has_absent:
            return []
        lacking = [n for n in numbers if self.holes.lacks(self.spec.points[n])]
        return [(those, why) for why, those in self.by_reason(lacking, Reason.EXCEPTION)]

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        self._polls += 1
        if self._polls % _EXPIRE_EVERY == 0:
            self.holes.expire(self._now_s())
        if self._version != self.holes.version:
            self._version = self.holes.version
            self.replan()
        result = await super().poll(tick_ms, paces)
        if self.holes.unanswered and result.answered and result.error is None:
            await self._try_whole()
        if self._objects:
            await self._ask_objects(paces, tick_ms, result)
        return result

    def on_answered(self, query: Read) -> None:
        self._holes.good(query.block)
        super().on_answered(query)

    def learn(self, query: Read, error: LineError) -> bool:
        if not isinstance(error, DeviceException):
            return False
        learned = self.holes.refused(query.block, self.spec.points, error.code, self._now_s())
        if learned:
            _log.info("%s: learned about the register map of the device: %s", self.where, self.holes.summary())
        return learned

    def on_silent(self, plan: VisitPlan[Read], silent: list[Read], is_alive: bool) -> None:
        """Move silent reads to the end of the plan. The next visit then shows whether only these reads get no answer.

        Some firmware does not answer reads of registers that it lacks, or reads that are too long (field pains 27, 41).
        So a read that gets no answer, while other reads are answered, is split if possible. If it cannot be split, it
        is sent less and less often.
        """
        for read in silent:
            plan.queries.remove(read)
            plan.queries.append(read)
            if not is_alive:
                continue
            failures = self.count_failure(read)
            if failures.count < SILENT_VISITS:
                continue
            if self.holes.silent(read.block, self.spec.points, self._now_s()):
                _log.info("%s: a read that gets no answer was split: %s", self.where, self.holes.summary())
                return
            failures.backoff = failures.backoff or Backoff(FIRST_REST_S, LONGEST_REST_S)
            self.rest(failures, failures.backoff.next_s(), Reason.TIMEOUT)

    async def _try_whole(self) -> None:
        """Try a read that was split because it got no answer, if it is time. An answer drops the cuts."""
        now_s = self.mono_s()
        if self._next_trial_s is None:
            self._next_trial_s = now_s + self._trial_backoff.next_s()
        if now_s < self._next_trial_s:
            return
        reads = sorted(self.holes.unanswered, key=lambda read: (-read[2], read))
        read = reads[self._trials % len(reads)]
        try:
            await self._line.exchange(read_request(self.unit, *read, self.where), replace(self._options, retries=0))
        except (LineDown, LineLent):
            return
        except LineError:
            self._trials += 1
            self._next_trial_s = now_s + self._trial_backoff.next_s()
            return
        self.holes.whole(*read)
        _log.info("%s: a read of %d registers at %d is answered again; it is no longer split", self.where, *read[:0:-1])
        self._trial_backoff, self._next_trial_s, self._trials = Backoff(FIRST_TRIAL_S, LONGEST_TRIAL_S), None, 0

    def probe_request(self) -> ModbusRequest:
        """A read of the point that the profile names for probing. If it names none, a read of the shortest point."""
        points, probe = self.spec.points, self.spec.probe
        named = (p for p in points if p.name == probe) if probe else ()
        # the search ends at the first single register, because with thousands of devices it is a part of the start
        single = (p for p in points if p.count == 1 and not p.is_object)
        point = next(chain(named, single), None) or min(points, key=lambda p: (p.is_object, p.count))
        if point.is_object:
            return identification_request(self.unit, 0, self.where)
        return read_request(self.unit, point.function, point.address, point.count, self.where)

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        objects = {point.name: point for point in self.spec.points if point.is_object and point.name in names}
        found = await super().read_points([name for name in names if name not in objects])
        if objects:
            found |= await self._read_objects(objects, alone=not found)
        return {name: found[name] for name in names}

    async def _read_objects(self, objects: Mapping[str, Point], alone: bool) -> dict[str, Reading]:
        """Read texts with function 43/14, by point. Raises LineDown and LineLent.

        ``alone``: no register was read before. Then a LineTimeout is raised, too; otherwise the texts become missing
        values.
        """
        try:
            identification = await self.read_identification()
        except LineError as error:
            if isinstance(error, LineDown | LineLent) or (alone and isinstance(error, LineTimeout)):
                raise
            return {name: Reading(name, None, "", error.reason) for name in objects}
        texts = {name: _object(point, identification) for name, point in objects.items()}
        return {name: Reading(name, text, "", Quality.GOOD if text else Reason.ABSENT) for name, text in texts.items()}

    async def read_identification(self) -> dict[int, str]:
        """The texts of function 43/14: 0 vendor, 1 product code, 2 revision. Raises LineError."""
        return await read_identification(self._line, self.unit, self._options, self.where)

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        return {reading.name: reading for reading in read_image(words, self.spec.points, self.spec)[0]}

    async def _ask_objects(self, paces: int, tick_ms: int, result: PollResult) -> None:
        """Read the objects of device identification, after the registers. Does nothing if the device answered no
        register.
        """
        due = [n for n in self._objects if paces >> PACES.index(self.spec.points[n].pace) & 1]
        if not due:
            return
        error, identification = result.error, dict[int, str]()
        if result.answered or not result.asked:
            try:
                identification = await self.read_identification()
            except LineError as raised:
                result.error = error = raised
                result.answered += self.proves_life(raised)
            else:
                error = None
                result.answered += 1
            result.asked += 1
        for n in due:
            point, text = self.spec.points[n], _object(self.spec.points[n], identification)
            if text:
                stamp = (tick_ms, *self._line.clock())
                result.positions.append(self.append_text(n, Quality.GOOD, stamp, text))
                continue
            reason = Reason.ABSENT
            if error is not None and not (isinstance(error, DeviceException) and point.optional):
                reason = error.reason if result.answered else self.spec.reason_of(error, tick_ms)
            result.positions.append(self.gap(tick_ms, reason, (n,)))

    def _now_s(self) -> int:
        return self._line.clock()[0] // 1_000_000_000


def _object(point: Point, identification: Mapping[int, str]) -> str | None:
    """The text of a point of function 43/14. None if the device does not have it, or if it means "no reading"."""
    text = identification.get(point.address)
    return None if text in point.no_texts else text or None
