"""The reads of one visit to a device, for a set of paces, compiled once."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from dataclasses import dataclass, field

from drivers.backoff import Backoff
from drivers.line import Line, ModbusRequest
from drivers.modbus.requests import read_request
from drivers.model import PACES, DeviceSpec, Kind, Limits, Point, Reason
from drivers.plan import Block, KnownHoles, LineTiming, TextSlot, build_plan, compile_block, plan_blocks, text_slots
from ext.decode import Plan

SILENT_VISITS = 8  # a read that is silent so often in a row, while others answer, is cut or given a rest
FIRST_REST_S, LONGEST_REST_S = 60.0, 3600.0


@dataclass(slots=True)
class Read:
    """One read: its frame, its compiled plan, and how it has fared."""

    block: Block
    request: ModbusRequest
    plan: Plan | None  # None: texts only
    counters: Plan | None  # of its counters alone; None: it has none
    texts: tuple[TextSlot, ...]
    points: memoryview  # uint16 numbers, for gaps
    silences: int = 0  # in a row, while other reads of the device were answered
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_REST_S, LONGEST_REST_S))
    rest_until: float = 0.0  # monotonic seconds before which it is not asked


@dataclass(slots=True)
class ReadPlan:
    """The reads of a set of paces in the order they are asked; ``requests`` are theirs."""

    reads: list[Read]
    requests: list[ModbusRequest]
    lacking: list[tuple[memoryview, Reason]]  # points that this device was found not to have
    resting: bool = False  # some read may be resting

    def to_end(self, read: Read) -> None:
        """Ask this read last from now on: if it alone is silent, it costs only itself."""
        self.reads.remove(read)
        self.reads.append(read)
        self.requests[:] = [read.request for read in self.reads]


def timing_of(line: Line, limits: Limits, serial: str) -> LineTiming:
    """The cost of requests to a device on its line."""
    if line.target.scheme == "serial":
        return LineTiming.serial(serial or line.config.serial, limits)
    return LineTiming.tcp(line.config.bus_baud, limits)


def build_read_plan(
    spec: DeviceSpec, paces: int, unit: int, limits: Limits, timing: LineTiming, holes: KnownHoles, where: str
) -> ReadPlan:
    """The reads for the paces in the bit mask ``paces``. Raises ProfileError."""
    points = spec.points
    wanted = [n for n, point in enumerate(points) if paces >> PACES.index(point.pace) & 1]
    lacking = [n for n in wanted if holes.lacks(points[n])]
    reads = [
        Read(
            block,
            read_request(unit, block.function, block.address, block.count, where),
            plan,
            counters,
            texts,
            memoryview(array("H", block.points)),
        )
        for block, plan, counters, texts in _compiled(spec, wanted, limits, timing, holes)
    ]
    refused = array("H", (n for n in lacking if not points[n].optional))
    optional = array("H", (n for n in lacking if points[n].optional))  # this firmware has them not: no fault
    missing = [(memoryview(refused), Reason.EXCEPTION), (memoryview(optional), Reason.ABSENT)]
    return ReadPlan(reads, [read.request for read in reads], [(those, why) for those, why in missing if len(those)])


_Compiled = list[tuple[Block, Plan | None, Plan | None, tuple[TextSlot, ...]]]
_shared: dict[Hashable, tuple[tuple[Point, ...], _Compiled]] = {}  # devices of one profile are many
_MOST_SHARED = 32


def _compiled(spec: DeviceSpec, wanted: list[int], limits: Limits, timing: LineTiming, holes: KnownHoles) -> _Compiled:
    """Blocks with their kernel plans; equal devices that have taught us nothing share them."""
    points = spec.points
    plain = not (holes.cuts or holes.absent or holes.max_words)
    key = (spec.profile, spec.ratio_ct, spec.ratio_pt, spec.reversed, tuple(wanted), limits, timing)
    if plain and key in _shared and _shared[key][0] == points:
        return _shared[key][1]
    made: _Compiled = [
        (
            block,
            compile_block(block, points, spec) if any(not points[n].is_text for n in block.points) else None,
            _counters(block, points, spec),
            text_slots(block, points),
        )
        for block in plan_blocks(points, limits, timing, wanted, holes)
    ]
    if plain:
        if len(_shared) >= _MOST_SHARED:
            del _shared[next(iter(_shared))]
        _shared[key] = (points, made)
    return made


def _counters(block: Block, points: tuple[Point, ...], spec: DeviceSpec) -> Plan | None:
    """The plausibility check of an answer: its counters, decoded beside the plan of all."""
    numbers = tuple(n for n in block.points if points[n].kind is Kind.COUNTER)
    if not numbers:
        return None
    return build_plan(Block(block.function, block.address, block.count, numbers), points, spec)
