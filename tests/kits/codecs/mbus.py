"""M-Bus (EN 13757): frames, records and wireless telegrams as pure functions of bytes.

pyMeterBus does not read the fixed structure, takes a clock marked invalid for a time, and knows no limit
times, phases or negative contributions (VIFE); it stays an oracle in the tests.
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
