"""HJ 212-2017, the format in which values are uploaded to Chinese environment bureaus. It is an example of a converter.

HJ 212-2025 replaced it on 2026-01-01. We do not have the text of the new standard, so only the old one is implemented.
The factor code of each point, and every number that the bureau assigns, come from the user's mapping file. Nothing is
guessed. The format has no signature, so its values are a copy and never evidence.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from drivers.model import ConfigError, Quality, Reason
from receiver.converters import Amount, Converter, Interval, Series

MOST_BYTES: Final = 1024  # length of the longest data segment in bytes
UPLOADS: Final = {"realtime": "2011", "minutes": "2051", "hour": "2061", "day": "2031"}
# bits of the field Flag. Bit 0, which asks for an answer, is never set
SPLIT: Final = 1 << 1  # the data are split into packets
VERSION: Final = 1 << 2  # version 2017
NORMAL: Final = "N"
LETTERS: Final = {"N": "normal", "F": "stopped", "M": "maintenance", "S": "set by hand", "D": "fault",
                  "C": "calibration", "T": "over range", "B": "no communication"}  # fmt: skip
FLAGS: Final = {
    "exception": "D",
    "sentinel": "D",
    "suspect": "D",
    "frozen": "D",
    "clock": "D",
    "range": "T",
    "estimated": "S",
    "substituted": "S",
}  # fmt: skip - gap reason or quality -> letter; all others get B
FIELDS: Final = ("Rtd", "Min", "Avg", "Max", "Cou")
_KEYS: Final = {"st", "mn", "password_file", "upload", "interval", "timezone", "factor", "flags", "digits"}
_LENGTHS: Final = {"hour": 3600, "day": 86_400}  # upload -> its fixed interval in seconds
_FLAG_KEYS: Final = {one.name.lower() for one in (*Reason, *Quality) if one != Quality.GOOD}
_FACTOR_KEYS: Final = {"code", "stream", "point", "figure", "unit", "fields", "least"}
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Factor:
    """One [[factor]] of the mapping. ``least``: if a smaller share of the expected readings exists, no value is
    sent.
    """

    code: str
    unit: str
    fields: tuple[str, ...]
    least: float


def crc(data: bytes) -> int:
    """The CRC of a data segment (annex A). In the usual CRC-16 a byte is XORed before the shift; here it is XORed with
    the shifted register.
    """
    register = 0xFFFF
    for byte in data:
        register = (register >> 8) ^ byte
        for _ in range(8):
            register = (register >> 1) ^ (0xA001 if register & 1 else 0)
    return register


def frame(segment: str) -> bytes:
    """Make the frame of a data segment: ``##``, length, data, CRC, line end.

    Raises ValueError if the segment is too long or not ASCII.
    """
    raw = segment.encode("ascii")
    if len(raw) > MOST_BYTES:
        raise ValueError(f"the data segment has {len(raw)} bytes, but at most {MOST_BYTES} are allowed")
    return b"##%04d%b%04X\r\n" % (len(raw), raw, crc(raw))


def unframe(raw: bytes) -> str:
    """The data segment of a frame. Raises ValueError for an invalid frame."""
    if raw[:2] != b"##" or raw[-2:] != b"\r\n" or not raw[2:6].isdigit():
        raise ValueError("not a frame: expected ##, four digits, data, four digits and a line end")
    data, check = raw[6:-6], raw[-6:-2]
    if int(raw[2:6]) != len(data):
        raise ValueError(f"the frame states a length of {int(raw[2:6])} bytes, but contains {len(data)}")
    if check != b"%04X" % crc(data):
        raise ValueError(f"the frame states CRC {check.decode(errors='replace')}, but {crc(data):04X} is right")
    return data.decode("ascii")


class Hj212:
    """Writes uploads of one monitoring site, whose identifier is ``MN``.

    Args:
        now: local time of the first message; None: the current time. The number ``QN`` of a message is this time plus
        one millisecond for each earlier message.
    """

    def __init__(
        self, series: list[Series], factors: list[Factor], head: Mapping[str, str], upload: str, length_s: int,
        zone: ZoneInfo, flags: Mapping[str, str], digits: int, now: datetime | None = None,
    ) -> None:  # fmt: skip
        self.series, self.length_s, self.zone = series, length_s, zone
        self._factors, self._head, self._upload, self._flags, self._digits = factors, head, upload, flags, digits
        self._now = now

    def write(self, intervals: Iterable[Interval]) -> Iterator[bytes]:
        """Yield one frame per interval, or several if the data do not fit into one."""
        now = self._now or datetime.now(self.zone)
        for interval in intervals:
            groups = [
                self._group(factor, series, amount)
                for factor, series, amount in zip(self._factors, self.series, interval.amounts, strict=True)
            ]
            time = f"DataTime={interval.start:%Y%m%d%H%M%S}"
            packets = self._split(time, groups)
            for number, packet in enumerate(packets, 1):
                several = (len(packets), number) if len(packets) > 1 else None
                yield frame(self._segment(now, several, ";".join([time, *packet])))
            now += timedelta(milliseconds=1)

    def _group(self, factor: Factor, series: Series, amount: Amount) -> str:
        if amount.readings and amount.unit != factor.unit:
            what = f'{series.stream} {series.point or series.figure} has the unit "{amount.unit}"'
            hint = f'The mapping says "{factor.unit}". Values are never scaled: correct the mapping, or the profile'
            raise ConfigError(what, where=f"factor {factor.code}", hint=hint)
        flag, has_value = self._flag(amount, factor.least)
        found = {"Rtd": amount.last, "Min": amount.low, "Avg": amount.mean, "Max": amount.high, "Cou": amount.last}
        parts = [f"{factor.code}-{name}={self._number(found[name])}" for name in factor.fields if has_value]
        # without a value, only the flag is sent: a zero would be false
        return ",".join([*parts, f"{factor.code}-Flag={flag}"])

    def _flag(self, amount: Amount, least: float) -> tuple[str, bool]:
        share = amount.share
        if not amount.readings or (share is not None and share < least):
            why = amount.reasons or amount.qualities
            return self._letter(why.most_common(1)[0][0] if why else ""), False
        doubtful = sum(amount.qualities.values())
        if doubtful * 2 > amount.readings:
            return self._letter(amount.qualities.most_common(1)[0][0]), True
        return NORMAL, True

    def _letter(self, reason: str) -> str:
        return self._flags.get(reason, FLAGS.get(reason, "B"))

    def _number(self, value: float | None) -> str:
        assert value is not None
        text = f"{value:z.{self._digits}f}"  # z: a small negative value is rounded to 0, not to -0
        return text.rstrip("0").rstrip(".") if "." in text else text

    def _split(self, time: str, groups: list[str]) -> list[list[str]]:
        room = MOST_BYTES - len(self._segment(datetime(2000, 1, 1, tzinfo=self.zone), (9999, 9999), time))
        packets: list[list[str]] = [[]]
        left = room
        for group in groups:
            if packets[-1] and len(group) + 1 > left:
                packets.append([])
                left = room
            packets[-1].append(group)
            left -= len(group) + 1
        return packets

    def _segment(self, now: datetime, several: tuple[int, int] | None, values: str) -> str:
        flag = VERSION | (SPLIT if several else 0)
        parts = [f"QN={now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}", f"ST={self._head['st']}", f"CN={self._upload}",
                 f"PW={self._head['pw']}", f"MN={self._head['mn']}", f"Flag={flag}"]  # fmt: skip
        if several:
            parts += [f"PNUM={several[0]}", f"PNO={several[1]}"]
        return ";".join([*parts, f"CP=&&{values}&&"])


def read_map(path: Path, now: datetime | None = None) -> Hj212:
    """Read a mapping from a TOML file, which docs/platform.md describes. Raises ConfigError."""
    try:
        value = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), where=str(path), hint="Expected a TOML file") from None
    _known(path, value, _KEYS)
    upload = _text(path, value, "upload", r"realtime|minutes|hour|day", "one of realtime, minutes, hour, day")
    length_s = _length(path, value.get("interval"), upload)
    try:
        zone = ZoneInfo(str(value.get("timezone")))
    except (OSError, ValueError, KeyError):
        hint = "Expected a time zone such as Asia/Shanghai"
        raise ConfigError(f"timezone {value.get('timezone')!r}", where=str(path), hint=hint) from None
    password_file = _text(path, value, "password_file", r".+", "the path of a file that contains only the password")
    head = {
        "st": _text(path, value, "st", r"\d{2}", "two digits"),
        "mn": _text(path, value, "mn", r"[A-Za-z0-9]{1,24}", "up to 24 letters and digits"),
        "pw": _password(path, password_file),
    }
    digits = value.get("digits", 3)
    if type(digits) is not int or not 0 <= digits <= 9:
        raise ConfigError(f"digits {digits!r}", where=str(path), hint="Expected the number of decimals, 0 to 9")
    flags = value.get("flags", {})
    if isinstance(flags, dict):
        _known(path, flags, _FLAG_KEYS, " in [flags]")
    if not isinstance(flags, dict) or not set(map(str, flags.values())) <= LETTERS.keys():
        letters = ", ".join(f"{k} ({v})" for k, v in LETTERS.items())
        hint = f"Expected one of these letters for each gap reason or quality: {letters}"
        raise ConfigError("wrong flags", where=str(path), hint=hint)
    factors = value.get("factor")
    if not isinstance(factors, list) or not factors:
        raise ConfigError("no [[factor]]", where=str(path), hint="Add one [[factor]] for each factor code to upload")
    made = [_factor(path, number, one, upload) for number, one in enumerate(factors, 1)]
    if len({factor.code for factor, _ in made}) < len(made):
        raise ConfigError("duplicate factor code", where=str(path), hint="Use each factor code for one series only")
    series = [series for _, series in made]
    return Hj212(series, [one for one, _ in made], head, UPLOADS[upload], length_s, zone, flags, digits, now)


def _length(path: Path, interval: Any, upload: str) -> int:
    """The length of an interval in seconds."""
    if upload in _LENGTHS:
        if interval is not None:
            hint = f'Remove the key "interval": upload = "{upload}" has intervals of {_LENGTHS[upload]} s'
            raise ConfigError(f"interval {interval!r} has no effect", where=str(path), hint=hint)
        return _LENGTHS[upload]
    if type(interval) is not int or not 1 <= interval <= 3600 or 3600 % interval:
        hint = "Expected a number of seconds that divides an hour"
        raise ConfigError(f"interval {interval!r}", where=str(path), hint=hint)
    return interval


def _factor(path: Path, number: int, value: Any, upload: str) -> tuple[Factor, Series]:
    where = Path(f"{path}, factor {number}")
    if not isinstance(value, dict):
        raise ConfigError("not a table", where=str(where), hint="Expected [[factor]]")
    _known(where, value, _FACTOR_KEYS)
    code = _text(where, value, "code", _CODE.pattern, "the code assigned by the bureau, such as w01018")
    stream = _text(where, value, "stream", r"[^/]+/[^/]+/[^/]+", "<site>/<gateway>/<device>")
    point, figure = value.get("point", ""), value.get("figure", "")
    if not isinstance(point, str) or not isinstance(figure, str) or bool(point) == bool(figure):
        raise ConfigError("point and figure", where=str(where), hint="Give exactly one of the two keys")
    fields = value.get("fields")
    allowed = ("Rtd",) if upload == "realtime" else FIELDS[1:4] if point else FIELDS[4:]
    if not isinstance(fields, list) or not fields or not set(fields) <= set(allowed):
        hint = f"Expected a non-empty array of: {', '.join(allowed)}"
        raise ConfigError(f"fields {fields!r}", where=str(where), hint=hint)
    least = value.get("least")
    if not isinstance(least, (int, float)) or isinstance(least, bool) or not 0 <= least <= 1:
        hint = "Expected a number from 0 to 1: if less than this share of the due readings is present, no value is sent"
        raise ConfigError(f"least {least!r}", where=str(where), hint=hint)
    unit = value.get("unit")
    if not isinstance(unit, str):
        raise ConfigError(f"unit {unit!r}", where=str(where), hint="Expected the unit of the point's readings")
    return Factor(code, unit, tuple(fields), float(least)), Series(stream, point, figure)


def _known(path: Path, value: Mapping[str, Any], keys: set[str], table: str = "") -> None:
    if unknown := value.keys() - keys:
        hint = f"Allowed keys: {', '.join(sorted(keys))}"
        raise ConfigError(f'unknown key "{min(unknown)}"{table}', where=str(path), hint=hint)


def _text(path: Path, value: Mapping[str, Any], key: str, pattern: str, expected: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not re.fullmatch(pattern, found):
        raise ConfigError(f"{key} {found!r}", where=str(path), hint=f"Expected {expected}")
    return found


def _password(path: Path, name: str) -> str:
    file = path.parent / name
    try:
        text = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(error), where=f"{path}, password_file", hint="Expected a file that contains only the password"
        ) from None
    if not re.fullmatch(r"[!-:<-~]{6}", text) or "&&" in text:
        hint = 'Expected six ASCII characters, with no space, no ";" and no "&&"'
        raise ConfigError("not a valid HJ 212 password", where=str(file), hint=hint)
    return text


CONVERTER: Final = Converter("hj212-2017", "HJ 212-2017 uploads (replaced by HJ 212-2025)", read_map)
