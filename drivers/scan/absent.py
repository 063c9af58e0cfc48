"""What tells a device from a serial server that answers an exception in place of units that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from drivers.profile import Profile

GATEWAY_CODES: Final = (10, 11)  # path unavailable, target failed to respond: never of a device
MOST_SILENCES: Final = 3  # to questions about registers: who is silent so often does not answer all alike
SUNSPEC: Final = ((3, 40000, 2), (3, 0, 2), (3, 50000, 2))

Registers = tuple[int, int, int]  # function, address, count


def telling_reads(profiles: Iterable[Profile]) -> list[Registers]:
    """Few reads, of which a device of each Modbus profile answers at least one, the commonest first."""
    left = [
        {(point.function, point.address, point.count) for point in profile.points if not point.optional}
        for profile in profiles
        if profile.protocol == "modbus"
    ]
    chosen = list[Registers](SUNSPEC)
    while left := [reads for reads in left if reads and reads.isdisjoint(chosen)]:
        counts = Counter(read for reads in left for read in reads)
        chosen.append(max(counts, key=lambda read: (counts[read], -read[1], read)))
    return chosen
