"""How a scan finds M-Bus meters: by primary address, and by selection, which can separate meters that answer at once.

A selection addresses a group of meters. If several of them answer at once, their bytes collide, and the group is split.
Source: EN 13757-3 clause 11 (secondary addresses, wildcards).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from drivers.line import Answer
from drivers.mbus.link import (
    FCB,
    REQ_UD2,
    SELECTED,
    SND_NKE,
    SND_UD,
    Frame,
    Parser,
    broken,
    build_req_ud2,
    build_select,
    build_snd_nke,
)
from drivers.mbus.names import MEDIA
from drivers.mbus.telegram import decode_frame
from drivers.meter_device import MeterRequest
from drivers.model import FrameError, LineError, MismatchError, ProgressCallback
from drivers.profile import Profile
from drivers.protocol import Protocol
from drivers.scan.device_search import Asker, DeviceSearch, Remark
from drivers.scan.notes import note
from drivers.scan.plan import FoundDevice, baud_of
from drivers.scan.probes import Probe
from drivers.scan.search import Scan

SELECTION_S = 30.0  # estimated time to find one meter by trying the digits of its number
PROFILE_MEDIA: Mapping[str, frozenset[int]] = {  # kind of a profile -> media of its meters (EN 13757-3)
    "heat": frozenset((0x04, 0x0A, 0x0B, 0x0C, 0x0D)),
    "water": frozenset((0x06, 0x07, 0x15, 0x16, 0x17)),
    "gas": frozenset((0x03,)),
    "meter": frozenset((0x02,)),
}
# Common makers of M-Bus meters. A search selects by maker if nothing else distinguishes two meters.
MAKERS = (
    "KAM SEN ZRI LUG LGB LGZ ABB SLB ACW ITW ITR ELS HYD SON TCH QDS EMH DME EFE AMT REL PAD ELV NZR EMU GAV SVM SPX "
    "APA BMT ENG ISK EST EAS MIN MOL NOR RAY SAP SIE TEC VES WZG ZAG BHG DIL AXI ACE CAL EDM EMS GWF ISI LEC MET PIK "
    "RAM RKE SBC SCH SWT TIP TRL"
)


class MbusSearch(DeviceSearch):
    """Searches by selection, by primary address, or both. The option ``mbus-by`` chooses; its text names the
    default.
    """

    def __init__(self, protocol: Protocol, scan: Scan) -> None:
        super().__init__(protocol, scan)
        self._seen: set[tuple[str, bytes]] = set()  # (baud, identity) of meters found by selection
        asked = self.options.choices.get("mbus-by") or ("primary" if self.options.addresses else "both")
        self._by_selection = self.is_wanted and asked != "primary"
        self._by_primary = asked != "secondary"

    def _primaries(self) -> list[int]:
        if not self._by_primary:
            return []
        return [address for address in self.options.addresses or range(251) if 0 <= address <= 250]

    def probes(self, serial: str) -> list[Probe]:
        return [reset_probe(address, serial, self.options.timeout_s) for address in self._primaries()]

    def slow_probes(self, serial: str) -> list[Probe]:
        silent = [a for a in self._primaries() if not self.scan.is_known(self.name, str(a), serial)]
        return [reset_probe(address, serial, max(self.options.timeout_s * 2, 0.5)) for address in silent]

    async def on_answer(self, probe: Probe, payload: bytes) -> None:
        """Read the meter's data to get its address.

        An acknowledgement does not contain an address. It may also be a late acknowledgement of the previous meter
        (field pain 22).
        """
        for address in (int(probe.address), int(probe.address) - 1):
            if address < 0 or self.scan.is_known(self.name, str(address), probe.serial):
                continue
            result = await self.scan.put(read_probe(address, str(address), probe.serial, probe.timeout_s))
            if isinstance(result, Answer):
                if (baud_of(probe.serial), identity_of(result.payload)) not in self._seen:
                    self._add(str(Frame(result.payload).address), probe.serial, result.payload)
                return
            if isinstance(result, FrameError | MismatchError):
                self.on_broken(probe, result)
                return
        self.scan.add(self.name, probe.address, probe.serial, "answer").notes.append(note("no data"))

    async def before(self, progress: ProgressCallback) -> None:
        await self._select(progress)

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        if slow:
            await self._select(progress, slow=True)

    async def _select(self, progress: ProgressCallback, slow: bool = False) -> None:
        """Search by secondary address. Finds all meters that can be selected, whatever their primary address is."""
        for serial in self.scan.plan.settings(self.name) if self._by_selection else ():
            timeout_s = max(self.options.timeout_s, acknowledge_s(serial)) * (1.5 if slow else 1.0)
            found: list[FoundDevice] = []
            ask = self.scan.asker(progress)
            async for frame, mask in by_selection(ask, serial, timeout_s, self.scan.remark, slow):
                if (who := (baud_of(serial), identity_of(frame))) in self._seen:
                    continue
                self._seen.add(who)
                if _has_identity(frame):
                    found.append(self._add(_secondary(frame), serial, frame))
                else:
                    self._add(str(mask), serial, frame)
            # the address is only the eight digits of the number, unless several meters have the same number
            for device in found:
                if sum(other.address[:8] == device.address[:8] for other in self.scan.found) == 1:
                    device.address = device.address[:8]

    def _add(self, address: str, serial: str, frame: bytes) -> FoundDevice:
        telegram, primary = decode_frame(Frame(frame)), Frame(frame).address
        device = self.scan.add(self.name, address, serial, "answer")
        facts = {"number": telegram.identity, "maker": telegram.manufacturer, "medium": telegram.medium}
        device.identity.update({name: str(text) for name, text in facts.items() if text})
        if primary is not None and str(primary) != address and 1 <= primary <= 250:
            device.identity["primary"] = str(primary)
        return device

    def device_s(self) -> float:
        return SELECTION_S if self._by_selection else 0.0

    def describe(self, received: bytes) -> list[str]:
        return [
            f"{self.protocol.title} {'from' if frame.from_device else 'to'} {frame.address}"
            for frame in Parser().feed(received)
            if frame.kind == "long"
        ]

    def may_fit(self, profile: Profile, facts: Mapping[str, str]) -> bool:
        """Whether the medium in a telegram is one of the media of the profile's kind."""
        named = facts.get("medium", "")
        return not named.isdecimal() or profile.kind not in PROFILE_MEDIA or int(named) in PROFILE_MEDIA[profile.kind]


def _has_identity(frame: bytes) -> bool:
    """Whether a telegram names its sender. An application error, and a telegram without a header, do not."""
    return bool(decode_frame(Frame(frame)).identity)


def _secondary(frame: bytes) -> str:
    """The secondary address of a telegram's sender, in the form of agent.toml: 16 digits, or only the 8 digits of its
    number.
    """
    who = identity_of(frame)
    return (who[3::-1] + who[4:]).hex().upper()


def reset_probe(address: int, serial: str, timeout_s: float) -> Probe:
    """A probe with SND_NKE. A meter acknowledges it within 330 bit times and 50 ms (EN 13757-2)."""
    return _acknowledged(build_snd_nke(address), SND_NKE, str(address), serial, timeout_s)


def select_probe(frame: bytes, mask: str, serial: str, timeout_s: float) -> Probe:
    """A probe with a selection by secondary address. The selected meter acknowledges it."""
    return _acknowledged(frame, SND_UD, mask, serial, timeout_s)


def _acknowledged(frame: bytes, control: int, address: str, serial: str, timeout_s: float) -> Probe:
    request = MeterRequest(
        frame,
        control,
        address,
        f"M-Bus {address}",
        1,
        Parser,
        lambda found: found.raw if found.kind == "ack" else None,
        broken,
    )
    return Probe("mbus", address, serial, request, max(timeout_s, acknowledge_s(serial)), f"address {address}")


def read_probe(address: int, who: str, serial: str, timeout_s: float) -> Probe:
    """REQ_UD2 to a primary address, or to the selected meter (address 253)."""
    request = MeterRequest(
        build_req_ud2(address, fcb=True),
        REQ_UD2 | FCB,
        who,
        f"M-Bus {who}",
        261,
        Parser,
        lambda found: found.raw if found.kind == "long" and found.from_device else None,
        broken,
    )
    return Probe("mbus", who, serial, request, max(timeout_s, acknowledge_s(serial)), f"address {who}")


def acknowledge_s(serial: str) -> float:
    """The time within which a meter must start its answer, in seconds: 330 bit times plus 50 ms, plus a margin."""
    baud = int(serial.split(maxsplit=1)[0]) if serial else 2400
    return 0.06 + 330 / baud


def maker_code(letters: str) -> int:
    """The code of a maker. It has five bits for each of the three letters (EN 13757-3, 5.6)."""
    code = 0
    for letter in letters:
        code = code << 5 | (ord(letter) - 64)
    return code


@dataclass(frozen=True, slots=True)
class SelectionMask:
    """The group of meters that a selection addresses. A digit F, or a byte FF in the fields after the number, matches
    anything.
    """

    digits: str = "FFFFFFFF"
    maker: int = 0xFFFF
    version: int = 0xFF
    medium: int = 0xFF

    def __str__(self) -> str:
        rest = self.maker.to_bytes(2, "little").hex().upper() + f"{self.version:02X}{self.medium:02X}"
        return self.digits if rest == "FFFFFFFF" else self.digits + rest

    def ways(self) -> list[list[SelectionMask]]:
        """Ways to split the group into parts. They are tried one after another, until two parts have answered.

        The last digit is tried first, because it differs between meters of one delivery.
        """
        at = self.digits.rfind("F")
        if at >= 0:
            return [self._by_digit(at)]
        return self._by_kind() + ([[replace(self, version=n) for n in range(0xFF)]] if self.version == 0xFF else [])

    def thorough_ways(self) -> list[list[SelectionMask]]:
        """Ways to split a group of several numbers, to find a meter that the answer of another hides. All are tried.

        The first digit is tried first, because it is the same for meters of one delivery: their parts are searched
        once.
        """
        by_digit = [self._by_digit(self.digits.index("F"))]
        return by_digit + self._by_kind() if self == SelectionMask() else by_digit

    def _by_digit(self, at: int) -> list[SelectionMask]:
        return [replace(self, digits=f"{self.digits[:at]}{n}{self.digits[at + 1 :]}") for n in range(10)]

    def _by_kind(self) -> list[list[SelectionMask]]:
        found: list[list[SelectionMask]] = []
        if self.medium == 0xFF:
            found.append([replace(self, medium=medium) for medium in MEDIA])
        if self.maker == 0xFFFF:
            found.append([replace(self, maker=maker_code(letters)) for letters in MAKERS.split()])
        return found


class Selected(NamedTuple):
    """A telegram of a meter, and the mask that selected the meter."""

    frame: bytes
    mask: SelectionMask


async def by_selection(
    ask: Asker, serial: str, timeout_s: float, remark: Remark, thorough: bool = False
) -> AsyncIterator[Selected]:
    """Yield one telegram of each meter that can be selected.

    If two meters answer at once, this can look like the answer of a single meter. So with ``thorough``, the search does
    not stop at a single answer: it selects by one digit after the other, down to whole numbers, and by each medium and
    maker. It finds all meters whose numbers differ.
    """
    seen: set[bytes] = set()
    search = _Selection(ask, serial, timeout_s, remark)
    async for one in search.within(SelectionMask(), thorough):
        if (who := identity_of(one.frame)) not in seen:
            seen.add(who)
            yield one
    if search.selected:
        await ask(reset_probe(SELECTED, serial, timeout_s))  # SND_NKE deselects the meter


def identity_of(frame: bytes) -> bytes:
    """What distinguishes the sender of a telegram: number, maker, version and medium, in the form of a selection.

    A fixed structure has only the number. A telegram that does not name its sender has only its primary address and CI.
    """
    if not _has_identity(frame):
        return frame[5:7]
    body = Frame(frame).body
    return body[:8] if frame[6] == 0x72 else body[:4]


class _Selection:
    def __init__(self, ask: Asker, serial: str, timeout_s: float, remark: Remark) -> None:
        self._ask, self._serial, self._timeout_s, self._remark = ask, serial, timeout_s, remark
        self.selected = False

    async def within(self, mask: SelectionMask, thorough: bool = False) -> AsyncIterator[Selected]:
        frame, several = await self._one(mask)
        if frame is not None:
            yield Selected(frame, mask)
        thorough = thorough and "F" in mask.digits  # a whole number is not split further
        if not several and not (thorough and frame is not None):
            return
        ways = mask.thorough_ways() if thorough else mask.ways()
        if not ways:
            self._remark(note("same secondary", protocol="mbus", mask=mask))
        found: set[bytes] = set()
        for way in ways:
            for part in way:
                async for inner in self.within(part, thorough and part.digits != mask.digits):
                    found.add(identity_of(inner.frame))
                    yield inner
            if len(found) > 1 and not thorough:
                return
        if ways and len(found) < 2 and several:
            self._remark(note("not alone", protocol="mbus", mask=mask, found=len(found)))

    async def _one(self, mask: SelectionMask) -> tuple[bytes | None, bool]:
        """Select a group. Returns (telegram, whether several meters answer).

        The telegram is None unless exactly one meter seems to answer.
        """
        frame = build_select(mask.digits, mask.maker, mask.version, mask.medium)
        reply = await self._ask(select_probe(frame, str(mask), self._serial, self._timeout_s))
        if isinstance(reply, LineError):
            return None, isinstance(reply, FrameError | MismatchError)
        self.selected = True
        answer = await self._ask(read_probe(SELECTED, str(mask), self._serial, self._timeout_s))
        if isinstance(answer, Answer):
            return answer.payload, False
        return None, isinstance(answer, FrameError | MismatchError)
