"""The targets of a scan, and its findings."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.scan.fit import Fit

LISTEN_S = 10.0


@dataclass(frozen=True, slots=True)
class Hunt:
    """What to look for. ``settings`` () means each protocol's usual ones; not used over TCP."""

    url: str
    protocols: tuple[str, ...] = ("modbus",)
    settings: tuple[str, ...] = ()
    addresses: tuple[int, ...] = ()  # Modbus and M-Bus; (): all
    timeout_s: float = 0.2
    slow_s: float = 1.0
    slow: bool = True
    listen_s: float = LISTEN_S
    bus_is_mine: bool = False
    deep: bool = False  # also Modbus 43/14
    mbus_by: tuple[str, ...] = ("secondary", "primary")  # how M-Bus meters are asked for
    identify: bool = True
    echo: bool = False


@dataclass(slots=True)
class Found:
    """One device. ``seen``: answer, refusal, late (its answer came when another was asked)."""

    protocol: str
    address: str
    serial: str
    seen: str
    url: str = ""
    identity: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
