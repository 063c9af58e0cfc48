"""The questions of a scan, all of them reads, and how long each takes when nobody answers."""

from __future__ import annotations

from dataclasses import dataclass

from drivers import cjt188, dlt645, mbus
from drivers.line import Request
from drivers.metering import MeterRequest
from drivers.modbus import read_request
from drivers.model import LineError

PROTOCOLS = ("modbus", "dlt645", "cjt188", "mbus")
SETTINGS = {  # where each protocol is usually met, likeliest first
    "modbus": ("9600 8N1",),
    "dlt645": ("2400 8E1", "9600 8E1"),
    "cjt188": ("2400 8E1",),
    "mbus": ("2400 8E1",),
}
COMMON_SETTINGS = (
    "9600 8N1", "9600 8E1", "19200 8N1", "19200 8E1", "4800 8N1", "4800 8E1", "2400 8N1", "2400 8E1", "1200 8E1",
    "38400 8N1", "57600 8N1", "115200 8N1",
)  # fmt: skip
FACTS = {
    "function 3": "Modbus: one holding register, address 0",
    "function 4": "Modbus: one input register, address 0",
    "13h": "DL/T 645-2007: read address, AA..AA",
    "11h": "DL/T 645-2007: read 00010000 of addresses that end in given digits",
    "01h": "DL/T 645-1997: read 9010, AA..AA; CJ/T 188: read 901F, AA..AA",
    "SND_NKE": "M-Bus: reset the link of a primary address",
}
_METER_S = 0.5  # DL/T 645-2007 and CJ/T 188: a meter answers within 500 ms


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. ``address`` is whose answer is wanted, "" where the answer tells it."""

    protocol: str
    address: str
    serial: str
    request: Request
    timeout_s: float
    what: str


def modbus_probe(unit: int, serial: str, timeout_s: float, function: int = 3) -> Probe:
    """One register of one unit. A refusal is as good an answer as a value."""
    request = read_request(unit, function, 0, 1, f"unit {unit}")
    return Probe("modbus", str(unit), serial, request, timeout_s, f"unit {unit}")


def mbus_probe(address: int, serial: str, timeout_s: float) -> Probe:
    """SND_NKE, which a meter acknowledges within 330 bit times and 50 ms (EN 13757-2)."""
    baud = int(serial.split(maxsplit=1)[0]) if serial else 2400
    request = MeterRequest(
        mbus.build_snd_nke(address),
        0x40,
        str(address),
        f"M-Bus {address}",
        1,
        mbus.Parser,
        lambda found: found.raw if found.kind == "ack" else None,
        lambda heard: mbus.broken(heard)[2],
    )
    return Probe("mbus", str(address), serial, request, max(timeout_s, 0.06 + 330 / baud), f"address {address}")


def dlt645_probes(serial: str, timeout_s: float) -> list[Probe]:
    """What the only meter of a line answers: 13h (2007), then a read to AA..AA (2007, 1997)."""
    asked = (
        (dlt645.build_read_address(), 0x13),
        (dlt645.build_read("AAAAAAAAAAAA", "00010000"), 0x11),
        (dlt645.build_read("AAAAAAAAAAAA", "9010"), 0x01),
    )
    return [_dlt645(frame, function, serial, timeout_s, "any address") for frame, function in asked]


def dlt645_ending(digits: str, serial: str, timeout_s: float) -> Probe:
    """A read to all meters whose address ends in ``digits`` (abbreviated addressing, DL/T 645-2007 7.1)."""
    frame = dlt645.build_read(digits.rjust(12, "A"), "00010000")
    return _dlt645(frame, 0x11, serial, timeout_s, f"addresses that end in {digits}")


def cjt188_probes(serial: str, timeout_s: float) -> list[Probe]:
    """A read to AA..AA, in both orders of the identifier."""
    return [
        Probe(
            "cjt188",
            "",
            serial,
            MeterRequest(
                cjt188.build_read(0xAA, "A" * 14, low_first=low_first),
                0x01,
                "A" * 14,
                "CJ/T 188",
                64,
                cjt188.Parser,
                lambda found: found.raw if found.is_reply else None,
                lambda heard: cjt188.broken(heard)[2],
            ),
            max(timeout_s, _METER_S),
            "any address",
        )
        for low_first in (False, True)
    ]


def _dlt645(frame: bytes, function: int, serial: str, timeout_s: float, what: str) -> Probe:
    def judge(found: dlt645.Frame) -> bytes | LineError | None:
        return found.raw if found.is_reply else None  # from whom, and that anybody answers, is what is asked

    request = MeterRequest(
        frame, function, "A" * 12, "DL/T 645", 24, dlt645.Parser, judge, lambda heard: dlt645.broken(heard)[2]
    )
    return Probe("dlt645", "", serial, request, max(timeout_s, _METER_S), what)


def address_in(probe: Probe, payload: bytes) -> str:
    """Whose answer it was."""
    if probe.protocol == "dlt645":
        return dlt645.Frame(payload).address
    if probe.protocol == "cjt188":
        return cjt188.Parser().feed(payload)[0].address
    return probe.address
