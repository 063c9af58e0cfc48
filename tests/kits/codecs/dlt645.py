"""DL/T 645 electricity meters, 2007 and 1997: frames and values as pure functions of bytes."""

from drivers.dlt645.frames import (
    ALLOWED_CONTROLS,
    FUNCTIONS,
    Frame,
    Parser,
    broken,
    build_read,
    build_read_address,
    error_text,
    join,
)
from drivers.dlt645.values import decode, decode_frame
from drivers.model import FrameError

__all__ = [
    "ALLOWED_CONTROLS",
    "FUNCTIONS",
    "Frame",
    "FrameError",
    "Parser",
    "broken",
    "build_read",
    "build_read_address",
    "decode",
    "decode_frame",
    "error_text",
    "join",
]
