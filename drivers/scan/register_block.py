"""Finds a first block of registers that an unknown device answers, for a person to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from drivers.line import Request
from drivers.model import Limits, LineDown, LineError, LineLent
from drivers.raw_registers import RegisterRange
from drivers.scan.caching_line import SPACES, CachingLine

STARTS: Final = (0, 1, 100, 0x100, 0x300, 1000, 0x1000, 2000, 0x2000, 3000, 0x3000, 0x5000, 30000, 40000)
FUNCTIONS: Final = (3, 4)
SHORT: Final = 2  # registers in a first request: some devices refuse to send only one of the two registers of a value
LENGTHS: Final = (40, 20, 10, 4)  # registers; if the short request is answered, longer ones follow
MOST_KNOWN: Final = 3  # use at most this many register runs that answered while profiles were tried
FILLERS: Final = {0, 0xFFFF}  # words that many devices send for registers without content


async def find_block(
    memory: CachingLine, make_request: Callable[[int, int, int, int, str], Request], unit: int, serial: str
) -> RegisterRange | None:
    """A block of registers that the device answers; None if the device answers no block.

    Blocks in which some register is neither 0 nor FFFF are preferred. The search tries registers that the device
    answered while profiles were tried, then usual start addresses. It ends when ``memory`` sends no more requests.

    Raises LineDown or LineLent.
    """
    options = memory.request_options(Limits(), serial)
    empty: RegisterRange | None = None

    async def words(block: RegisterRange) -> set[int]:
        """The distinct words in these registers; empty if the device does not answer a read of all of them."""
        request = make_request(unit, block.function, block.address, block.count, f"unit {unit}")
        try:
            payload = (await memory.exchange(request, options)).payload
        except (LineDown, LineLent):
            raise
        except LineError:
            return set()
        return {int.from_bytes(payload[at : at + 2]) for at in range(0, len(payload), 2)}

    usual = [RegisterRange(code, at, SHORT) for at in STARTS for code in FUNCTIONS]
    single = [RegisterRange(code, 0, 1) for code in FUNCTIONS]  # the search for devices reads these: a last resort
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
    """Runs of neighbouring registers that were answered and are not all 0 or FFFF, the longest first."""
    runs: list[RegisterRange] = []
    dump = memory.dump()
    for function in FUNCTIONS:
        words = dump.get(SPACES[function], {})
        first = last = -1
        for address in (*map(int, words), -1):
            if first >= 0 and address != last + 1:
                if {words[str(at)] for at in range(first, last + 1)} - FILLERS:
                    runs.append(RegisterRange(function, first, last + 1 - first))
                first = address
            elif first < 0:
                first = address
            last = address
    yield from sorted(runs, key=lambda run: -run.count)[:MOST_KNOWN]
