"""One message on its way to a broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READINGS: Final = "readings"
BACKFILL: Final = "backfill"
BIRTH: Final = "birth"
OTHER: Final = "other"


@dataclass(slots=True)
class Parcel:
    """Something to publish at QoS 1. ``id`` 0: not a pack that somebody must confirm."""

    topic: str
    data: bytes
    road: str = OTHER
    retain: bool = True
    id: int = 0
    ref: int = 0  # id of a pack, or minus the id of a retained birth
    stream: str = ""
    probe: bool = False
    sent_s: float = 0.0
    goal: int = 0  # bytes of the connection that must have arrived for all of it to be there
