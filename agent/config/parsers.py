"""Parsers of values in agent.toml, such as names, sizes and urls.

A parser raises ``InvalidValue`` for an invalid value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from agent.verify.agreed import PATTERN as STREAM_PATTERN
from drivers.model import BYTE_SCHEMES, clean_text
from drivers.registry import all_protocols, find_scheme, line_urls, own_schemes
from drivers.serial_setting import BAUD_RATES, nearest_baud, nearest_setting
from drivers.toml.parsers import (
    InvalidValue,
    matching,
    nearest,
    number_and_unit,
    show,
    text,
    whole,
)

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
PROFILE_ID = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*\Z")
POINT_PATTERN = re.compile(r"[a-z0-9*?][a-z0-9.*?_-]*\Z")
CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
# these are topics of the gateway, so they cannot be names
RESERVED_NAMES = frozenset({"status", "keys", "checkpoint", "ack", "replay"})

_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTES_NEAR = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "b": "B", "": "MiB"}
UPLINK_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
SHANGHAI = "Asia/Shanghai"  # China's only time zone
_SHANGHAI = frozenset((
    "cst", "china", "prc", "beijing", "peking", "guangzhou", "shenzhen", "tianjin", "chengdu", "hangzhou", "nanjing",
    "wuhan", "xian", "北京", "中国", "上海",
))  # fmt: skip
_OFFSET = re.compile(r"(?:etc/)?(?:utc|gmt|z)? *([+-]) *0?([0-9]{1,2})(?::?00)?")
_ETC_ZONE = re.compile(r"Etc/GMT([+-])([1-9][0-9]?)")
# entries of the time zone database that can mean another zone on each machine
MACHINE_ZONES = frozenset({"localtime", "posixrules"})
_TRAP = "in names that begin with Etc/GMT, the sign is reversed"


name = matching(NAME, "a name", 'Use a-z, 0-9 and "-", starting with a letter or digit, such as "inv1"')
site_name = matching(SITE_NAME, "a name", 'Use letters, digits, ".", "_" and "-", such as "park7"')
profile_id = matching(
    PROFILE_ID, "the id of a profile", 'Write "VENDOR/FAMILY" in small letters, such as "huawei/sun2000"'
)
stream_pattern = matching(
    STREAM_PATTERN, "a stream or a pattern", 'Write for example "inv1", "meter-*" or "_indicators"'
)
point_pattern = matching(POINT_PATTERN, "a pattern of point names", 'Write for example "ac.power.active" or "ac.*"')


def device_name(value: object) -> str:
    out = name(value)
    if out in RESERVED_NAMES:
        raise InvalidValue(
            f'"{out}" is reserved, because the gateway itself uses this topic',
            f'Choose another name, such as "{out}-1"',
        )
    return out


def credential(value: object) -> str:
    """Parse the name of a systemd credential.

    Messages never show an invalid value, because it may be the secret itself.
    """
    out = text_unseen(value)
    if not CREDENTIAL.match(out):
        raise InvalidValue(
            "this is not the name of a credential",
            "Write only the name of the credential, never the secret itself. A name has letters, digits, dots, "
            "underscores and hyphens",
        )
    return out


def text_unseen(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue("this value is not text", "Write the value in quotes")
    return value


def factor(value: object) -> Decimal:
    """Parse a transformer ratio: a positive decimal number."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise InvalidValue(f"{show(value)} is not a number", "A 400/5 A transformer has ct = 80")
    out = Decimal(value)
    if not out.is_finite() or not Decimal("0.0001") <= out <= Decimal(1_000_000):
        raise InvalidValue(f"{show(value)} cannot be a ratio", "A 400/5 A transformer has ct = 80")
    return out


def degrees(most: int) -> Callable[[object], Decimal]:
    """Return a parser of a latitude or longitude, in degrees from ``-most`` to ``most``."""

    def parse(value: object) -> Decimal:
        hint = f"Write degrees from -{most} to {most}, such as {most * 0.4:g}; south and west are negative"
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            raise InvalidValue(f"{show(value)} is not a number", hint)
        out = Decimal(value)
        if not out.is_finite() or abs(out) > most:
            raise InvalidValue(f"{show(value)} is out of range", hint)
        return out

    return parse


def size_bytes(low: int, high: int, example: str = "8 GiB") -> Callable[[object], int]:
    """Return a parser of sizes such as ``"8 GiB"``, from ``low`` to ``high`` bytes. The parser returns bytes.

    Units are B, KiB, MiB, GiB and TiB (powers of 1024).
    """

    def parse(value: object) -> int:
        number, unit = number_and_unit(value, "a size", example)
        if unit not in _BYTES:
            what = f'"{clean_text(unit, 20)}" is not a unit of size' if unit else f"{show(value)} has no unit"
            near = _BYTES_NEAR.get(unit[:1].lower(), "MiB")
            raise InvalidValue(what, f'Write "{number} {near}"; units are B, KiB, MiB, GiB, TiB (powers of 1024)')
        size = int(Decimal(number) * _BYTES[unit])
        if not low <= size <= high:
            raise InvalidValue(f"{show(value)} is out of range", f"Allowed: {show_bytes(low)} to {show_bytes(high)}")
        return size

    return parse


def show_bytes(size: int) -> str:
    """Format a size in bytes as in agent.toml, such as ``8 GiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.4g} {unit}"
    return f"{size} B"


def serial(value: object) -> str:
    """Parse a serial setting: baud rate, data bits, parity, stop bits. Returns it in the form ``9600 8N1``."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    shown = " ".join((str(value) if is_number else text(value)).split())
    near = nearest_setting(shown)
    if not near or near != shown:
        hint = f'Write "{near}"' if near else 'Write baud rate, data bits, parity (N, E or O) and stop bits: "9600 8N1"'
        settings = dict.fromkeys(one for protocol in all_protocols() for one in protocol.serial_settings)
        if usual := [f'"{one}"' for one in settings if one.partition(" ")[0] == shown]:
            hint = f"Usual settings at this baud rate: {', '.join(usual)}"
        raise InvalidValue(f"{show(value)} is not a serial setting", hint)
    _known_baud(int(shown.split()[0]))
    return shown


def baud(value: object) -> int:
    """Parse a baud rate."""
    return _known_baud(whole(BAUD_RATES[0], BAUD_RATES[-1])(value))


def _known_baud(rate: int) -> int:
    if rate not in BAUD_RATES:
        raise InvalidValue(f"{rate} is not a baud rate", f"Did you mean {nearest_baud(rate)}?")
    return rate


def split_url(value: object, example: str) -> SplitResult:
    """Split a url. A url with a user, password, query, fragment or invalid port is rejected.

    Messages never show a url with a password.
    """
    out = text(value)
    try:
        parts = urlsplit(out)
        port = parts.port
    except ValueError:
        raise InvalidValue(
            "the host or port of the url cannot be read", f"Write for example {example}; the highest port is 65535"
        ) from None
    if "@" in out:
        raise InvalidValue(
            "a url must not contain a user name or password", "Use the keys username and password_credential"
        )
    plain = (out.isascii() and " " not in out) or parts.scheme == "serial"  # the path of a port has any characters
    if not (plain and out.isprintable()):
        raise InvalidValue(
            f"{show(out)} contains characters that are not allowed in a url", f"Write for example {example}"
        )
    if port == 0 or parts.query or parts.fragment:
        raise InvalidValue(f"{show(out)} is not understood", f"Write a host and a port, such as {example}")
    if parts.hostname and not parts.hostname.strip("0123456789."):
        try:
            IPv4Address(parts.hostname)
        except ValueError:
            hint = "Write four numbers from 0 to 255, without leading zeros, such as 192.0.2.10"
            raise InvalidValue(f"{show(parts.hostname)} is not an IPv4 address", hint) from None
    return parts


def line_url(value: object) -> str:
    """Parse the url of a line. Returns the full form, with the default port of the scheme if the url has no port."""
    out = text(value)
    if out.startswith("/dev/"):
        raise InvalidValue(f"{show(out)} is not a url", f'Write "serial:{clean_text(out, 80)}"')
    parts = split_url(out, "tcp://192.0.2.10:4196")
    framed = find_scheme(parts.scheme)
    if framed is None and parts.scheme not in BYTE_SCHEMES:
        meant = {alias: one.name for one in own_schemes() for alias in (one.name, *one.aliases)} | {"rtu": "serial"}
        near = nearest(parts.scheme, (*BYTE_SCHEMES, *meant))
        near = meant.get(near, near)
        what = f"unknown scheme {show(parts.scheme)}" if parts.scheme else f"{show(out)} is not a url"
        raise InvalidValue(what, (f'Did you mean "{near}"? ' if near else "") + f"Write {line_urls()}")
    if parts.scheme == "serial":
        path = parts.path
        if parts.netloc or not path.startswith("/") or path.endswith("/") or len(path) > 255:
            raise InvalidValue(f"{show(out)} has no port", 'Write for example "serial:/dev/ttyUSB0"')
        return f"serial:{path}"
    if not parts.hostname:
        raise InvalidValue(f"{show(out)} has no host", f"Write {parts.scheme}://HOST:PORT")
    if parts.path not in {"", "/"}:
        raise InvalidValue(f"{show(out)} has extra text after the port", f"Write {parts.scheme}://HOST:PORT")
    port = parts.port or (framed.port if framed is not None else 0)
    if not port:
        raise InvalidValue(
            f"{show(out)} has no port", f'Write for example "{parts.scheme}://{clean_text(parts.hostname, 60)}:4196"'
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def uplink_url(value: object) -> str:
    """Parse the url of a broker. Returns the full form, with the default port of the scheme if the url has no port."""
    parts = split_url(value, "mqtts://broker.example:8883")
    if "://" not in text(value):
        raise InvalidValue(f"{show(value)} is not a url", "Write mqtts://HOST:8883 or mqtt://HOST:1883")
    if parts.scheme not in UPLINK_SCHEMES:
        near = {"ssl": "mqtts", "tls": "mqtts", "tcp": "mqtt"}.get(parts.scheme) or nearest(
            parts.scheme, UPLINK_SCHEMES
        )
        what = f"unknown scheme {show(parts.scheme)}" if parts.scheme else f"{show(value)} is not a url"
        raise InvalidValue(what, f"Did you mean {near}://?" if near else "Write mqtts://HOST:8883 or mqtt://HOST:1883")
    if not parts.hostname or parts.path not in {"", "/"}:
        raise InvalidValue(f"{show(value)} is not understood", f"Write {parts.scheme}://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or UPLINK_SCHEMES[parts.scheme]}"


def path_in(folder: Path) -> Callable[[object], Path]:
    """Return a parser of paths. It resolves a relative path against ``folder``."""

    def parse(value: object) -> Path:
        out = text(value)
        if not out or "\0" in out or len(out) > 4000:
            raise InvalidValue(f"{show(value)} is not a path", 'Write for example "/etc/meterhouse/signing.key"')
        return folder / out

    return parse


def timezone(value: object) -> str:
    """Parse the name of a zone in the time zone database, such as Asia/Shanghai."""
    import zoneinfo

    out = text(value)
    if out.lower() in MACHINE_ZONES:
        hint = f'Write AREA/CITY, such as "{SHANGHAI}"'
        raise InvalidValue(f"{show(value)} is not the same time zone on every machine", hint)
    try:
        zoneinfo.ZoneInfo(out)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        zones = zoneinfo.available_timezones()
        if not zones:
            raise InvalidValue("this machine has no time zone database", "Install the package tzdata") from None
        raise InvalidValue(f"{show(value)} is not a time zone", _zone_hint(out, zones)) from None
    return out


def zone_trap(zone: str) -> str:
    """Explain the reversed sign of a name such as Etc/GMT+8, which means UTC-8. Returns "" for any other name."""
    match = _ETC_ZONE.fullmatch(zone)
    return "" if match is None else f'"{zone}" means UTC{"-" if match[1] == "+" else "+"}{match[2]}: {_TRAP}'


def _zone_hint(written: str, zones: AbstractSet[str]) -> str:
    plain = re.sub(r"[\s_-]+(standard[\s_-]+)?time$", "", written.strip().lower())
    offset = _OFFSET.fullmatch(plain)
    sign, hours = (offset[1], int(offset[2])) if offset is not None else ("", 0)
    if (sign, hours) == ("+", 8) or plain.rpartition("/")[2] in _SHANGHAI:
        return f'Did you mean "{SHANGHAI}"?'
    if sign and 0 < hours <= 12:
        fixed = f"Etc/GMT{'-' if sign == '+' else '+'}{hours}"
        return f'Write AREA/CITY, such as "{SHANGHAI}"; for UTC{sign}{hours} all year, write "{fixed}": {_TRAP}'
    near = next((zone for zone in sorted(zones) if zone.rpartition("/")[2].lower() == plain), "")
    near = near or (nearest(written, {zone for zone in zones if not zone.startswith("Etc/")}) if "/" in plain else "")
    return f'Did you mean "{near}"?' if near else f'Write AREA/CITY, such as "{SHANGHAI}"'
