"""The questions of a scan, all of them reads, and how long each takes without an answer."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.cjt188 import codec as cjt188
from drivers.dlt645 import codec as dlt645
from drivers.line import Request
from drivers.mbus import codec as mbus
from drivers.meter_device import MeterRequest
from drivers.modbus.requests import read_request

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
    "SND_NKE": "M-Bus: reset the link of a primary address, or deselect",
    "SND_UD select": "M-Bus: select by secondary address (CI 52h)",
    "REQ_UD2": "M-Bus: read the data of the meter that acknowledged",
}
_METER_S = 0.5  # DL/T 645-2007 and CJ/T 188: a meter answers within 500 ms


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. ``address`` is the device that should answer, "" if the answer tells it."""

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
    return _mbus_acknowledged(mbus.build_snd_nke(address), 0x40, str(address), serial, timeout_s)


def mbus_select(frame: bytes, mask: str, serial: str, timeout_s: float) -> Probe:
    """A selection by secondary address: the selected meter acknowledges."""
    return _mbus_acknowledged(frame, 0x53, mask, serial, timeout_s)


def _mbus_acknowledged(frame: bytes, control: int, address: str, serial: str, timeout_s: float) -> Probe:
    request = MeterRequest(
        frame,
        control,
        address,
        f"M-Bus {address}",
        1,
        mbus.Parser,
        lambda found: found.raw if found.kind == "ack" else None,
        mbus.broken,
    )
    return Probe("mbus", address, serial, request, max(timeout_s, mbus_ack_s(serial)), f"address {address}")


def mbus_read(address: int, who: str, serial: str, timeout_s: float) -> Probe:
    """REQ_UD2 to a primary address, or to the selected one (253)."""
    request = MeterRequest(
        mbus.build_req_ud2(address, fcb=True),
        0x7B,
        who,
        f"M-Bus {who}",
        261,
        mbus.Parser,
        lambda found: found.raw if found.kind == "long" and found.from_device else None,
        mbus.broken,
    )
    return Probe("mbus", who, serial, request, max(timeout_s, mbus_ack_s(serial)), f"address {who}")


def mbus_ack_s(serial: str) -> float:
    """How long an M-Bus meter may take to begin its answer: 330 bit times and 50 ms, and a margin."""
    baud = int(serial.split(maxsplit=1)[0]) if serial else 2400
    return 0.06 + 330 / baud


def dlt645_probes(serial: str, timeout_s: float) -> list[Probe]:
    """Requests that the only meter of a line answers: 13h (2007), then a read to AA..AA (2007, 1997)."""
    asked = (
        (dlt645.build_read_address(), 0x13),
        (dlt645.build_read("AAAAAAAAAAAA", "00010000"), 0x11),
        (dlt645.build_read("AAAAAAAAAAAA", "9010"), 0x01),
    )
    return [_dlt645(frame, function, serial, timeout_s, "any address") for frame, function in asked]


def dlt645_ending(digits: str, serial: str, timeout_s: float, function: int = 0x11) -> Probe:
    """A read to all meters whose address ends in ``digits`` (abbreviated addressing, DL/T 645-2007 7.1).

    ``function``: 11h, or 01h for meters of 1997.
    """
    frame = dlt645.build_read(digits.rjust(12, "A"), "9010" if function == 0x01 else "00010000")
    return _dlt645(frame, function, serial, timeout_s, f"addresses that end in {digits}")


def cjt188_probes(serial: str, timeout_s: float) -> list[Probe]:
    """A read to AA..AA, in both orders of the identifier."""
    return [_cjt188(0xAA, "A" * 14, low_first, serial, timeout_s, "any address") for low_first in (False, True)]


def cjt188_named(frame: bytes, serial: str, timeout_s: float) -> list[Probe]:
    """The same to the sender of an answer, its own order first."""
    found = cjt188.Parser().feed(frame)[0]
    what = f"address {found.address}"
    orders = (found.low_first, not found.low_first)
    return [_cjt188(found.meter_type, found.address, order, serial, timeout_s, what) for order in orders]


def _cjt188(meter_type: int, address: str, low_first: bool, serial: str, timeout_s: float, what: str) -> Probe:
    request = MeterRequest(
        cjt188.build_read(meter_type, address, low_first=low_first),
        0x01,
        address,
        "CJ/T 188",
        64,
        cjt188.Parser,
        lambda found: found.raw if found.is_reply else None,
        cjt188.broken,
    )
    return Probe("cjt188", "", serial, request, max(timeout_s, _METER_S), what)


def _dlt645(frame: bytes, function: int, serial: str, timeout_s: float, what: str) -> Probe:
    def judge(found: dlt645.Frame) -> bytes | None:  # the question is whether any meter answers, and which
        return found.raw if found.is_reply else None

    request = MeterRequest(frame, function, "A" * 12, "DL/T 645", 24, dlt645.Parser, judge, dlt645.broken)
    return Probe("dlt645", "", serial, request, max(timeout_s, _METER_S), what)


def dlt645_sender(frame: bytes) -> str:
    """The meter's own address in an answer; "" where it only repeats the wildcards of the question."""
    answer = dlt645.Frame(frame)
    address = answer.reported_address or answer.address
    return "" if "A" in address else address


def address_in(probe: Probe, payload: bytes) -> str:
    """The address of the device that answered; "" if the answer does not tell."""
    if probe.protocol == "dlt645":
        return dlt645_sender(payload)
    if probe.protocol == "cjt188":
        return cjt188.Parser().feed(payload)[0].address
    return probe.address
