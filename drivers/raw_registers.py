"""Reads registers without a profile, for a technician who has no profile yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drivers.line import Line, Request, RequestOptions
from drivers.model import DeviceException, LineDown, LineError, LineLent, LineTimeout, UsageError, clean_text
from drivers.profile.register_layout import MAX_COILS, MAX_WORDS

SPACES: Mapping[int, str] = {1: "coils", 2: "discrete inputs", 3: "holding registers", 4: "input registers"}
MOST_SPLITS = 64  # a range is split at most this many times, because a range with more holes is probably the wrong one
SILENT_PIECES = 2  # after this many requests without any answer, the device is treated as missing
# exceptions after which a range is split: illegal address, illegal count, and the failure that some firmware sends
# instead
_SPLIT_CODES = frozenset({2, 3, 4})
_RANGE = re.compile(r"\s*(?P<function>[^:]*):\s*(?P<start>[^+]*?)\s*(?:\+\s*(?P<count>.*?)\s*)?\Z")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,9}")
_4X = re.compile(r"([134])([0-9]{4,5})((?:\+[0-9]+)?)", re.ASCII)
EXAMPLE = "Write FUNCTION:START+COUNT, such as 3:0x100+20 (3 holding registers, 4 input registers, 1 coils, 2 inputs)"


@dataclass(frozen=True, slots=True)
class RegisterRange:
    """A range of registers (functions 3 and 4) or of bits (functions 1 and 2). ``address`` counts from 0, as on the
    wire.
    """

    function: int
    address: int
    count: int

    def __str__(self) -> str:
        return f"{self.function}:{self.address}+{self.count}"

    @property
    def other_notation(self) -> str:
        """The range that is meant if ``address`` is a register number in the 4x notation of manuals (40257 means
        address 256).

        "" if the address cannot be such a number.
        """
        first = {1: 1, 2: 10001, 3: 40001, 4: 30001}[self.function]
        at = self.address - first
        return f"{self.function}:{at}+{self.count}" if self.function > 1 and 0 <= at < 9999 else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A part of a range that could not be read, with the error."""

    range: RegisterRange
    error: LineError


@dataclass(slots=True)
class RawRegisters:
    """The result of reading ranges. ``words``: function -> address -> word. ``refusals``: the parts that could not be
    read.
    """

    words: dict[int, dict[int, int]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


def parse_ranges(texts: Sequence[str]) -> list[RegisterRange]:
    """Parse ranges such as ``3:0x100+20``. One text may contain several ranges, separated by commas. Raises
    UsageError.
    """
    return [_range(text) for given in texts for text in given.split(",")]


def _range(text: str) -> RegisterRange:
    shown = f'"{clean_text(text.strip(), 40)}"'
    found = _RANGE.match(text)
    if not found:
        what, hint = f"{shown} does not state a function" if text.strip() else "the range is empty", EXAMPLE
        # the text is a number in the 4x notation of manuals
        if (written := _4X.fullmatch(text.strip())) and int(written[2]):
            function = {"4": 3, "3": 4, "1": 2}[written[1]]
            meant = f"{function}:{int(written[2]) - 1}{written[3]}"
            hint = f"If the number is in 4x notation, which counts from 40001 or 30001, write {meant}. {EXAMPLE}"
        raise UsageError(what, where="--registers", hint=hint)
    function = _number(found["function"], "function", shown)
    if function not in SPACES:
        hint = "Only functions 1 to 4 read registers: 1 coils, 2 inputs, 3 holding registers, 4 input registers"
        raise UsageError(f"{shown}: {function} is not a function that reads registers", where="--registers", hint=hint)
    start = _number(found["start"], "start", shown)
    count = 1 if found["count"] is None else _number(found["count"], "count", shown)
    if not 0 <= start <= 0xFFFF:
        hint = "Addresses go from 0 to 65535 (0xFFFF)"
        if 400001 <= start <= 465536:  # this is 4x notation with six digits
            hint = f"In six-digit 4x notation this is {function}:{start - 400001}"
        raise UsageError(f"{shown}: {start} is not an address", where="--registers", hint=hint)
    if not count:
        raise UsageError(f"{shown}: the count must be at least 1", where="--registers", hint=EXAMPLE)
    if start + count > 0x10000:
        hint = f"From address {start} on, only {0x10000 - start} registers can be read"
        raise UsageError(f"{shown} goes beyond address 65535", where="--registers", hint=hint)
    return RegisterRange(function, start, count)


def _number(text: str, what: str, shown: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        why = f'"{clean_text(text.strip(), 20)}" is not a number' if text.strip() else "it is missing"
        raise UsageError(f"{shown}: {what}: {why}", where="--registers", hint=EXAMPLE)
    return int(text.strip(), 16 if text.strip()[:2].lower() == "0x" else 10)


async def read_raw(
    line: Line,
    unit: int,
    ranges: Sequence[RegisterRange],
    options: RequestOptions,
    where: str,
    make_request: Callable[[int, int, int, int, str], Request],
) -> RawRegisters:
    """Read ranges once. A part that the device refuses is halved, again and again, until all readable registers are
    read.

    ``make_request`` is the ``Protocol.register_request`` of the device's protocol.

    Raises LineDown or LineLent, or LineTimeout if the device does not answer at all.
    """
    found = RawRegisters()
    answered, silent = False, 0
    for wanted in ranges:
        splits = MOST_SPLITS
        todo = _pieces(wanted)
        while todo:
            piece = todo.pop()
            try:
                request = make_request(unit, piece.function, piece.address, piece.count, where)
                answer = await line.exchange(request, options)
            except (LineDown, LineLent):
                raise
            except DeviceException as error:
                answered = True
                if piece.count > 1 and error.code in _SPLIT_CODES and splits:
                    splits -= 1
                    todo += reversed(_halves(piece))
                else:
                    found.refusals.append(Refusal(piece, error))
            except LineError as error:
                silent += isinstance(error, LineTimeout)
                if isinstance(error, LineTimeout) and not answered and (silent >= SILENT_PIECES or not todo):
                    raise
                found.refusals.append(Refusal(piece, error))
            else:
                answered = True
                found.words.setdefault(piece.function, {}).update(_words(piece, answer.payload))
    found.refusals = _joined(found.refusals)
    return found


def _pieces(wanted: RegisterRange) -> list[RegisterRange]:
    """Split a range into parts that fit in one request each. The part with the highest addresses comes first."""
    most = MAX_WORDS if wanted.function >= 3 else MAX_COILS
    end = wanted.address + wanted.count
    starts = range(wanted.address, end, most)
    return [RegisterRange(wanted.function, at, min(most, end - at)) for at in reversed(starts)]


def _halves(piece: RegisterRange) -> tuple[RegisterRange, RegisterRange]:
    """Split a range in two. The first part has an even count, because some firmware refuses half of a two-register
    value.
    """
    first = max(piece.count // 4 * 2, 1)
    return (
        RegisterRange(piece.function, piece.address, first),
        RegisterRange(piece.function, piece.address + first, piece.count - first),
    )


def _words(piece: RegisterRange, payload: bytes) -> dict[int, int]:
    if piece.function >= 3:
        return {piece.address + n: int.from_bytes(payload[2 * n : 2 * n + 2]) for n in range(piece.count)}
    return {piece.address + n: payload[n // 8] >> n % 8 & 1 for n in range(piece.count)}


def _joined(refusals: Sequence[Refusal]) -> list[Refusal]:
    """Merge neighbouring parts that failed for the same reason."""
    out: list[Refusal] = []
    for one in refusals:
        last = out[-1] if out else None
        if (
            last is not None
            and last.error.what == one.error.what
            and last.range.function == one.range.function
            and last.range.address + last.range.count == one.range.address
        ):
            whole = RegisterRange(last.range.function, last.range.address, last.range.count + one.range.count)
            out[-1] = Refusal(whole, last.error)
        else:
            out.append(one)
    return out
