"""Plans the requests that read points in the least time on the wire, and compiles plans that decode the answers."""

from drivers.plan.blocks import plan_blocks, plan_summary
from drivers.plan.compiled import (
    TextSlot,
    block_decoder,
    compile_block,
    decimal_plan,
    exact,
    pack_decimal,
    range_of,
    ratio_of,
    text_of,
    text_slots,
)
from drivers.plan.holes import KnownHoles
from drivers.plan.image import Image, read_image
from drivers.plan.timing import Block, LineTiming
from drivers.plan.zeros import ZeroGuard

__all__ = [
    "Block",
    "Image",
    "KnownHoles",
    "LineTiming",
    "TextSlot",
    "ZeroGuard",
    "block_decoder",
    "compile_block",
    "decimal_plan",
    "exact",
    "pack_decimal",
    "plan_blocks",
    "plan_summary",
    "range_of",
    "ratio_of",
    "read_image",
    "text_of",
    "text_slots",
]
