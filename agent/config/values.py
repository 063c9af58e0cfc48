"""What single values of agent.toml may say: durations, sizes, names, urls. Pure; a wrong one raises ``Wrong``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from drivers.model import LINE_SCHEMES, clean_text
from drivers.serial_setting import BAUD_RATES, nearest_baud, nearest_setting

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
PROFILE_ID = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*\Z")
POINT_PATTERN = re.compile(r"[a-z0-9*?][a-z0-9.*?_-]*\Z")
CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
RESERVED_NAMES = frozenset({"status", "keys", "checkpoint", "ack", "replay"})  # topics of the gateway itself

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]*)\Z")
_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MS_NEAR = {"m": "min", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "mins": "min", "minute": "min"}
_MS_NEAR |= {"minutes": "min", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "day": "d", "days": "d", "msec": "ms"}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTES_NEAR = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "b": "B", "": "MiB"}
LINE_URLS = "serial:/dev/serial/by-id/..., modbus-tcp://HOST:502, tcp://HOST:PORT or udp://HOST:PORT"
UPLINK_SCHEMES = {"mqtt": 1883, "mqtts": 8883}

Parse = Callable[[object], object]


class Wrong(Exception):
    """A value that cannot be: what was seen, and what would be right."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def show(value: object) -> str:
    """A value of the file as a person would recognise it: short, and safe on a terminal."""
    if isinstance(value, str):
        return f'"{clean_text(value, 60)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return clean_text(str(value), 40)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a table {...}"
    return clean_text(str(value), 40)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or an empty string."""
    choices = {k.lower(): k for k in known}
    found = get_close_matches(name.lower()[:80], list(choices), n=1, cutoff=0.6)
    return choices[found[0]] if found else ""


def did_you_mean(name: str, known: Iterable[str], what: str = "Known") -> str:
    """A hint with the nearest name, or all of them where nothing is near."""
    known = sorted(known)
    near = nearest(name, known)
    return f'Did you mean "{near}"?' if near else f"{what}: {', '.join(known)}"


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is not text", f'Write it in quotes: "{clean_text(str(value), 40)}"')
    return value


def label(value: object) -> str:
    """Free text for people: at most 200 characters, no control characters."""
    out = text(value)
    if len(out) > 200 or not out.isprintable():
        raise Wrong(f"{show(value)} is no label", "At most 200 printable characters on one line")
    return out


def matching(pattern: re.Pattern[str], what: str, hint: str) -> Callable[[object], str]:
    """Text that fits ``pattern`` as a whole."""

    def parse(value: object) -> str:
        out = text(value)
        if not pattern.match(out):
            raise Wrong(f"{show(value)} is not {what}", hint)
        return out

    return parse


name = matching(NAME, "a name", 'Use a-z, 0-9 and "-", starting with a letter or digit, such as "inv1"')
site_name = matching(SITE_NAME, "a name", 'Use letters, digits, ".", "_" and "-", such as "park7"')
profile_id = matching(
    PROFILE_ID, "the id of a profile", 'Write "VENDOR/FAMILY" in small letters, such as "huawei/sun2000"'
)
point_pattern = matching(POINT_PATTERN, "a pattern of point names", 'Such as "ac.power.active" or "ac.*"')


def device_name(value: object) -> str:
    out = name(value)
    if out in RESERVED_NAMES:
        raise Wrong(f'"{out}" is a topic of the gateway itself', f'Choose another name, such as "{out}-1"')
    return out


def credential(value: object) -> str:
    """The NAME of a systemd credential. What was written is not shown: it may be the secret itself."""
    out = text_unseen(value)
    if not CREDENTIAL.match(out):
        raise Wrong("not the name of a credential", "Letters, digits, . _ - only: a name, never the secret itself")
    return out


def text_unseen(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("not text", "Write it in quotes")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{show(value)} is not a yes or no", "Write true or false, without quotes")
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"{show(value)} is not a whole number", f"Write a number from {low} to {high}, without quotes")
        if not low <= value <= high:
            raise Wrong(f"{show(value)} is out of range", f"Allowed: {low} to {high}")
        return value

    return parse


def factor(value: object) -> Decimal:
    """A ratio of a transformer: a positive number, kept decimal."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise Wrong(f"{show(value)} is not a number", "A 400/5 A transformer has ct = 80")
    out = Decimal(value)
    if not out.is_finite() or not Decimal("0.0001") <= out <= Decimal(1_000_000):
        raise Wrong(f"{show(value)} cannot be a ratio", "A 400/5 A transformer has ct = 80")
    return out


def degrees(most: int) -> Callable[[object], Decimal]:
    """A latitude or longitude: degrees, from minus to plus ``most``."""

    def parse(value: object) -> Decimal:
        hint = f"Degrees from -{most} to {most}, such as {most * 0.4:g}; south and west are negative"
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            raise Wrong(f"{show(value)} is not a number", hint)
        out = Decimal(value)
        if not out.is_finite() or abs(out) > most:
            raise Wrong(f"{show(value)} is out of range", hint)
        return out

    return parse


def choice(*allowed: str) -> Callable[[object], str]:
    """One of the words."""

    def parse(value: object) -> str:
        out = text(value)
        if out not in allowed:
            raise Wrong(f"{show(value)} is not known here", did_you_mean(out, allowed, "Allowed"))
        return out

    return parse


def duration_ms(low_ms: int, high_ms: int, example: str = "10 s") -> Callable[[object], int]:
    """Milliseconds of ``"1.5 s"``, within limits. Units ms, s, min, h, d."""

    def parse(value: object) -> int:
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            raise Wrong(f"{show(value)} has no unit", f'Write a duration in quotes, such as "{example}"')
        found = _DURATION.match(text(value).strip())
        if not found:
            raise Wrong(f"{show(value)} is not a duration", f'Write a number and a unit, such as "{example}"')
        number, unit = found.groups()
        if unit not in _MS:
            near = unit if unit.lower() in _MS else _MS_NEAR.get(unit.lower(), "")
            near = near.lower()
            what = f'"{clean_text(unit, 20)}" is not a unit of time' if unit else f"{show(value)} has no unit"
            right = f'Write "{number} {near}"' if near else f'Such as "{example}"'
            raise Wrong(what, f"{right}; units are ms, s, min, h, d")
        ms = Decimal(number) * _MS[unit]
        if ms != int(ms):
            raise Wrong(f"{show(value)} is finer than a millisecond", "Whole milliseconds only")
        if not low_ms <= ms <= high_ms:
            raise Wrong(f"{show(value)} is out of range", f"Allowed: {show_ms(low_ms)} to {show_ms(high_ms)}")
        return int(ms)

    return parse


def duration_s(low_ms: int, high_ms: int, example: str = "0.5 s") -> Callable[[object], float]:
    """As ``duration_ms``, in seconds."""
    parse_ms = duration_ms(low_ms, high_ms, example)
    return lambda value: parse_ms(value) / 1000


def show_ms(ms: int) -> str:
    """A duration as agent.toml writes it, in the largest unit that keeps it whole."""
    for unit in ("d", "h", "min", "s"):
        if ms and ms % _MS[unit] == 0:
            return f"{ms // _MS[unit]} {unit}"
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms} ms"


def size_bytes(low: int, high: int, example: str = "8 GiB") -> Callable[[object], int]:
    """Bytes of ``"8 GiB"``, within limits. Units B, KiB, MiB, GiB, TiB (powers of 1024)."""

    def parse(value: object) -> int:
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            raise Wrong(f"{show(value)} has no unit", f'Write a size in quotes, such as "{example}"')
        found = _DURATION.match(text(value).strip())
        if not found:
            raise Wrong(f"{show(value)} is not a size", f'Write a number and a unit, such as "{example}"')
        number, unit = found.groups()
        if unit not in _BYTES:
            what = f'"{clean_text(unit, 20)}" is not a unit of size' if unit else f"{show(value)} has no unit"
            near = _BYTES_NEAR.get(unit[:1].lower(), "MiB")
            raise Wrong(what, f'Write "{number} {near}"; units are B, KiB, MiB, GiB, TiB (powers of 1024)')
        size = int(Decimal(number) * _BYTES[unit])
        if not low <= size <= high:
            raise Wrong(f"{show(value)} is out of range", f"Allowed: {show_bytes(low)} to {show_bytes(high)}")
        return size

    return parse


def show_bytes(size: int) -> str:
    """A size as agent.toml writes it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.4g} {unit}"
    return f"{size} B"


def serial(value: object) -> str:
    """``"9600 8N1"``: baud rate, data bits, parity, stop bits; written back in exactly that form."""
    shown = " ".join(text(value).split())
    near = nearest_setting(shown)
    if not near or near != shown:
        hint = f'Write "{near}"' if near else 'Write baud rate, data bits, parity (N, E or O) and stop bits: "9600 8N1"'
        raise Wrong(f"{show(value)} is not a serial setting", hint)
    _known_baud(int(shown.split()[0]))
    return shown


def baud(value: object) -> int:
    """A baud rate."""
    return _known_baud(whole(BAUD_RATES[0], BAUD_RATES[-1])(value))


def _known_baud(rate: int) -> int:
    if rate not in BAUD_RATES:
        raise Wrong(f"{rate} is not a baud rate", f"Did you mean {nearest_baud(rate)}?")
    return rate


def split_url(value: object, example: str) -> SplitResult:
    """A url without user, password and query, and with a sound port. Never shows one that holds a password."""
    out = text(value)
    try:
        parts = urlsplit(out)
        port = parts.port
    except ValueError:
        raise Wrong("the host or port of the url cannot be read", f"Such as {example}; ports end at 65535") from None
    if "@" in out:
        raise Wrong("a url must not hold a user or password", "Use username and password_credential beside it")
    if not out.isascii() or not out.isprintable() or " " in out:
        raise Wrong(f"{show(out)} holds characters that no url has", f"Such as {example}")
    if port == 0 or parts.query or parts.fragment:
        raise Wrong(f"{show(out)} is not understood", f"A host and a port, such as {example}")
    return parts


def line_url(value: object) -> str:
    """The url of a line, written back in full (modbus-tcp gets its port 502)."""
    out = text(value)
    if out.startswith("/dev/"):
        raise Wrong(f"{show(out)} is not a url", f'Write "serial:{clean_text(out, 80)}"')
    parts = split_url(out, "tcp://192.0.2.10:4196")
    if parts.scheme not in LINE_SCHEMES:
        near = nearest(parts.scheme, (*LINE_SCHEMES, "mbtcp", "rtu"))
        near = {"mbtcp": "modbus-tcp", "rtu": "serial"}.get(near, near)
        what = f"the scheme {show(parts.scheme)} is not known" if parts.scheme else f"{show(out)} is not a url"
        raise Wrong(what, (f'Did you mean "{near}"? ' if near else "") + f"Write {LINE_URLS}")
    if parts.scheme == "serial":
        path = parts.path
        if parts.netloc or not path.startswith("/") or path.endswith("/") or len(path) > 255:
            raise Wrong(f"{show(out)} names no port", 'Such as "serial:/dev/ttyUSB0"')
        return f"serial:{path}"
    if not parts.hostname:
        raise Wrong(f"{show(out)} names no host", f"Write {parts.scheme}://HOST:PORT")
    if parts.path not in {"", "/"}:
        raise Wrong(f"{show(out)} has something after the port", f"Write {parts.scheme}://HOST:PORT")
    port = parts.port or (502 if parts.scheme == "modbus-tcp" else 0)
    if not port:
        raise Wrong(f"{show(out)} names no port", f'Such as "{parts.scheme}://{clean_text(parts.hostname, 60)}:4196"')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def uplink_url(value: object) -> str:
    """The url of a broker, written back in full with its port."""
    parts = split_url(value, "mqtts://broker.example:8883")
    if "://" not in text(value):
        raise Wrong(f"{show(value)} is not a url", "Write mqtts://HOST:8883 or mqtt://HOST:1883")
    if parts.scheme not in UPLINK_SCHEMES:
        near = {"ssl": "mqtts", "tls": "mqtts", "tcp": "mqtt"}.get(parts.scheme) or nearest(
            parts.scheme, UPLINK_SCHEMES
        )
        what = f"the scheme {show(parts.scheme)} is not known" if parts.scheme else f"{show(value)} is not a url"
        raise Wrong(what, f"Did you mean {near}://?" if near else "Write mqtts://HOST:8883 or mqtt://HOST:1883")
    if not parts.hostname or parts.path not in {"", "/"}:
        raise Wrong(f"{show(value)} is not understood", f"Write {parts.scheme}://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or UPLINK_SCHEMES[parts.scheme]}"


def path_in(folder: Path) -> Callable[[object], Path]:
    """A path; a relative one counts from the folder of the file that names it."""

    def parse(value: object) -> Path:
        out = text(value)
        if not out or "\0" in out or len(out) > 4000:
            raise Wrong(f"{show(value)} is not a path", 'Such as "/etc/meterhouse/signing.key"')
        return folder / out

    return parse


def timezone(value: object) -> str:
    """A name of the time zone database."""
    import zoneinfo

    out = text(value)
    try:
        zoneinfo.ZoneInfo(out)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        zones = zoneinfo.available_timezones()
        if not zones:
            raise Wrong("this machine has no time zone database", "Install the package tzdata") from None
        near = next((zone for zone in sorted(zones) if zone.rpartition("/")[2].lower() == out.lower()), "")
        near = near or (nearest(out, zones) if "/" in out else "")
        hint = f'Did you mean "{near}"?' if near else 'Write AREA/CITY, such as "Asia/Shanghai"'
        raise Wrong(f"{show(value)} is not a time zone", hint) from None
    return out
