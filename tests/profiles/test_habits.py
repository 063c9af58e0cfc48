"""Devices that must be read in their own way: keys of a profile, no code. field pain 29 (and 26 to 28)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drivers.model import Limits
from drivers.plan import LineTiming, plan_blocks
from drivers.profile import load_profile

HEAD = """
schema = 1
vendor = "Example"
models = ["EX"]
kind = "meter"
protocol = "modbus"
source = "made up"
evidence = "derived"
"""
POINTS = """
point = [
  { name = "ac.voltage.l1", address = 0, type = "u16", unit = "V" },
  { name = "ac.voltage.l2", address = 1, type = "u16", unit = "V" },
  { name = "ac.energy.import", address = 2, type = "u32", order = "ABCD", unit = "kWh" },
  { name = "ac.frequency", address = 4, type = "u16", unit = "Hz" },
]
[[sample]]
name = "s"
holding = { 0 = [230, 231, 0, 7, 50] }
expect = { "ac.energy.import" = 7 }
"""


def reads(path: Path, limits: Limits | None = None) -> list[tuple[int, int]]:
    points = load_profile(path).points
    blocks = plan_blocks(points, limits or Limits(), LineTiming.serial("9600 8N1"))
    return [(block.address, block.count) for block in blocks]


def test_one_field_a_request(write: Callable[[str], Path]) -> None:
    """A value of two registers stays whole; nothing else shares its request, whatever holes and the line say."""
    path = write(HEAD + "defaults = { function = 3, barrier = true }" + POINTS)
    assert reads(path) == reads(path, Limits(holes=True)) == [(0, 1), (1, 1), (2, 2), (4, 1)]
    assert reads(write(HEAD + "defaults = { function = 3 }" + POINTS)) == [(0, 5)]


def test_a_read_that_must_begin_at_one_register(write: Callable[[str], Path]) -> None:
    """A point there and one group: the read begins at it, be the registers between unknown or not."""
    group = """
defaults = { function = 3 }
point = [
  { name = "x.head", address = 0, type = "u16", together = "all" },
  { name = "ac.frequency", address = 30, type = "u16", unit = "Hz", together = "all" },
]
[[sample]]
name = "s"
holding = { 0 = 1, 30 = 50 }
expect = { "ac.frequency" = 50 }
"""
    path = write(HEAD + group)
    assert reads(path) == reads(path, Limits(holes=False)) == [(0, 31)]
