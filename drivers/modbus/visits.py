"""What is asked of a device at one visit: the reads for a set of paces, compiled once."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from drivers.line import Line, ModbusRequest
from drivers.modbus.requests import read_request
from drivers.model import PACES, DeviceSpec, Kind, Limits, Reason
from drivers.plan import Block, KnownHoles, LineTiming, TextSlot, compile_block, plan_blocks, text_slots
from ext.decode import Plan

SILENT_VISITS = 8  # a read that is silent so often in a row, while others answer, is cut or given a rest
FIRST_REST_S, LONGEST_REST_S = 60.0, 3600.0


@dataclass(slots=True)
class Read:
    """One read: its frame, its compiled plan, and how it has fared."""

    block: Block
    request: ModbusRequest
    plan: Plan | None  # None: texts only
    texts: tuple[TextSlot, ...]
    points: memoryview  # uint16 numbers, for gaps
    silences: int = 0  # in a row, while other reads of the device were answered
    rest_s: float = FIRST_REST_S
    rest_until: float = 0.0  # monotonic seconds before which it is not asked


@dataclass(slots=True)
class Visit:
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
    """What requests to a device cost on its line."""
    if line.target.scheme == "serial":
        return LineTiming.serial(serial or line.config.serial, limits)
    return LineTiming.tcp(line.config.bus_baud, limits)


def build_visit(
    spec: DeviceSpec, paces: int, unit: int, limits: Limits, timing: LineTiming, holes: KnownHoles, where: str
) -> Visit:
    """The reads for the paces in the bit mask ``paces``. Raises ProfileError."""
    points = spec.points
    wanted = [n for n, point in enumerate(points) if paces >> PACES.index(point.pace) & 1]
    lacking = [n for n in wanted if holes.lacks(points[n])]
    reads = []
    for block in plan_blocks(points, limits, timing, wanted, holes):
        plain = any(points[n].kind is not Kind.TEXT for n in block.points)
        reads.append(
            Read(
                block,
                read_request(unit, block.function, block.address, block.count, where),
                compile_block(block, points, spec) if plain else None,
                text_slots(block, points),
                memoryview(array("H", block.points)),
            )
        )
    refused = array("H", (n for n in lacking if not points[n].optional))
    optional = array("H", (n for n in lacking if points[n].optional))  # this firmware has them not: no fault
    missing = [(memoryview(refused), Reason.EXCEPTION), (memoryview(optional), Reason.ABSENT)]
    return Visit(reads, [read.request for read in reads], [(those, why) for those, why in missing if len(those)])
