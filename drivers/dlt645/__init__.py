"""DL/T 645: Chinese electricity meters, 2007 and 1997."""

from decimal import Decimal
from pathlib import Path

from drivers.protocol import Protocol, plain_digits, plate_digits

PROTOCOL = Protocol(
    name="dlt645",
    title="DL/T 645",
    device="drivers.dlt645.device:Dlt645Device",
    frames={
        "11h": "read data (2007)",
        "12h": "read the data that follow (2007)",
        "01h": "read data (1997)",
        "02h": "read the data that follow (1997)",
    },
    check_address=plate_digits(
        12, "a DL/T 645", 'Write the digits that the meter\'s nameplate shows, at most 12, such as "000000000161"'
    ),
    normal_address=plain_digits,
    serial_settings=("2400 8E1", "9600 8E1"),
    any_address="A" * 12,
    resolution=Decimal("0.01"),
    parser="drivers.dlt645.frames:Parser",
    explainers="drivers.dlt645.explain:EXPLAINERS",
    chinese=Path(__file__).parent / "chinese.txt",
    search="drivers.dlt645.search:Dlt645Search",
    searched_by_default=True,
    simulate="drivers.dlt645.simulate:simulate",
    demo="drivers.dlt645.simulate:DEMO",
    example_address="000000000001",
)
