"""What `decode` shows: the structure of an explanation, and the code that all protocols share.

An explanation is a JSON object with ``frame`` (facts of the first frame), ``frames`` if there are several, and
``readings``. The ``explain.py`` of each protocol makes explanations; agent/cli prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from drivers.model import FIRST_REASON, Quality, Reading, Reason, clean_text

Json = dict[str, Any]
MAX_TEXT = 1000  # a longer text is cut to this number of characters; a whole telegram of manufacturer data in hex fits
COPY_WHOLE = "Copy the complete frame, from its first byte to its last"
AS_SENT = "These bytes differ from the frame that was sent: read the frame again, or copy it again"
SHOWN_UNITS: Mapping[str, str] = {"Cel": "°C", "deg": "°"}


class BrokenInput(Exception):
    """The bytes cannot be decoded. ``partly`` is the part that could be decoded; ``hint`` tells the user what to do."""

    def __init__(self, error: str, partly: Mapping[str, Any] | None = None, hint: str = "") -> None:
        super().__init__(error)
        self.error, self.partly, self.hint = error, dict(partly or {}), hint


@dataclass(frozen=True, slots=True)
class Explainer:
    """One subcommand of `decode`.

    Args:
        name: name of the subcommand, such as "snail".
        title: name of the protocol explained, such as "Snail".
        help: help text of the subcommand, as click expects it.
        explain: takes bytes (with ``takes_json``, the content of a JSON file) and returns an explanation. Raises
            BrokenInput.
        is_sound: returns whether bytes are certainly a valid frame of this protocol. If another subcommand cannot
            explain such bytes, its error suggests this subcommand.
        takes_json: the argument is a JSON file; if False, it is hex.
    """

    name: str
    title: str
    help: str
    explain: Callable[[Any], Json]
    is_sound: Callable[[bytes], bool] | None = None
    takes_json: bool = False


def number(value: Decimal | int | str | None) -> int | float | str | None:
    """Convert a Decimal to a JSON number that reads back as the same decimal (up to 15 digits). Other values are
    unchanged.
    """
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


def show_unit(unit: str) -> str:
    """A unit as people write it, such as °C. (Points and packs use the SenML unit, such as Cel.)"""
    return SHOWN_UNITS.get(unit, unit)


def show_quality(code: int) -> str:
    """The name of a quality, or of a gap reason if ``code`` is 128 or more. "" for a good reading."""
    if code >= FIRST_REASON:
        return Reason(code).name.lower() if code in set(Reason) else f"reason {code}"
    if code == Quality.GOOD:
        return ""
    return Quality(code).name.lower() if code in set(Quality) else f"quality {code}"


def reading_json(reading: Reading) -> Json:
    """A reading as JSON. Optional members are left out if they are empty or 0."""
    shown: Json = {
        "name": reading.name,
        "value": clean_text(reading.value, MAX_TEXT) if isinstance(reading.value, str) else number(reading.value),
        "unit": show_unit(reading.unit),
    }
    if reading.quality != Quality.GOOD:
        shown["quality"] = show_quality(reading.quality)
    if reading.raw:
        shown["raw"] = reading.raw.hex()
    for key, value in (
        ("storage", reading.storage),
        ("tariff", reading.tariff),
        ("subunit", reading.subunit),
        ("function", reading.function),
        ("time", reading.time),
        ("label", clean_text(reading.label)),
    ):
        if value:
            shown[key] = value
    return shown


def several(frames: Sequence[tuple[Json, Sequence[Reading]]]) -> Json:
    """Combine the explanations of all frames of an input. ``frame`` describes the first frame that has readings."""
    described = [{**frame, "readings": [reading_json(r) for r in readings]} for frame, readings in frames]
    lead = next((f for f in described if f["readings"]), described[0])
    result: Json = {"frame": {k: v for k, v in lead.items() if k != "readings"}}
    if len(described) > 1:
        result["frames"] = described
    result["readings"] = [r for f in described for r in f["readings"]]
    return result


def wake_bytes(stream: bytes, offset: int) -> int:
    """The number of FE bytes right before ``offset``."""
    head = stream[:offset]
    return len(head) - len(head.rstrip(b"\xfe"))


# --- registers in JSON


def by_address(dump: Mapping[str, Any]) -> Any:
    """The ``registers`` of a dump by address. If they are a list, the address of its first element is ``base_address``.

    Raises BrokenInput.
    """
    registers, base = dump["registers"], dump.get("base_address", 40000)
    if not isinstance(registers, list):
        return registers
    if type(base) is not int or not 0 <= base <= 0xFFFF:
        raise BrokenInput(f"base_address must be 0 to 65535, got {base!r}")
    return {str(base + n): word for n, word in enumerate(registers)}


def register_words(registers: Any, key: str) -> dict[int, int | None]:
    """Words by address. The keys of ``registers`` are addresses, in decimal or with 0x. The word is None if the
    register could not be read.

    Raises BrokenInput.
    """
    if not isinstance(registers, dict):
        raise BrokenInput(f"{key} is not an object of addresses and words", hint='Give {"35000": 1, "35001": 10000}')
    found: dict[int, int | None] = {}
    for name, word in registers.items():
        text = name.strip().lower()
        is_address = re.fullmatch("0x[0-9a-f]{1,4}|[0-9]{1,5}", text)
        address = int(text, 16 if text.startswith("0x") else 10) if is_address else -1
        if not 0 <= address <= 0xFFFF:
            raise BrokenInput(f"{key} has the address {clean_text(name, 40)!r}; allowed: 0 to 65535")
        if word is not None and (type(word) is not int or not 0 <= word <= 0xFFFF):
            raise BrokenInput(f"{key} at {name} is {clean_text(repr(word), 40)}; allowed: 0 to 65535")
        found[address] = word
    return found


# --- bytes that are not a frame of the requested protocol


def frame_hint(error: str, stream: bytes, tried: str, form: str) -> str:
    """The hint for a frame that failed with ``error``. ``form`` is a text that describes a valid frame."""
    elsewhere = other_protocol(stream, tried)
    if elsewhere:
        return elsewhere
    if error.startswith("no frame"):
        return f"Expected {form}"
    return COPY_WHOLE if "cut short" in error or "truncated" in error else AS_SENT


def placed(error: str, offset: int) -> str:
    """The text of an error. If the broken frame does not begin at the first byte, its position is added."""
    return f"frame at byte {offset + 1}: {error}" if offset else error


def other_protocol(stream: bytes, tried: str) -> str:
    """A hint that names the command for the protocol in which ``stream`` is a valid frame. "" if there is no such
    protocol.
    """
    from drivers.registry import all_protocols

    for protocol in all_protocols():
        for one in protocol.all_explainers():
            if one.name != tried and one.is_sound is not None and one.is_sound(stream):
                return f"This is a valid frame of {one.title}: try `meterhouse decode {one.name}`"
    return ""


def checksum_frame_error(
    name: str,
    broken: tuple[bytes, int, str],
    describe: Callable[[bytes, int], Json],
    length_at: int,
    form: str,
    stream: bytes,
) -> BrokenInput:
    """The error for bytes without a valid ``framing.ChecksumFrame``. It describes the fields of the broken frame, but
    no values.

    Args:
        broken: (bytes of the best attempt, offset, error), as ``framing.best_attempt`` returns them.
        describe: takes the bytes of a frame and their offset; returns the frame as JSON.
        length_at: index of the length byte in a frame; data, checksum and stop byte follow it.
        form: text that describes a valid frame, for the hint.
    """
    raw, offset, error = broken
    shown: Json = {}
    if len(raw) > length_at and len(raw) == length_at + 3 + raw[length_at]:
        shown = describe(raw, offset)
    elif len(raw) > length_at:
        data = raw[length_at + 1 : length_at + 1 + raw[length_at]]
        shown = describe(raw[:length_at] + bytes((len(data),)) + data + bytes(2), offset)
        for key in ("checksum_in_frame", "checksum_computed", "frame_length", "value_digits", "undecoded"):
            shown.pop(key, None)
        shown |= {"length": raw[length_at], "checksum_ok": False, "stop_ok": False}
    return BrokenInput(
        placed(error, offset), {"frame": shown} if shown else None, frame_hint(error, stream, name, form)
    )
