"""One SunSpec device on one line, over Modbus TCP, RTU or raw TCP. First its models are found, then they are read by
plan.

A point's ``key`` is ``MODELS.POINT``, such as ``103.W``, ``101,102,103.W`` or ``160.module[0].DCW``. Alternatives are
separated by ``|``, as in ``inverter.WH|701.TotWhInj``. The value comes from the first of these models that the device
has and that implements the point.

- ``inverter`` means the models 101 to 103 and 111 to 113.
- ``meter`` means the models 201 to 204 and 211 to 214.
- ``203:2.W`` means the second model 203.

A value and its scale factor always come from one read (field pain 38).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from drivers.backoff import Backoff
from drivers.line import Answer, Line
from drivers.modbus.frames import ModbusRequest
from drivers.modbus.registers import DEVICE_FAILURE, Read, RegisterDevice
from drivers.modbus.requests import read_request
from drivers.model import (
    DeviceException,
    DeviceSpec,
    FrameError,
    Limits,
    LineError,
    LineTimeout,
    PlanSummary,
    Point,
    PollResult,
    Reading,
    Reason,
)
from drivers.plan import Block, plan_summary
from drivers.plan.holes import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE
from drivers.sunspec.plan import HOLDING, alternatives, find_points
from drivers.sunspec.walk import BASES, MAX_READ, Ask, ModelChain, decode_image, discover
from ext.ring import Ring

_MISSING = frozenset((ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE))  # other refusals may be temporary
# pauses between two walks of a device whose models were found only in part, for example while it was starting
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
_log = logging.getLogger("meterhouse.sunspec")


class SunSpecDevice(RegisterDevice):
    """Reads one SunSpec device.

    It searches for the models at the first contact. The search is repeated after the device was silent or refused a
    request, because a firmware update may have moved the models. If only some models were found, it is repeated less
    and less often.

    Raises:
        ConfigError: an invalid address or key.
    """

    protocol: ClassVar[str] = "sunspec"
    UNPLANNED: ClassVar[Reason] = Reason.ABSENT

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        super().__init__(spec, line, ring, table)
        for point in spec.points:
            alternatives(point.key, f"{spec.profile}: {point.name}")
        self._most = min(self._limits.max_words or MAX_READ, MAX_READ)
        self._bases = list(BASES)
        self.device: ModelChain | None = None  # the models that the last walk found; None: the next visit must walk
        # when the next walk is due, in monotonic seconds; 0: in the next visit; None: no walk, the chain is complete
        self._walk_at_s: float | None = None
        self._pause = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        # the last refusal of the last walk, if it may be temporary; and the read whose refusal ended an earlier visit
        self._refused: tuple[Ask, DeviceException] | None = None
        self._refused_before: Ask | None = None
        # A read may cover all registers between two points, because they belong to models, and a device must answer
        # whole models.
        self._reading = Limits(max_words=self._most, holes=True)
        # number -> point, with its addresses in this device; only points that the device has
        self._known: dict[int, Point] = {}

    def plan(self, numbers: Sequence[int]) -> list[Read]:
        return self.reads([n for n in numbers if n in self._known], self._reading)

    def lacking(self, numbers: Sequence[int]) -> list[tuple[list[int], Reason]]:
        lacking = [n for n in numbers if n not in self._known]
        return [(lacking, Reason.ABSENT)] if lacking else []

    @property
    def is_prepared(self) -> bool:
        return self.device is not None and (self._walk_at_s is None or self.mono_s() < self._walk_at_s)

    async def prepare(self, result: PollResult) -> None:
        """Find the models. A refusal that may be temporary is raised once: the device may be starting, and more models
        may follow. If the next walk is refused at the same place, the models before it are read.
        """
        await self.walk(result)
        if self._walk_at_s == 0 and self._refused is not None:
            self._refused_before, error = self._refused
            # the device has answered other reads, so the code of this error must not mean that the whole device fails
            raise DeviceException(error.what, where=error.where, hint=error.hint, code=ILLEGAL_ADDRESS) from error

    def learn(self, query: Read, error: LineError) -> bool:
        if isinstance(error, DeviceException | LineTimeout):
            self.device = None
        return False

    def probe_request(self) -> ModbusRequest:
        """A read of the marker."""
        return self._request(self.device.base if self.device is not None else self._bases[0], 2)

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        if self.numbers_of(names) and self.device is None:
            await self.walk()
        return await super().read_points(names)

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit. As long as the models are unknown, a single read of 60 registers is assumed."""
        due = self.due(paces)
        if self.device is not None:
            return replace(super().plan_summary(paces), points=len(due))
        return plan_summary([Block(HOLDING, 0, 60, tuple(due))] * bool(due), self._timing)

    async def walk(self, visit: PollResult | None = None) -> ModelChain:
        """Find the models, and add the number of requests to ``visit``. Raises LineError.

        A device without SunSpec gives a DeviceException.
        """
        # exception codes of refused reads; the code is 0 for a read that was answered
        visit, codes = visit or PollResult(), set[int]()
        refused: tuple[Ask, DeviceException] | None = None
        if self.device is None or self._walk_at_s == 0:
            self._pause.reset()
        # if this walk fails, the known models are read until the next one
        self._walk_at_s = self.mono_s() + self._pause.next_s()
        walk = discover(self._bases, self._most)
        asked = next(walk)
        while True:
            registers: tuple[int, ...] | None
            try:
                visit.asked += 1
                payload = (await self._line.exchange(self._request(*asked), self._options)).payload
                registers = _words(payload)
                codes.add(0)
            except DeviceException as error:
                registers = None
                codes.add(error.code)
                if error.code not in _MISSING and asked[0] not in self._bases:
                    refused = asked, error
            except LineTimeout:
                # some devices do not answer reads of missing registers: next time, try another base first
                if asked[0] == self._bases[0]:
                    self._bases.append(self._bases.pop(0))
                raise
            try:
                asked = walk.send(registers)
            except StopIteration as done:
                device: ModelChain = done.value
                break
            except FrameError as error:
                code = DEVICE_FAILURE if codes == {DEVICE_FAILURE} else ILLEGAL_ADDRESS
                raise DeviceException(error.what, where=self.where, hint=error.hint, code=code) from error
        self._bases.sort(key=lambda base: base != device.base)
        for text in device.warnings:
            _log.info("%s: %s", self.where, text)
        self._adopt(device)
        if not device.warnings:
            self._walk_at_s = self._refused_before = None
        elif refused is not None and refused[0] != self._refused_before:
            self._walk_at_s, self._refused = 0.0, refused
        return device

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        """See ``Driver.read_sample``. Raises FrameError if the sample has no marker."""
        return self._read_image(words.get(HOLDING, {}))

    def _read_image(self, words: Mapping[int, int]) -> dict[str, Reading]:
        first = min(words, default=0)
        registers = [words.get(address, 0) for address in range(first, max(words, default=0) + 1)]
        self._adopt(decode_image(first, registers))
        found = {n: self.no_reading(n, Reason.ABSENT) for n in range(len(self.spec.points)) if n not in self._known}
        zeros: set[int] = set()
        for read in self.reads([n for n, point in self._known.items() if _is_whole(point, words)], self._reading):
            payload = b"".join(words.get(read.block.address + n, 0).to_bytes(2) for n in range(read.block.count))
            answer = Answer(payload, 0, 0, False)
            found.update(self.readings(read, answer))
            zeros |= self.zeros(read, answer)
        self.drop_zeros(found, zeros)
        return {reading.name: reading for reading in found.values()}

    def _adopt(self, device: ModelChain) -> None:
        self._known = find_points(device, self.spec, self._most, self.where)
        self.points = [self._known.get(n, point) for n, point in enumerate(self.spec.points)]
        self.replan()
        # from now on, only the addresses of the models are needed, so their content is dropped
        for model in device.models:
            model.points, model.places = {}, {}
        self.device = device

    def _request(self, address: int, count: int) -> ModbusRequest:
        return read_request(self.unit, HOLDING, address, count, self.where)


def _is_whole(point: Point, words: Mapping[int, int]) -> bool:
    """Whether an image has all registers of a point and of its scale factor."""
    scale_at = point.address if point.scale_at is None else point.scale_at
    return words.keys() >= {scale_at, *range(point.address, point.address + point.count)}


def _words(payload: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(payload[i : i + 2]) for i in range(0, len(payload), 2))
