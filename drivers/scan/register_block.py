"""Finds a block of registers that an unknown device answers, so that a person can look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from drivers.line import Request
from drivers.model import Limits, LineDown, LineError, LineLent
from drivers.profile.register_layout import MAX_WORDS
from drivers.raw_registers import RegisterRange
from drivers.scan.caching_line import SPACES, CachingLine

STARTS: Final = (0, 1, 100, 0x100, 0x300, 1000, 0x1000, 2000, 0x2000, 3000, 0x3000, 0x5000, 30000, 40000)
FUNCTIONS: Final = (3, 4)
# number of registers in a first request; it is 2 because some devices refuse to send half of a two-register value
SHORT: Final = 2
# numbers of registers in the longer requests that follow if the first request is answered
LENGTHS: Final = (40, 20, 10, 4)
MOST_KNOWN: Final = 3  # at most this many runs of registers are taken over from the earlier trial of profiles
FILLERS: Final = {0, 0xFFFF}  # words that many devices send for registers without content


async def find_block(
    memory: CachingLine, make_request: Callable[[int, int, int, int, str], Request], unit: int, serial: str
) -> RegisterRange | None:
    """A block of registers that the device answers. None if it answers no block.

    A block is preferred if it has a register that is neither 0 nor FFFF. The search tries registers that the device
    answered while profiles were tried, then usual start addresses. It ends when ``memory`` sends no more requests.

    Raises LineDown or LineLent.
    """
    options = memory.request_options(Limits(), serial)
    empty: RegisterRange | None = None

    async def words(block: RegisterRange) -> set[int]:
        """The distinct words in these registers. Empty if the device does not answer a read of all of them."""
        request = make_request(unit, block.function, block.address, block.count, f"unit {unit}")
        try:
            payload = (await memory.exchange(request, options)).payload
        except (LineDown, LineLent):
            raise
        except LineError:
            return set()
        return {int.from_bytes(payload[at : at + 2]) for at in range(0, len(payload), 2)}

    usual = [RegisterRange(code, at, SHORT) for at in STARTS for code in FUNCTIONS]
    # tried last, because the search for devices has already read these registers
    single = [RegisterRange(code, 0, 1) for code in FUNCTIONS]
    for start in (*_answered(memory), *usual, *single):
        best, found = start, await words(start)
        if not found:
            continue
        for length in LENGTHS:
            longer = RegisterRange(start.function, start.address, length)
            if length > start.count and start.address + length <= 0x10000 and (more := await words(longer)):
                best, found = longer, more
                break
        if found - FILLERS:
            return best
        empty = empty or best
    return empty


def _answered(memory: CachingLine) -> Iterator[RegisterRange]:
    """Yield runs of neighbouring registers that were answered, the longest first. Runs of only 0 and FFFF are left out.
    A run that is longer than one read is cut to the length of a read.
    """
    runs: list[RegisterRange] = []
    dump = memory.dump()
    for function in FUNCTIONS:
        words = dump.get(SPACES[function], {})
        first = last = -1
        for address in (*map(int, words), -1):
            if first >= 0 and address != last + 1:
                if {words[str(at)] for at in range(first, last + 1)} - FILLERS:
                    runs.append(RegisterRange(function, first, min(last + 1 - first, MAX_WORDS)))
                first = address
            elif first < 0:
                first = address
            last = address
    yield from sorted(runs, key=lambda run: -run.count)[:MOST_KNOWN]
