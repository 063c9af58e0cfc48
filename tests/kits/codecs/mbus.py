"""M-Bus (EN 13757): frames, records and wireless telegrams as pure functions of bytes.

pyMeterBus serves as an oracle in the tests, although it does not read the fixed structure, accepts clocks that are
marked invalid, and does not know limit times, phases and negative contributions (VIFE).
"""

from drivers.mbus.link import (
    ALLOWED_CONTROLS,
    SELECTED,
    Frame,
    Parser,
    broken,
    build_req_ud2,
    build_select,
    build_snd_nke,
    function_name,
)
from drivers.mbus.names import MEDIA
from drivers.mbus.telegram import CI_NAMES, Telegram, decode_frame, decode_wireless, looks_wireless, strip_crc

__all__ = [
    "ALLOWED_CONTROLS",
    "CI_NAMES",
    "MEDIA",
    "SELECTED",
    "Frame",
    "Parser",
    "Telegram",
    "broken",
    "build_req_ud2",
    "build_select",
    "build_snd_nke",
    "decode_frame",
    "decode_wireless",
    "function_name",
    "looks_wireless",
    "strip_crc",
]
