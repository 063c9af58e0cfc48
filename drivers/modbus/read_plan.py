"""What is asked of a device at one visit: the reads for a set of paces, compiled once."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from drivers.modbus.registers import Read
from drivers.modbus.requests import read_request
from drivers.model import DeviceSpec, Kind, Limits, Point, Reason
from drivers.plan import Block, KnownHoles, LineTiming, TextSlot, build_plan, compile_block, plan_blocks, text_slots
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
    """The reads that bring the points ``wanted``, without those that the device lacks. Raises ProfileError."""
    unit = int(spec.address)
    return [
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


def lacking_points(spec: DeviceSpec, wanted: Sequence[int], holes: KnownHoles) -> list[tuple[list[int], Reason]]:
    """Which of ``wanted`` the device was found not to have; where the point is optional that is no fault."""
    lacking = [n for n in wanted if holes.lacks(spec.points[n])]
    refused = [n for n in lacking if not spec.points[n].optional]
    absent = [n for n in lacking if spec.points[n].optional]
    return [(those, why) for those, why in ((refused, Reason.EXCEPTION), (absent, Reason.ABSENT)) if those]


_Compiled = list[tuple[Block, Plan | None, Plan | None, tuple[TextSlot, ...]]]
_shared: dict[Hashable, tuple[tuple[Point, ...], _Compiled]] = {}  # devices of one profile are many
_MOST_SHARED = 32


def _compiled(
    spec: DeviceSpec, wanted: Sequence[int], limits: Limits, timing: LineTiming, holes: KnownHoles
) -> _Compiled:
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
    """What tells whether an answer makes sense: its counters, decoded beside the plan of all."""
    numbers = tuple(n for n in block.points if points[n].kind is Kind.COUNTER)
    if not numbers:
        return None
    return build_plan(Block(block.function, block.address, block.count, numbers), points, spec)
