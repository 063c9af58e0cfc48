"""Modbus over TCP and RTU: reads only, planned by wire time, decoded straight into the ring."""

from pathlib import Path

from drivers.protocol import BYTE_SCHEMES, InvalidAddress, Protocol, invalid_address

SCHEMES = (*BYTE_SCHEMES, "modbus-tcp")
FRAMES = {
    "function 1": "read coils",
    "function 2": "read discrete inputs",
    "function 3": "read holding registers",
    "function 4": "read input registers",
    "function 43": "read device identification (MEI type 14)",
}


def check_unit(address: str, scheme: str) -> InvalidAddress | None:
    """A unit. On a serial bus 0 is a broadcast, which has no answer."""
    low, high = (0, 255) if scheme in ("", "modbus-tcp") else (1, 247)
    if address.isascii() and address.isdigit() and low <= int(address[:9]) <= high:
        return None
    return invalid_address(address, "a Modbus", f"Allowed: {low} to {high}")


PROTOCOL = Protocol(
    name="modbus",
    title="Modbus",
    device="drivers.modbus.device:ModbusDevice",
    frames=FRAMES,
    check_address=check_unit,
    schemes=SCHEMES,
    maps_registers=True,
    has_registers=True,
    any_address="1",
    searched_by_default=True,
    explainers="drivers.modbus.explain:EXPLAINERS",
    chinese=Path(__file__).parent / "chinese.txt",
    search="drivers.modbus.search:ModbusSearch",
    simulate="drivers.modbus.simulate:simulate",
)
