"""Points become requests: the fewest by wire time, cut where the device requires it, decoded by compiled plans."""

from drivers.plan.blocks import MAX_COILS, MAX_WORDS, Block, plan_blocks, plan_summary
from drivers.plan.compiled import (
    TextSlot,
    build_plan,
    characters,
    compile_block,
    decoded,
    exact,
    ratio_of,
    text_of,
    text_slots,
)
from drivers.plan.holes import KnownHoles, holes_key
from drivers.plan.image import Image, image_spec, plain, read_image, resolve_image
from drivers.plan.timing import LineTiming

__all__ = [
    "MAX_COILS",
    "MAX_WORDS",
    "Block",
    "Image",
    "KnownHoles",
    "LineTiming",
    "TextSlot",
    "build_plan",
    "characters",
    "compile_block",
    "decoded",
    "exact",
    "holes_key",
    "image_spec",
    "plain",
    "plan_blocks",
    "plan_summary",
    "ratio_of",
    "read_image",
    "resolve_image",
    "text_of",
    "text_slots",
]
