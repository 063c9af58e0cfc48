"""Finds out what a silent network port carries: frames of a protocol, or the raw bytes of a serial server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drivers.registry import all_protocols, find_scheme
from drivers.scan.plan import LISTEN_S, ScanOptions

RAW: Final = "tcp"  # the scheme of serial servers
FEW_UNITS: Final = tuple(range(1, 33))  # the units that are read if the caller gives no addresses
# most single devices answer to this unit; a gateway answers for each unit, at least with a refusal
ANY_UNIT: Final = 255
MOST_UNITS: Final = 32
WAIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class OtherFraming:
    """A scheme that a port may use instead of the given one."""

    options: ScanOptions  # a short scan that tests this scheme
    title: str  # name of the frames, which belong either to this scheme or to the given one
    is_raw: bool  # whether this scheme carries raw bytes and the given one has frames; False: the reverse

    def is_spoken(self, found: Sequence[object], answers: int) -> bool:
        """Whether the result of the short scan proves that the port uses this scheme.

        A scheme of raw bytes is proved by found devices. A scheme with frames is proved by any received frame except
        an echo: a raw bus may send our own bytes back.
        """
        return bool(found) if self.is_raw else bool(answers)


def other_framings(options: ScanOptions) -> Iterator[OtherFraming]:
    """The schemes that are tried with the same host and port."""
    scheme, _, rest = options.url.partition("://")
    few = replace(options, slow=False, identify=False, settings=(), deep=False, tries_framing=False)
    if (framed := find_scheme(scheme)) is not None:
        host = rest if rest.rpartition(":")[2].isdigit() else f"{rest}:{framed.port}"
        # there is always a phase of listening first, because another master may be active
        listen_s = options.listen_s or LISTEN_S
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
