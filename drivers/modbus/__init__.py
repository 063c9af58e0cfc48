"""Modbus over TCP and RTU. Only reads are sent. They are planned for the least time on the wire, and their answers are
decoded into the ring.
"""

from pathlib import Path

from drivers.model import BYTE_SCHEMES
from drivers.protocol import InvalidAddress, LineScheme, Protocol, invalid_address, without_zeros

TCP = "modbus-tcp"
SCHEMES = (*BYTE_SCHEMES, TCP)
FRAMES = {
    "function 1": "read coils",
    "function 2": "read discrete inputs",
    "function 3": "read holding registers",
    "function 4": "read input registers",
    "function 43": "read device identification (MEI type 14)",
}


def check_unit(address: str, scheme: str) -> InvalidAddress | None:
    """Check a unit number. Returns None if it is valid.

    On a serial bus, 0 is invalid, because it is a broadcast, which no device answers. A number of more than three
    digits is probably the address of a meter with another protocol, even if it begins with zeros.
    """
    low, high = (0, 255) if scheme in ("", TCP) else (1, 247)
    hint = f"Allowed: {low} to {high}"
    number = without_zeros(address)
    if address.isascii() and address.isdigit() and len(number) <= 3 and low <= int(number) <= high:
        if len(address) <= 3:
            return None
        hint = f'Write at most three digits: "{number}"'
    return invalid_address(address, "a Modbus", hint)


def _is_mbap(received: bytes) -> bool:
    """Whether the bytes are exactly one frame of Modbus TCP: its protocol number is 0, and its length field is
    right.
    """
    return len(received) >= 9 and received[2:4] == b"\0\0" and int.from_bytes(received[4:6]) == len(received) - 6


PROTOCOL = Protocol(
    name="modbus",
    title="Modbus",
    device="drivers.modbus.device:ModbusDevice",
    frames=FRAMES,
    check_address=check_unit,
    normal_address=without_zeros,
    schemes=SCHEMES,
    line_schemes=(
        LineScheme(
            name=TCP,
            title="Modbus TCP",
            port=502,
            link="drivers.modbus.mbap:MbapLink",
            recognizes=_is_mbap,
            hint="A port that speaks Modbus TCP needs modbus-tcp:// instead of tcp://",
            other_hint="A serial server that passes bytes through needs tcp:// instead of modbus-tcp://",
            aliases=("mbtcp",),
        ),
    ),
    maps_registers=True,
    has_registers=True,
    register_request="drivers.modbus.requests:read_request",
    any_address="1",
    searched_by_default=True,
    explainers="drivers.modbus.explain:EXPLAINERS",
    libraries=("pymodbus",),
    chinese=Path(__file__).parent / "chinese.txt",
    search="drivers.modbus.search:ModbusSearch",
    simulate="drivers.modbus.simulate:simulate",
)
