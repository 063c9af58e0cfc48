"""Finds out what a silent network port carries: protocol frames, or the raw bytes of a serial server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drivers.registry import all_protocols, find_scheme
from drivers.scan.plan import LISTEN_S, ScanOptions

RAW: Final = "tcp"  # the scheme of serial servers
FEW_UNITS: Final = tuple(range(1, 33))  # units to ask if the caller names none
ANY_UNIT: Final = 255  # most single devices answer to it; a gateway answers for each unit, at least with a refusal
MOST_UNITS: Final = 32
WAIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class OtherFraming:
    """A scheme that a port may use instead of the given one."""

    options: ScanOptions  # a short scan that tests this scheme
    title: str  # name of the frames, which either this scheme or the given one has
    is_raw: bool  # True: this scheme carries raw bytes, the given one has frames; False: the other way round

    def is_spoken(self, found: Sequence[object], received: int) -> bool:
        """Whether the short scan proves this scheme. Devices found prove raw bytes; any received bytes prove frames."""
        return bool(found) if self.is_raw else bool(received)


def other_framings(options: ScanOptions) -> Iterator[OtherFraming]:
    """The schemes to try with the same host and port."""
    scheme, _, rest = options.url.partition("://")
    few = replace(options, slow=False, identify=False, settings=(), deep=False, tries_framing=False)
    if (framed := find_scheme(scheme)) is not None:
        host = rest if rest.rpartition(":")[2].isdigit() else f"{rest}:{framed.port}"
        listen_s = options.listen_s or LISTEN_S  # always listen first: there may be another master
        addresses = options.addresses[:MOST_UNITS] or FEW_UNITS
        raw = replace(few, url=f"{RAW}://{host}", addresses=addresses, listen_s=listen_s, timeout_s=WAIT_S)
        yield OtherFraming(raw, framed.title, True)
    elif scheme == RAW:
        for protocol in all_protocols():
            for one in protocol.line_schemes:
                addresses = (ANY_UNIT, *(options.addresses[:MOST_UNITS] or FEW_UNITS))
                own = replace(few, url=f"{one.name}://{rest}", protocols=(protocol.name,), addresses=addresses,
                              timeout_s=WAIT_S)  # fmt: skip
                yield OtherFraming(own, one.title, False)
