"""What is asked of a device at one visit: the reads for a set of paces, compiled once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from drivers.modbus.registers import Read
from drivers.modbus.requests import read_request
from drivers.model import DeviceSpec, Kind, Limits, Reason
from drivers.plan import Block, KnownHoles, LineTiming, compile_block, plan_blocks, text_slots
from ext.decode import Plan

SILENT_VISITS = 8  # a read that is silent so often in a row, while others answer, is cut or given a rest


@dataclass(slots=True)
class ReadPlan:
    """The reads of a set of paces in the order they are asked."""

    reads: list[Read]
    lacking: list[tuple[list[int], Reason]]  # points that this device was found not to have
    resting: bool = False  # some read may be resting


def build_reads(
    spec: DeviceSpec, wanted: Sequence[int], limits: Limits, timing: LineTiming, holes: KnownHoles, where: str
) -> list[Read]:
    """The reads that cover the points ``wanted``, except those that the device lacks. Raises ProfileError."""
    points = spec.points
    return [
        Read(
            block,
            read_request(int(spec.address), block.function, block.address, block.count, where),
            _decoder(block, [n for n in block.points if not points[n].is_text], spec),
            _decoder(block, [n for n in block.points if points[n].kind is Kind.COUNTER], spec),
            text_slots(block, points),
            memoryview(array("H", block.points)),
        )
        for block in plan_blocks(points, limits, timing, wanted, holes)
    ]


def _decoder(block: Block, numbers: list[int], spec: DeviceSpec) -> Plan | None:
    """The plan of some points of a block; None where there are none."""
    return compile_block(replace(block, points=tuple(numbers)), spec.points, spec) if numbers else None


def lacking_points(spec: DeviceSpec, wanted: Sequence[int], holes: KnownHoles) -> list[tuple[list[int], Reason]]:
    """Which of ``wanted`` the device was found not to have; where the point is optional that is not a fault."""
    lacking = [n for n in wanted if holes.lacks(spec.points[n])] if holes.absent else []
    refused = [n for n in lacking if not spec.points[n].optional]
    absent = [n for n in lacking if spec.points[n].optional]
    return [(those, why) for those, why in ((refused, Reason.EXCEPTION), (absent, Reason.ABSENT)) if those]
