"""Separates meters that answer at once, by addressing fewer and fewer of them.

A search addresses all meters, and where several answer at once (their bytes collide) each part of them.
Sources: EN 13757-3 clause 11 (secondary addresses, wildcards), DL/T 645-2007 7.1 (abbreviated addresses).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from drivers.dlt645 import codec as dlt645
from drivers.line import Answer
from drivers.mbus import codec as mbus
from drivers.model import FrameError, LineError, MismatchError
from drivers.scan.notes import Note, note
from drivers.scan.probes import Probe, dlt645_ending, dlt645_sender, mbus_probe, mbus_read, mbus_select

Asker = Callable[[Probe], Awaitable[Answer | LineError]]
Tell = Callable[[Note], None]
# Makers whose meters are met on M-Bus; tried where two meters differ in nothing else that can be asked for.
MAKERS = (
    "KAM SEN ZRI LUG LGB LGZ ABB SLB ACW ITW ITR ELS HYD SON TCH QDS EMH DME EFE AMT REL PAD ELV NZR EMU GAV SVM SPX "
    "APA BMT ENG ISK EST EAS MIN MOL NOR RAY SAP SIE TEC VES WZG ZAG BHG DIL AXI ACE CAL EDM EMS GWF ISI LEC MET PIK "
    "RAM RKE SBC SCH SWT TIP TRL"
)


def maker_code(letters: str) -> int:
    """EN 13757-3, 5.6: three letters in five bits each."""
    code = 0
    for letter in letters:
        code = code << 5 | (ord(letter) - 64)
    return code


@dataclass(frozen=True, slots=True)
class SelectionMask:
    """The meters that a selection addresses: F and all ones stand for anything."""

    digits: str = "FFFFFFFF"
    maker: int = 0xFFFF
    version: int = 0xFF
    medium: int = 0xFF

    def __str__(self) -> str:
        rest = self.maker.to_bytes(2, "little").hex().upper() + f"{self.version:02X}{self.medium:02X}"
        return self.digits if rest == "FFFFFFFF" else self.digits + rest

    def ways(self) -> list[list[SelectionMask]]:
        """Ways to cut it, to be tried until two parts have answered.

        Digits go from the last on: meters of one delivery differ there.
        """
        at = self.digits.rfind("F")
        if at >= 0:
            return [self._by_digit(at)]
        return self._by_kind() + ([[replace(self, version=n) for n in range(0xFF)]] if self.version == 0xFF else [])

    def all_ways(self) -> list[list[SelectionMask]]:
        """Whatever two meters differ in (but for their version), one of these cuts lies between them."""
        return [self._by_digit(at) for at in range(7, -1, -1) if self.digits[at] == "F"] + self._by_kind()

    def _by_digit(self, at: int) -> list[SelectionMask]:
        return [replace(self, digits=f"{self.digits[:at]}{n}{self.digits[at + 1 :]}") for n in range(10)]

    def _by_kind(self) -> list[list[SelectionMask]]:
        found: list[list[SelectionMask]] = []
        if self.medium == 0xFF:
            found.append([replace(self, medium=medium) for medium in mbus.MEDIA])
        if self.maker == 0xFFFF:
            found.append([replace(self, maker=maker_code(letters)) for letters in MAKERS.split()])
        return found


async def mbus_by_selection(
    ask: Asker, serial: str, timeout_s: float, tell: Tell, thorough: bool = False
) -> AsyncIterator[bytes]:
    """The telegrams of all meters that can be selected, each once.

    Two meters that speak at once can sound like one of them. ``thorough`` does not accept that one is alone before
    meters that differ from it in each digit were asked for, in medium and in maker.
    """
    seen: set[bytes] = set()
    search = _Selection(ask, serial, timeout_s, tell)
    async for frame in search.within(SelectionMask(), thorough):
        if (who := identity_of(frame)) not in seen:
            seen.add(who)
            yield frame
    if search.selected:
        await ask(mbus_probe(mbus.SELECTED, serial, timeout_s))  # SND_NKE: it is deselected


def identity_of(frame: bytes) -> bytes:
    """Number, maker, version and medium of a telegram, as a selection has them; of a fixed one the number alone."""
    body = mbus.Frame(frame).body
    return body[:8] if frame[6] == 0x72 else body[:4]


class _Selection:
    def __init__(self, ask: Asker, serial: str, timeout_s: float, tell: Tell) -> None:
        self._ask, self._serial, self._timeout_s, self._note = ask, serial, timeout_s, tell
        self.selected = False

    async def within(self, mask: SelectionMask, thorough: bool = False) -> AsyncIterator[bytes]:
        frame, several = await self._one(mask)
        if frame is not None:
            yield frame
        if not several and not (thorough and frame is not None):
            return
        ways = mask.all_ways() if thorough else mask.ways()
        if not ways:
            self._note(note("same secondary", mask=mask))
        found = 0
        for way in ways:
            for part in way:
                async for inner in self.within(part):
                    found += 1
                    yield inner
            if found > 1 and not thorough:
                return
        if ways and found < 2 and several:
            self._note(note("not alone", mask=mask, found=found))

    async def _one(self, mask: SelectionMask) -> tuple[bytes | None, bool]:
        """(the telegram if one alone answers, whether several do)."""
        frame = mbus.build_select(mask.digits, mask.maker, mask.version, mask.medium)
        reply = await self._ask(mbus_select(frame, str(mask), self._serial, self._timeout_s))
        if isinstance(reply, LineError):
            return None, isinstance(reply, FrameError | MismatchError)
        self.selected = True
        answer = await self._ask(mbus_read(mbus.SELECTED, str(mask), self._serial, self._timeout_s))
        if isinstance(answer, Answer):
            return answer.payload, False
        return None, isinstance(answer, FrameError | MismatchError)


async def dlt645_by_digits(
    ask: Asker, serial: str, function: int, timeout_s: float, tell: Tell, ending: str = ""
) -> AsyncIterator[bytes]:
    """The answers of all meters whose address ends in ``ending``, found by two more digits at a time."""
    for number in range(100):
        digits = f"{number:02d}{ending}"
        reply = await ask(dlt645_ending(digits, serial, timeout_s, function))
        sender = dlt645_sender(reply.payload) if isinstance(reply, Answer) else ""
        if isinstance(reply, Answer) and not sender:
            if dlt645.Frame(reply.payload).is_error:
                return  # it refuses every address that is not its own: a search finds no digits
            continue
        if isinstance(reply, Answer) and await answers_to_its_name(ask, sender, serial, timeout_s, function):
            yield reply.payload
        elif isinstance(reply, Answer | FrameError | MismatchError):
            if len(digits) == 12:
                tell(note("same digits", digits=digits))
                continue
            async for inner in dlt645_by_digits(ask, serial, function, timeout_s, tell, digits):
                yield inner


async def answers_to_its_name(ask: Asker, address: str, serial: str, timeout_s: float, function: int) -> bool:
    """Whether the DL/T 645 meter of an address is there: two that speak at once can sound like a third."""
    for asked in dict.fromkeys((0x01 if function == 0x01 else 0x11, 0x01)):
        reply = await ask(dlt645_ending(address, serial, timeout_s, asked))
        if isinstance(reply, Answer):
            return dlt645.Frame(reply.payload).address == address
    return False
