"""A probe of a scan: a read, and the time to wait for its answer."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.line import Request

COMMON_SETTINGS = (
    "9600 8N1", "9600 8E1", "19200 8N1", "19200 8E1", "4800 8N1", "4800 8E1", "2400 8N1", "2400 8E1", "1200 8E1",
    "38400 8N1", "57600 8N1", "115200 8N1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Probe:
    """One read. ``address`` is the address of the device that should answer. "" if only the answer will contain the
    address.
    """

    protocol: str
    address: str
    serial: str
    request: Request
    timeout_s: float
    what: str
