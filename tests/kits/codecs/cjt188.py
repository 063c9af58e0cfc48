"""CJ/T 188 water, heat and gas meters, 2004 and 2018: frames and values as pure functions of bytes."""

from drivers.cjt188.frames import ALLOWED_CONTROLS, FUNCTIONS, METER_TYPES, Frame, Parser, broken, build_read
from drivers.cjt188.values import decode_frame, status_words, undecoded

__all__ = [
    "ALLOWED_CONTROLS",
    "FUNCTIONS",
    "METER_TYPES",
    "Frame",
    "Parser",
    "broken",
    "build_read",
    "decode_frame",
    "status_words",
    "undecoded",
]
