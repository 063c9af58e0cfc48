"""Snail: meters that answer a question with a line of text. Made up, for the tests."""

from decimal import Decimal
from pathlib import Path

from drivers.protocol import Protocol, SearchOption, plate_digits

PROTOCOL = Protocol(
    name="snail",
    title="Snail",
    device="meterhouse_snail.device:SnailDevice",
    frames={"question": "asks for all values"},
    check_address=plate_digits(4, "a Snail", "The digits on its shell, at most 4"),
    serial_settings=("1200 8E1",),
    any_address="AAAA",
    resolution=Decimal("0.1"),
    one_answer=True,
    parser="meterhouse_snail.frames:Parser",
    search="meterhouse_snail.search:SnailSearch",
    search_options=(SearchOption("snail-pace", ("slow", "slower"), "How long a snail is waited for."),),
    explainers="meterhouse_snail.explain:EXPLAINERS",
    simulate="meterhouse_snail.simulate:simulate",
    profiles=Path(__file__).parent / "profiles",
    chinese=Path(__file__).parent / "chinese.txt",
)
