"""M-Bus (EN 13757): heat, water, gas and electricity meters."""

import re
from pathlib import Path

from drivers.protocol import InvalidAddress, Protocol, SearchOption, invalid_address, without_zeros

_PRIMARY = re.compile(r"[0-9]{1,3}")
_SECONDARY = re.compile(r"[0-9Ff]{8}([0-9A-Fa-f]{8})?")


def _check_address(address: str, scheme: str) -> InvalidAddress | None:
    """Check a primary address (0 to 250, or 254) or a secondary address. Returns None if the address is valid.

    A secondary address has 8 digits, in which F stands for any digit. Another 8 hex digits may follow.
    """
    if _PRIMARY.fullmatch(address):
        is_good = int(address) <= 250 or int(address) == 254
    else:
        is_good = _SECONDARY.fullmatch(address) is not None
    hint = (
        'Write a primary address "0" to "250", the 8 digits of the meter\'s number, '
        "or all 16 hex digits of a secondary address"
    )
    return None if is_good else invalid_address(address, "an M-Bus", hint)


def _normal_address(address: str) -> str:
    """Remove leading zeros of a primary address. In the number of a meter, they count."""
    return without_zeros(address) if len(address) <= 3 else address.upper()


PROTOCOL = Protocol(
    name="mbus",
    title="M-Bus",
    device="drivers.mbus.device:MbusDevice",
    frames={
        "SND_NKE": "reset the link; changes nothing that is measured",
        "SND_UD select": "selection by secondary address (CI 52h)",
        "REQ_UD2": "read data, with both values of the frame count bit",
    },
    check_address=_check_address,
    normal_address=_normal_address,
    serial_settings=("2400 8E1",),
    any_address="254",
    one_answer=True,
    parser="drivers.mbus.link:Parser",
    explainers="drivers.mbus.explain:EXPLAINERS",
    chinese=Path(__file__).parent / "chinese.txt",
    search="drivers.mbus.search:MbusSearch",
    search_options=(
        SearchOption(
            "mbus-by",
            ("secondary", "primary", "both"),
            "How to find M-Bus meters: by secondary address, by primary address, or both."
            "  [default: both. With --addresses: primary]",
        ),
    ),
    simulate="drivers.mbus.simulate:simulate",
    demo="drivers.mbus.simulate:DEMO",
)
