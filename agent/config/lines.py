"""Reads ``[[line]]`` tables, which define serial ports and network connections with their settings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.config import parsers as v
from agent.config.tree import ConfigWarning, LineEntry
from drivers.model import BYTE_SCHEMES, Limits
from drivers.registry import line_urls
from drivers.serial_setting import DEFAULT_SERIAL
from drivers.toml import TomlTable
from drivers.toml import parsers as p

_NUMBERED_PORT = re.compile(r"serial:/dev/tty(USB|ACM)[0-9]+\Z")
_NOT_HERE = {
    "min_every": "Only a profile may contain min_every. To poll a device less often, set every = ... in its [[device]]"
}


@dataclass(frozen=True, slots=True)
class LineRead:
    """A line as configured, and the table from which it was read. Complaints about the line are added to this table."""

    entry: LineEntry
    table: TomlTable


def read_limits(table: TomlTable) -> Limits:
    """Read ``limits = {...}`` of a line or device. Complains about ``min_every``, which only a profile may set."""
    inner = table.table("limits")
    if inner is None:
        return Limits()
    none_int: int | None = None
    none_float: float | None = None
    none_bool: bool | None = None
    out = Limits(
        max_words=inner.take("max_words", p.whole(1, 125), none_int),
        max_gap=inner.take("max_gap", p.whole(0, 124), none_int),
        holes=inner.take("holes", p.boolean, none_bool),
        quiet_s=inner.take("quiet", p.duration_s(0, 10_000, "20 ms"), none_float),
        timeout_s=inner.take("timeout", p.duration_s(10, 60_000, "1 s"), none_float),
        connect_delay_s=inner.take("connect_delay", p.duration_s(0, 60_000, "1.5 s"), none_float),
        turnaround_s=inner.take("turnaround", p.duration_s(0, 10_000, "20 ms"), none_float),
        late_s=inner.take("late", p.duration_s(0, 60_000, "2 s"), none_float),
        retries=inner.take("retries", p.whole(0, 5), none_int),
        connections=inner.take("connections", p.whole(1, 64), none_int),
    )
    inner.done(_NOT_HERE)
    return out


def is_first(seen: dict[str, TomlTable], table: TomlTable, name: str, key: str = "name") -> bool:
    """True if no earlier table has this name. If False, adds a complaint that states the places of both tables."""
    if not name:
        return False
    first = seen.setdefault(name, table)
    if first is table:
        return True
    layer = first.layers[0]
    place = f"{layer.source.name}:{layer.source.line((*layer.path, key))}"
    table.complain(
        None, key, f'"{name}" is already used in {place}', "Each name may be used only once in all configuration files"
    )
    return False


def read_lines(tables: list[TomlTable], notes: list[ConfigWarning]) -> dict[str, LineRead]:
    """Read all lines, in file order. Returns them by name. Adds each complaint to the table that has the error."""
    lines: dict[str, LineRead] = {}
    names: dict[str, TomlTable] = {}
    ports: dict[str, TomlTable] = {}
    for table in tables:
        name = table.need("name", v.name, "", 'Add this key, for example name = "cabinet-2"')
        url = table.need("url", v.line_url, "", f"Write {line_urls()}")
        scheme = url.partition(":")[0]
        entry = LineEntry(
            name=name,
            url=url,
            label=table.take("label", p.label, ""),
            serial=table.take("serial", v.serial, DEFAULT_SERIAL),
            bus_baud=table.take("bus_baud", v.baud, None),
            limits=read_limits(table),
            echo=table.take("echo", p.boolean, False),
            rs485=table.take("rs485", p.boolean, False),
            phase_ms=table.take("phase", p.duration_ms(0, 86_400_000, "200 ms"), 0),
        )
        table.done(
            {
                "baud": 'Write serial = "9600 8N1"',
                "port": "Write host and port in the url",
                "host": "Write host and port in the url",
            }
        )
        if scheme:
            _meaningless(table, scheme)
        if is_first(names, table, name):
            lines[name] = LineRead(entry, table)
        _check_port(ports, table, url, notes)
        if _NUMBERED_PORT.match(url):
            what = f"{url[7:]} may refer to another adapter after a restart or replug"
            notes.append(ConfigWarning(place_of(table, "url"), what, "Take the stable name from /dev/serial/by-id/"))
    return lines


def place_of(table: TomlTable, key: str) -> str:
    """Return the place of a key as messages show it, such as ``agent.toml:14: line.roof.url``."""
    layer = next((layer for layer in table.layers if key in layer.raw), table.layers[0])
    return f"{layer.source.name}:{layer.source.line((*layer.path, key))}: {table.name}.{key}"


def _meaningless(table: TomlTable, scheme: str) -> None:
    """Complain about options that have no effect with this url scheme, because they would mislead."""
    reasons: dict[str, tuple[str, str]] = {}
    if scheme not in BYTE_SCHEMES:
        hint = (
            "The TCP gateway itself sets the baud rate of its bus; to tell the agent this rate, write for example "
            "bus_baud = 9600"
        )
        reasons["serial"] = (f"has no effect on {scheme}", hint)
        reasons["echo"] = (f"has no effect on {scheme}", "Only a line that carries raw bytes can have an echo")
    if scheme == "serial":
        reasons["bus_baud"] = (
            "has no effect on a serial port",
            'Write the baud rate in serial, for example serial = "9600 8N1"',
        )
    else:
        reasons["rs485"] = (
            "has no effect without a serial port",
            "Only a line with url = serial:/dev/... can switch its port to RS-485",
        )
    for key, (what, hint) in reasons.items():
        if table.has(key):
            table.complain(None, key, what, hint)


def _line_place(line: TomlTable) -> str:
    layer = line.layers[0]
    return f"{line.name} ({layer.source.name}:{layer.source.line((*layer.path, 'url'))})"


def _check_framing(ports: dict[str, TomlTable], table: TomlTable, url: str, notes: list[ConfigWarning]) -> None:
    """Add a note if two lines open the same TCP port with different schemes.

    This is not an error, because some serial servers recognize the framing of each request.
    """
    scheme, _, port = url.partition("://")
    if not port or scheme == "udp":  # a serial port has only one scheme, and a UDP port is another port
        return
    first = ports.setdefault(port, table)
    if first is not table:
        hint = "A port of a TCP gateway or serial server usually has one framing: correct the url of one of the lines"
        what = f"opens the port {port}, but {_line_place(first)} opens the same port with another URL scheme"
        notes.append(ConfigWarning(place_of(table, "url"), what, hint))


def _check_port(ports: dict[str, TomlTable], table: TomlTable, url: str, notes: list[ConfigWarning]) -> None:
    """Complain if two lines use the same port, because their requests would interleave.

    Two network connections to the same gateway may be intended, so they only get a note.
    """
    if not url:
        return
    first = ports.setdefault(url, table)
    if first is table:
        _check_framing(ports, table, url, notes)
        return
    place = _line_place(first)
    if url.partition(":")[0] not in BYTE_SCHEMES:
        hint = (
            "Put all devices of this TCP gateway on one [[line]]: many TCP gateways accept only one or two connections"
        )
        notes.append(
            ConfigWarning(place_of(table, "url"), f"opens a second connection to the TCP gateway of {place}", hint)
        )
    else:
        table.complain(
            None,
            "url",
            f"uses the same port as {place}",
            'Put all devices of this port on one [[line]]; each device may have its own serial setting (key "serial")',
        )
