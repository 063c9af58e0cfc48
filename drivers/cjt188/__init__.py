"""CJ/T 188: water, heat and gas meters, 2004 and 2018."""

from decimal import Decimal
from pathlib import Path

from drivers.protocol import Protocol, plain_digits, plate_digits

PROTOCOL = Protocol(
    name="cjt188",
    title="CJ/T 188",
    device="drivers.cjt188.device:Cjt188Device",
    frames={"01h": "read data"},
    check_address=plate_digits(14, "a CJ/T 188", "Write the digits that the meter's nameplate shows, at most 14"),
    normal_address=plain_digits,
    serial_settings=("2400 8E1",),
    any_address="A" * 14,
    resolution=Decimal("0.01"),
    one_answer=True,
    parser="drivers.cjt188.frames:Parser",
    explainers="drivers.cjt188.explain:EXPLAINERS",
    chinese=Path(__file__).parent / "chinese.txt",
    search="drivers.cjt188.search:Cjt188Search",
    searched_by_default=True,
    simulate="drivers.cjt188.simulate:simulate",
    demo="drivers.cjt188.simulate:DEMO",
)
