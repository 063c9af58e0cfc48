"""IEC 62056-21 (IEC 1107, EN 61107, "D0"), in modes A, B and C: meters of any medium that send a readout on request."""

from decimal import Decimal
from pathlib import Path

from drivers.protocol import InvalidAddress, Protocol, invalid_address, without_zeros


def _check_address(address: str, scheme: str) -> InvalidAddress | None:
    from drivers.iec62056.frames import is_address

    if is_address(address):
        return None
    hint = 'The device address set in the meter, up to 32 digits or letters; "*" for the only meter on a line'
    return invalid_address(address, "an IEC 62056-21", hint)


PROTOCOL = Protocol(
    name="iec62056",
    title="IEC 62056-21",
    device="drivers.iec62056.device:Iec62056Device",
    frames={"/?ADDRESS!": "sign on", "ACK 0Z0": "choose the readout"},
    check_address=_check_address,
    normal_address=without_zeros,
    serial_settings=("300 7E1", "9600 7E1"),
    any_address="*",
    example_address="*",
    resolution=Decimal("0.001"),
    one_answer=True,
    parser="drivers.iec62056.frames:Parser",
    search="drivers.iec62056.search:Iec62056Search",
    explainers="drivers.iec62056.explain:EXPLAINERS",
    request_parser="drivers.iec62056.simulate:RequestParser",
    simulate="drivers.iec62056.simulate:simulate",
    chinese=Path(__file__).parent / "chinese.txt",
)
