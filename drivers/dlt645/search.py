"""How a scan finds DL/T 645 meters. First it sends requests to all meters at once, then to groups of meters whose
addresses end in the same digits.

If several meters of a group answer at once, their bytes collide. Then the scan splits the group further. Source: DL/T
645-2007 7.1 (abbreviated addresses).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from drivers.dlt645.frames import READ, READ_97, READ_ADDRESS, Frame, Parser, broken, build_read, build_read_address
from drivers.line import Answer
from drivers.meter_device import MeterRequest
from drivers.model import FrameError, MismatchError, ProgressCallback
from drivers.scan.device_search import Asker, DeviceSearch, Remark
from drivers.scan.notes import note
from drivers.scan.probes import Probe

_METER_S = 0.5  # DL/T 645-2007: a meter answers within 500 ms
_ANYBODY = "A" * 12


class Dlt645Search(DeviceSearch):
    def probes(self, serial: str) -> list[Probe]:
        """Requests that every meter answers: first ``read address`` (2007), then reads to AA..AA in the forms of 2007
        and 1997.
        """
        asked = (
            (build_read_address(), READ_ADDRESS),
            (build_read(_ANYBODY, "00010000"), READ),
            (build_read(_ANYBODY, "9010"), READ_97),
        )
        return [_probe(frame, code, serial, self.options.timeout_s, "any address") for frame, code in asked]

    def sender(self, probe: Probe, payload: bytes) -> str:
        return sender_of(payload)

    async def is_there(self, probe: Probe, payload: bytes) -> bool:
        timeout_s, function = self.options.timeout_s, probe.request.function
        return await answers_to_its_name(self.scan.put, sender_of(payload), probe.serial, timeout_s, function)

    async def in_groups(self, progress: ProgressCallback, slow: bool = False) -> None:
        """Search by the last digits of addresses, at those serial settings at which several meters answered at once.

        If ``slow``, search at all settings.
        """
        wanted = {probe.serial: probe.request.function for probe in self.crowded}
        if slow and self.is_wanted:
            wanted = {serial: READ for serial in self.scan.plan.settings(self.name)} | wanted
        if wanted and not slow:
            # an estimate for two meters; three or more take longer
            seconds = sum(200 * self._one_s(serial) for serial in wanted)
            self.scan.announce("crowd", len(wanted), seconds)
        for serial, asked in wanted.items():
            function = READ_97 if asked == READ_97 else READ
            ask, timeout_s = self.scan.asker(progress), self.options.timeout_s
            async for frame in by_digits(ask, serial, function, timeout_s, self.scan.remark):
                self.scan.add(self.name, sender_of(frame), serial, "answer")

    def groups_s(self) -> float:
        return sum(100 * self._one_s(serial) for serial in self.scan.plan.settings(self.name))

    def _one_s(self, serial: str) -> float:
        return self.scan.plan.cost_s(probe_ending("00", serial, self.options.timeout_s))

    def describe(self, received: bytes) -> list[str]:
        return [
            f"{self.protocol.title} {'from' if frame.is_reply else 'to'} {frame.address}"
            for frame in Parser().feed(received)
        ]


def _probe(frame: bytes, function: int, serial: str, timeout_s: float, what: str) -> Probe:
    def judge(found: Frame) -> bytes | None:  # accept any answer, even an error: it shows a meter's address
        return found.raw if found.is_reply else None

    request = MeterRequest(frame, function, _ANYBODY, "DL/T 645", 24, Parser, judge, broken)
    return Probe("dlt645", "", serial, request, max(timeout_s, _METER_S), what)


def probe_ending(digits: str, serial: str, timeout_s: float, function: int = READ) -> Probe:
    """A read to all meters whose address ends in ``digits``. ``function`` is READ, or READ_97 for meters of 1997."""
    frame = build_read(digits.rjust(12, "A"), "9010" if function == READ_97 else "00010000")
    return _probe(frame, function, serial, timeout_s, f"addresses that end in {digits}")


def sender_of(frame: bytes) -> str:
    """The address of the meter that sent an answer. "" if the answer only repeats the wildcards of the request."""
    answer = Frame(frame)
    address = answer.reported_address or answer.address
    return "" if "A" in address else address


async def by_digits(
    ask: Asker, serial: str, function: int, timeout_s: float, remark: Remark, ending: str = ""
) -> AsyncIterator[bytes]:
    """Yield the answers of all meters whose address ends in ``ending``. Each step puts two more digits in front of
    ``ending``.
    """
    for number in range(100):
        digits = f"{number:02d}{ending}"
        reply = await ask(probe_ending(digits, serial, timeout_s, function))
        sender = sender_of(reply.payload) if isinstance(reply, Answer) else ""
        if isinstance(reply, Answer) and not sender:
            if Frame(reply.payload).is_error:
                return  # this meter refuses wildcard addresses, so a search by digits cannot find it
            continue
        if isinstance(reply, Answer) and await answers_to_its_name(ask, sender, serial, timeout_s, function):
            yield reply.payload
        elif isinstance(reply, Answer | FrameError | MismatchError):
            if len(digits) == 12:
                remark(note("same address", protocol="dlt645", who=digits))
                continue
            async for inner in by_digits(ask, serial, function, timeout_s, remark, digits):
                yield inner


async def answers_to_its_name(ask: Asker, address: str, serial: str, timeout_s: float, function: int) -> bool:
    """Whether a meter with this address really exists: it must answer a read to its own address.

    This check is needed because two simultaneous answers can look like the answer of a third meter.
    """
    for asked in dict.fromkeys((READ_97 if function == READ_97 else READ, READ_97)):
        reply = await ask(probe_ending(address, serial, timeout_s, asked))
        if isinstance(reply, Answer):
            return Frame(reply.payload).address == address
    return False
