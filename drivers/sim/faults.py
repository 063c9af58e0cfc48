"""Faults that a simulated device makes on demand: their kinds, the number of requests that they hit, and their
notation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from drivers.model import UsageError
from drivers.toml import did_you_mean, show

KINDS: dict[str, str] = {  # kind -> what the fault does, and the meaning of its value
    "silence": "no answer",
    "late": "the answer is delayed by VALUE seconds (default 1)",
    "crc": "wrong CRC (frames with an MBAP header: wrong protocol identifier)",
    "exception": "exception code VALUE (default 4)",
    "busy": "exception 6",
    "gateway": "exception 0A or 0B of a gateway (default 0B)",
    "echo": "the request comes back before the answer",
    "bytewise": "one byte at a time, VALUE seconds apart (default 0.005)",
    "short": "a valid answer, but the number of its registers is VALUE (default 1)",
    "cut": "only the first VALUE bytes of the frame (default 3)",
    "unit": "the answer has the unit number VALUE (default: the requested unit number + 1)",
    "tag": "MBAP transaction id off by VALUE (default 1)",
    "stray": "the bytes VALUE (hex) are sent before the answer (default 00)",
    "stale": "the previous answer is sent again",
    "blank": "all registers FFFF",
    "zero": "all registers 0",
    "freeze": "register values do not change, as when a gateway answers from its cache",
    "spill": "the answer after an illegal address is shifted by one register",
    "reset": "the connection is reset, and no answer is sent",
    "close": "the connection is closed, and no answer is sent",
    "reboot": "silent for VALUE seconds (default 0), then counters start from zero",
}
_SECONDS = {"late": 1.0, "bytewise": 0.005, "reboot": 0.0}
_NUMBERS = {"exception": 4, "busy": 6, "gateway": 0x0B, "short": 1, "cut": 3, "unit": -1, "tag": 1}
_CODES = ("exception", "gateway", "busy")


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One fault. It does not affect the first ``skip`` requests. After that it affects every ``every``-th request.

    The fault ends after it has affected ``times`` requests. None: it lasts until it is cleared.
    """

    kind: str
    seconds: float = 0.0
    number: int = 0
    stray: bytes = b""
    times: int | None = None
    every: int = 1
    skip: int = 0

    def __str__(self) -> str:
        if self.kind in _SECONDS:
            value = f"={self.seconds:g}"
        elif self.kind in _CODES:
            value = f"={self.number:02X}"
        elif self.kind in _NUMBERS:
            value = "" if self.number < 0 else f"={self.number}"
        else:
            value = f"={self.stray.hex().upper()}" if self.kind == "stray" else ""
        times = "" if self.times is None else f"*{self.times}"
        return (
            f"{self.kind}{value}{times}"
            + (f"/{self.every}" if self.every > 1 else "")
            + (f"+{self.skip}" if self.skip else "")
        )


def parse_fault(text: str) -> InjectedFault:
    """Parse ``KIND[=VALUE][*TIMES][/EVERY][+SKIP]``, such as ``late=0.5*3``, ``stray=00FF`` or ``exception=02/10``.

    Exception codes are hexadecimal. Raises a UsageError that suggests the nearest kind.
    """
    head, counters = text.strip(), {"*": 0, "/": 1, "+": 0}
    for mark in ("+", "/", "*"):
        head, found, number = head.partition(mark)
        if found:
            if not number.isdigit() or int(number) < 1:
                what = f'the text after "{mark}" must be a whole number above 0, not {number!r}'
                raise UsageError(what, where=f"fault {text!r}")
            counters[mark] = int(number)
    kind, _, value = head.partition("=")
    if kind not in KINDS:
        raise UsageError(f"unknown fault {show(kind)}", where=f"fault {text!r}", hint=did_you_mean(kind, KINDS))
    fault = InjectedFault(kind, times=counters["*"] or None, every=counters["/"], skip=counters["+"])
    try:
        if kind in _SECONDS:
            fault = replace(fault, seconds=float(value) if value else _SECONDS[kind])
        elif kind in _NUMBERS:
            fault = replace(fault, number=int(value, 16 if kind in _CODES else 10) if value else _NUMBERS[kind])
        elif kind == "stray":
            fault = replace(fault, stray=bytes.fromhex(value) if value else b"\x00")
        elif value:
            raise ValueError(value)
    except ValueError:
        raise UsageError(f"{value!r} is not a valid value: {KINDS[kind]}", where=f"fault {text!r}") from None
    if fault.seconds < 0 or fault.number > 0xFF or (kind in _CODES and not 0 <= fault.number <= 0x7F):
        raise UsageError(f"{value!r} is out of range: {KINDS[kind]}", where=f"fault {text!r}")
    return fault


class ActiveFaults:
    """The active faults of one device. Several may be active at once, one of each kind."""

    __slots__ = ("_active", "_seen", "hits", "on_reboot")

    def __init__(self) -> None:
        self._active: dict[str, InjectedFault] = {}
        self._seen: dict[str, int] = {}
        self.hits: dict[str, int] = {}  # kind -> number of requests that the fault has affected
        self.on_reboot: Callable[[float], None] | None = None  # called at a reboot, with the seconds of silence

    def set(self, fault: InjectedFault | str) -> InjectedFault:
        """Switch a fault on. It is given as text or as object. The fault ``reboot`` does not stay active: it happens at
        once.
        """
        if isinstance(fault, str):
            fault = parse_fault(fault)
        if fault.kind == "reboot":
            self.hits["reboot"] = self.hits.get("reboot", 0) + 1
            if self.on_reboot is not None:
                self.on_reboot(fault.seconds)
            return fault
        self._seen[fault.kind] = 0
        self._active[fault.kind] = fault
        return fault

    def clear(self, kind: str | None = None) -> None:
        """Switch one kind of fault off. None: switch all kinds off."""
        if kind is None:
            self._active.clear()
        else:
            self._active.pop(kind, None)

    @property
    def active(self) -> tuple[InjectedFault, ...]:
        """The active faults."""
        return tuple(self._active.values())

    def __bool__(self) -> bool:
        return bool(self._active)

    def take(self) -> dict[str, InjectedFault]:
        """Count one more request. Returns the faults that affect it, by kind."""
        hit = {}
        for kind, fault in list(self._active.items()):
            seen = self._seen[kind] = self._seen[kind] + 1
            if seen <= fault.skip or (seen - fault.skip) % fault.every:
                continue
            hit[kind] = fault
            self.hits[kind] = self.hits.get(kind, 0) + 1
            if fault.times is not None and (seen - fault.skip) // fault.every >= fault.times:
                self._active.pop(kind, None)
        return hit
