"""One Modbus device on one line: polled without a Python object a reading, asked slowly for tools and identity."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import cast

from drivers.addresses import demand_address
from drivers.clocks import offset_s
from drivers.counter_guard import CounterGuard
from drivers.line import READ_FUNCTIONS, Answer, Line, ModbusRequest
from drivers.modbus.read_once import read_once
from drivers.modbus.read_plan import SILENT_VISITS, Read, ReadPlan, build_read_plan, timing_of
from drivers.modbus.requests import identification_request, read_identification, read_request
from drivers.model import (
    PACES,
    DeviceException,
    DeviceSpec,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    PlanSummary,
    Point,
    PollResult,
    Quality,
    Reading,
    Reason,
)
from drivers.plan import KnownHoles, exact, plan_summary, text_of
from drivers.plan.holes import ILLEGAL_ADDRESS, STRIKES
from ext.decode import Plan
from ext.ring import Ring

_EXPIRE_EVERY = 1024  # visits between checks of the age of learned facts
_log = logging.getLogger("meterhouse.modbus")


class ModbusDevice:
    """Owns no task and no socket; the poller calls it.

    Args:
        spec: the device; the index of a point in ``spec.points`` is its number in the ring.
        line: shared with the other devices on it.
        ring: readings and gaps go there, under ``table``.
        holes: the learned facts for this identity and firmware; None: nothing yet.

    Raises:
        ConfigError: an address or serial setting that cannot be.
        ProfileError: points that cannot be planned or compiled.
    """

    protocol = "modbus"
    FRAMES: Mapping[str, str] = {f"function {code}": what for code, what in READ_FUNCTIONS.items()}

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int, holes: KnownHoles | None = None) -> None:
        self.spec, self.table = spec, table
        self._holes = holes or KnownHoles()
        self.where = f"{spec.name} (line {line.name} unit {spec.address})"
        demand_address(self.protocol, spec.address, line.target.scheme, f"device {spec.name}")
        self.unit = int(spec.address)
        self._line, self._ring = line, ring
        self._limits = spec.limits.over(line.config.limits)
        self._options = line.request_options(spec.limits, spec.serial)
        self._timing = timing_of(line, self._limits, spec.serial)
        self._read_plans: dict[int, ReadPlan] = {}
        self._version = self.holes.version
        self._guard = CounterGuard(spec)
        self._polls = 0
        self._used = 0
        self._objects = tuple(n for n, point in enumerate(spec.points) if point.is_object)
        for point in spec.points:
            self._used |= 1 << PACES.index(point.pace)
        self._read_plan(self._used)  # complain now, not at the first tick

    @property
    def holes(self) -> KnownHoles:
        """The learned facts about this device's map."""
        return self._holes

    @holes.setter
    def holes(self, holes: KnownHoles) -> None:
        self._holes, self._version = holes, holes.version
        self._read_plans.clear()

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the points due at a tick. A read that fails becomes a gap with its reason, never a zero.

        A device whose first read is silent is not asked on, so that a dead one costs one timeout a visit; the silent
        read goes to the end of the line, so that the next visit finds out whether it alone is mute.
        """
        self._polls += 1
        if self._polls % _EXPIRE_EVERY == 0:
            self.holes.expire(self._now_s())
        read_plan = self._read_plans.get(paces)
        if read_plan is None or self._version != self.holes.version:
            read_plan = self._read_plan(paces)
        result = PollResult()
        positions = result.positions
        for lacking, reason in read_plan.lacking:
            positions.append(self._gap(tick_ms, reason, lacking))
        reads, requests = read_plan.reads, read_plan.requests
        if read_plan.resting:
            reads, requests = self._awake(read_plan, tick_ms, positions)
        size, at, streak = self._line.burst_size, 0, 0
        mute: list[Read] = []
        while at < len(reads):
            some = requests if not at and len(requests) <= size else requests[at : at + size]
            answers = await self._line.burst(some, self._options)
            result.asked += len(answers)
            for read, answer in zip(reads[at:] if at else reads, answers, strict=False):
                if type(answer) is Answer:
                    result.answered += 1
                    streak = 0
                    self._take(read, answer, tick_ms, positions)
                    continue
                streak = self._missed(read, cast(LineError, answer), tick_ms, result, streak)
                if streak:
                    mute.append(read)
            at += len(answers)
            if streak > 1 or (streak and not result.answered):
                break
        if result.error is not None:
            self._give_up(reads[at:], result.error, tick_ms, result)
            if isinstance(result.error, LineTimeout):
                self._was_mute(read_plan, mute, result.answered > 0)
        if self._objects:
            await self._ask_objects(paces, tick_ms, result)
        return result

    async def probe(self) -> None:
        """One cheap request. Raises LineError if the device is silent; a refusal is an answer."""
        wanted = [n for n, p in enumerate(self.spec.points) if p.name == self.spec.probe]
        point = self.spec.points[wanted[0]] if wanted else min(self.spec.points, key=lambda p: (p.is_object, p.count))
        if point.is_object:
            request = identification_request(self.unit, 0, self.where)
        else:
            request = read_request(self.unit, point.function, point.address, point.count, self.where)
        try:
            await self._line.exchange(request, self._options)
        except DeviceException:
            return

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Ask for some points now, for a person or an identity check.

        A point that the device refuses or lacks is a Reading without value whose quality is the reason.
        Raises UsageError for a name that it has not, LineError if the device is silent.
        """
        objects = {point.name: point for point in self.spec.points if point.is_object and point.name in names}
        found = await read_once(
            self.spec,
            [name for name in names if name not in objects],
            self._line,
            self.unit,
            self._limits,
            self._options,
            self._timing,
            self.holes,
            self.where,
        )
        if objects:
            found |= await self._read_objects(objects, alone=not found)
        return {name: found[name] for name in names}

    async def _read_objects(self, objects: Mapping[str, Point], alone: bool) -> dict[str, Reading]:
        """Texts of function 43/14 by point. Raises LineDown, LineLent; LineTimeout where nothing else was asked."""
        try:
            said = await self.read_identification()
        except LineError as error:
            if isinstance(error, LineDown | LineLent) or (alone and isinstance(error, LineTimeout)):
                raise
            return {name: Reading(name, None, "", error.reason) for name in objects}
        texts = {name: said.get(point.address) or None for name, point in objects.items()}
        return {name: Reading(name, text, "", Quality.GOOD if text else Reason.ABSENT) for name, text in texts.items()}

    async def read_identification(self) -> dict[int, str]:
        """Function 43/14: 0 vendor, 1 product code, 2 revision. Raises LineError."""
        return await read_identification(self._line, self.unit, self._options, self.where)

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit for these paces on this line."""
        return plan_summary((read.block for read in self._read_plan(paces).reads), self._timing)

    # --- the road of one answer

    def _take(self, read: Read, answer: Answer, tick_ms: int, positions: list[int]) -> None:
        payload, time_ns, mono_ns, suspect = answer
        quality = Quality.SUSPECT if suspect else Quality.GOOD
        if read.counters is not None and self._doubts(read.counters, payload, mono_ns):
            quality = Quality.SUSPECT  # all of it: an answer to another request shows at its counters
        if read.plan is not None:
            why = Reason.SENTINEL if self.spec.night is None else self.spec.lack(tick_ms)
            stamp = (tick_ms, time_ns, mono_ns)
            positions.append(read.plan.decode_into(self._ring, payload, self.table, *stamp, quality, why))
        for slot in read.texts:
            point = self.spec.points[slot.point]
            text = text_of(point, payload[slot.offset : slot.offset + slot.size])
            off = offset_s(text, point.clock, self.spec.zone, time_ns) if point.clock and text is not None else None
            if off is not None:
                value = (slot.point, *exact(off), quality)
                positions.append(self._ring.append_values(self.table, tick_ms, time_ns, mono_ns, [value]))
            elif text is None or point.clock:
                positions.append(self._gap(tick_ms, Reason.SENTINEL, memoryview(array("H", (slot.point,)))))
            else:
                positions.append(
                    self._ring.append_text(
                        self.table, slot.point, quality, tick_ms, time_ns, mono_ns, text.encode("utf-8")
                    )
                )
        self.holes.good(read.block)
        if read.silences:
            read.silences = 0
            read.backoff.reset()

    async def _ask_objects(self, paces: int, tick_ms: int, result: PollResult) -> None:
        """Objects of device identification, after the registers; a device that said nothing to those is not asked."""
        due = [n for n in self._objects if paces >> PACES.index(self.spec.points[n].pace) & 1]
        if not due:
            return
        error, said = result.error, dict[int, str]()
        if result.answered or not result.asked:
            try:
                said = await self.read_identification()
            except LineError as raised:
                result.error = error = raised
                result.answered += isinstance(raised, DeviceException)
            else:
                error = None
                result.answered += 1
            result.asked += 1
        for n in due:
            point, text = self.spec.points[n], said.get(self.spec.points[n].address, "")
            if text:
                stamp = (tick_ms, *self._line.clock())
                result.positions.append(self._ring.append_text(self.table, n, Quality.GOOD, *stamp, text.encode()))
                continue
            silent = error is not None and not isinstance(error, DeviceException)
            reason = error.reason if error is not None and (silent or not point.optional) else Reason.ABSENT
            result.positions.append(self._gap(tick_ms, reason, memoryview(array("H", (n,)))))

    def _doubts(self, counters: Plan, payload: bytes, mono_ns: int) -> bool:
        values = [(n, Decimal(m).scaleb(e)) for n, m, e, quality in counters.values(payload) if quality == Quality.GOOD]
        return self._guard.is_suspect(values, mono_ns / 1e9)

    def _missed(self, read: Read, error: LineError, tick_ms: int, result: PollResult, streak: int) -> int:
        """Note a read that failed; returns how many reads in a row were silent."""
        result.error = error
        reason = error.reason if result.answered else self.spec.silence(error.reason, tick_ms)
        result.positions.append(self._gap(tick_ms, reason, read.points))
        if isinstance(error, DeviceException):
            result.answered += 1
            if self.holes.refused(read.block, self.spec.points, error.code, self._now_s()):
                _log.info("%s: learned about its register map: %s", self.where, self.holes.summary())
            return 0
        if isinstance(error, LineTimeout):
            return streak + 1
        # a line that is down or lent answers nothing; a broken frame tells nothing about the next
        return 0 if error.reason in (Reason.CRC, Reason.MISMATCH) else 2

    def _give_up(self, unasked: Sequence[Read], error: LineError, tick_ms: int, result: PollResult) -> None:
        """The reads that were not asked any more."""
        reason = error.reason if result.answered else self.spec.silence(error.reason, tick_ms)
        for read in unasked:
            result.positions.append(self._gap(tick_ms, reason, read.points))

    def _gap(self, tick_ms: int, reason: Reason, points: memoryview) -> int:
        return self._ring.append_gap(self.table, reason, tick_ms, *self._line.clock(), points)

    # --- what a device teaches

    def _read_plan(self, paces: int) -> ReadPlan:
        if self._version != self.holes.version:
            self._read_plans.clear()
            self._version = self.holes.version
        read_plan = self._read_plans.get(paces)
        if read_plan is None:
            used = paces & self._used
            read_plan = self._read_plans.get(used) or build_read_plan(
                self.spec, used, self.unit, self._limits, self._timing, self.holes, self.where
            )
            self._read_plans[paces] = self._read_plans[used] = read_plan
        return read_plan

    def _awake(self, read_plan: ReadPlan, tick_ms: int, positions: list[int]) -> tuple[list[Read], list[ModbusRequest]]:
        """The reads that are not resting; the others are gaps."""
        now = self._line.clock()[1] / 1e9
        awake = [read for read in read_plan.reads if now >= read.rest_until]
        read_plan.resting = len(awake) < len(read_plan.reads)
        for read in read_plan.reads:
            if now < read.rest_until:
                positions.append(self._gap(tick_ms, Reason.TIMEOUT, read.points))
        return awake, [read.request for read in awake]

    def _was_mute(self, read_plan: ReadPlan, mute: list[Read], alive: bool) -> None:
        """A read that is silent while others are answered is cut where possible, and finally backs off.

        Some firmware is silent about registers it has not, or about reads it finds too long (field pains 27, 41).
        """
        for read in mute:
            read_plan.to_end(read)
            if not alive:
                continue
            read.silences += 1
            if read.silences < SILENT_VISITS:
                continue
            for _ in range(STRIKES if len(read.block.points) > 1 else 0):
                if self.holes.refused(read.block, self.spec.points, ILLEGAL_ADDRESS, self._now_s()):
                    _log.info("%s: split a read that is not answered: %s", self.where, self.holes.summary())
                    return
            read.rest_until = self._line.clock()[1] / 1e9 + read.backoff.next_s()
            read_plan.resting = True

    def _now_s(self) -> int:
        return self._line.clock()[0] // 1_000_000_000
