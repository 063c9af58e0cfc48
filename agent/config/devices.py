"""Reads ``[[device]]`` tables, and makes those checks that do not need the profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from agent.config import parsers as v
from agent.config.lines import LineRead, is_first, place_of, read_limits
from agent.config.metering import node, read_classes
from agent.config.tree import ConfigWarning, DeviceConfig
from agent.roles import ROLES
from drivers.model import DEFAULT_PERIODS_MS, PACES
from drivers.toml import TomlTable
from drivers.toml import parsers as p

_PERIOD = p.duration_ms(50, 31 * 86_400_000, "5 s")
_ELSEWHERE = {
    "unit": 'Write address = "1"',
    "slave": 'Write address = "1"',
    "id": 'Write address = "1"',
    "host": "Write host and port in the url of the line",
    "port": "Write host and port in the url of the line",
    "interval": 'Write every = "5 s"',
    "period": 'Write every = "5 s"',
    "accuracy": 'Write class = "0.5S"',
    "role": 'Write roles = { "ac" = "grid" }',
    "ct": "Write ratio = { ct = 80, pt = 1 }",
    "pt": "Write ratio = { ct = 80, pt = 1 }",
}


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """A device as read from its table. ``check_profiles`` checks it against its profile later."""

    entry: DeviceConfig
    table: TomlTable
    given_paces: frozenset[str]  # the paces whose periods the table sets


def address(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        raise p.InvalidValue(
            f"{value} is a number, but an address must be text",
            f'Write the address in quotes, with all leading zeros: address = "{value}"',
        )
    out = p.text(value)
    if not out or not out.isascii() or not out.isprintable() or " " in out or len(out) > 64:
        raise p.InvalidValue(
            f"{p.show(value)} is not an address", 'Write an address such as "1", or the digits on the plate of a meter'
        )
    return out


def role(value: object) -> str:
    out = p.text(value)
    if out in ROLES or (out.startswith("x.") and v.POINT_PATTERN.match(out) and "*" not in out and "?" not in out):
        return out
    raise p.InvalidValue(
        f"{p.show(value)} is not a role", p.did_you_mean(out, ROLES, 'Custom roles begin with "x."; predefined roles')
    )


def prefix(value: object) -> str:
    """Parse the name of a part: a prefix of point names, such as "ac" or "circuit.3".

    "" stands for the whole device.
    """
    out = p.text(value)
    if out and (not v.POINT_PATTERN.match(out) or "*" in out or "?" in out):
        raise p.InvalidValue(
            f"{p.show(value)} is not a prefix of point names", 'Write a prefix such as "ac", "meter.ac" or "circuit.3"'
        )
    return out


def param(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise p.InvalidValue(
            f"{p.show(value)} cannot be the value of a parameter", "Write a whole number, or text in quotes"
        )
    return value


def param_name(value: object) -> str:
    out = p.text(value)
    if not out.isascii() or not out.isprintable():
        raise p.InvalidValue(
            f"{p.show(value)} is not a parameter's name",
            "`meterhouse profiles show ID` lists the parameters of a profile",
        )
    return out


def read_devices(
    tables: list[TomlTable], lines: Mapping[str, LineRead], notes: list[ConfigWarning]
) -> list[DeviceRead]:
    """Read all devices, in file order. A device whose name is already used gets a complaint and is left out."""
    out: list[DeviceRead] = []
    names: dict[str, TomlTable] = {}
    addresses: dict[tuple[str, str], TomlTable] = {}
    shared: dict[str, tuple[str, str, TomlTable]] = {}
    for table in tables:
        device = _device(table, lines)
        line = lines.get(device.entry.line)
        if line:
            _serial(device.entry, line, table, shared)
            first = addresses.setdefault((device.entry.line, device.entry.address), table)
            if first is not table and device.entry.address:
                notes.append(same_address(table, first))
        if is_first(names, table, device.entry.name):
            out.append(device)
    return out


def same_address(table: TomlTable, first: TomlTable) -> ConfigWarning:
    """Return a note that two devices on one line have the same address."""
    what = f"has the same address as {first.name} on the same line"
    hint = (
        "Two [[device]] entries may have the same address only if they describe one physical device with two profiles"
    )
    return ConfigWarning(place_of(table, "address"), what, hint)


def _device(table: TomlTable, lines: Mapping[str, LineRead]) -> DeviceRead:
    def line_name(value: object) -> str:
        out = p.text(value)
        if out not in lines:
            hint = (
                p.did_you_mean(out, lines, "Configured lines")
                if lines
                else "The configuration has no [[line]] yet: add one"
            )
            raise p.InvalidValue(f"no [[line]] is named {p.show(out)}", hint)
        return out

    name = table.need("name", v.device_name, "", 'Add this key, for example name = "inv1"')
    line = table.need(
        "line", line_name, "", 'Add this key, for example line = "roof"; the value is the name of a [[line]]'
    )
    periods, given_paces = _periods(table)
    ratio = table.table("ratio")
    one = Decimal(1)
    ct, pt = (ratio.take("ct", v.factor, one), ratio.take("pt", v.factor, one)) if ratio else (one, one)
    if ratio:
        ratio.done()
    points = table.items("points", v.point_pattern)
    if points == () and not table.layers[0].raw["points"]:
        table.complain(
            None,
            "points",
            "is an empty list, which selects no points",
            'Leave this key out to read all points, or write a list such as ["ac.*"]',
        )
    phase_ms = lines[line].entry.phase_ms if line in lines else 0
    entry = DeviceConfig(
        name=name,
        line=line,
        address=table.need("address", address, "", 'Add this key, for example address = "1"'),
        profile=table.need(
            "profile",
            v.profile_id,
            "",
            'Add this key, for example profile = "huawei/sun2000"; `meterhouse profiles list` shows all profiles',
        ),
        label=table.take("label", p.label, ""),
        params=table.pairs("params", param_name, param),
        periods_ms=periods,
        phase_ms=table.take("phase", p.duration_ms(0, 86_400_000, "200 ms"), phase_ms),
        points=points or ("*",),
        roles=table.pairs("roles", prefix, role),
        parent=table.pairs("parent", prefix, node),
        ratio_ct=ct,
        ratio_pt=pt,
        reversed=_reversed(table),
        serial=table.take("serial", v.serial, ""),
        limits=read_limits(table),
        accuracy=read_classes(table, prefix),
    )
    table.done(_ELSEWHERE)
    return DeviceRead(entry, table, given_paces)


def _periods(table: TomlTable) -> tuple[tuple[int, ...], frozenset[str]]:
    """Return the period of each pace in ms, in the order of ``PACES``, and the paces that the table sets.

    A single duration sets the period of the normal pace.
    """
    periods = dict(DEFAULT_PERIODS_MS)
    found = table.find("every")
    if found is None:
        return tuple(periods.values()), frozenset()
    if isinstance(found[1], dict):
        inner = table.table("every")
        assert inner is not None
        for pace in PACES:
            periods[pace] = inner.take(pace, _PERIOD, periods[pace])
        inner.done()
        return tuple(periods[pace] for pace in PACES), frozenset(found[1]) & frozenset(PACES)
    periods["normal"] = table.take("every", _PERIOD, periods["normal"])
    return tuple(periods[pace] for pace in PACES), frozenset({"normal"})


def _reversed(table: TomlTable) -> frozenset[str]:
    """Return the reversed parts of the device; "" stands for the whole device.

    In the table, ``reversed = true`` means the whole device, and ``reversed = [...]`` lists parts.
    """
    found = table.find("reversed")
    if found is None:
        return frozenset()
    if isinstance(found[1], list):
        return frozenset(table.items("reversed", prefix) or ())
    return frozenset({""}) if table.take("reversed", p.boolean, False) else frozenset()


def _serial(
    device: DeviceConfig, line: LineRead, table: TomlTable, shared: dict[str, tuple[str, str, TomlTable]]
) -> None:
    """Complain if the device's ``serial`` has no effect, or differs from the setting of its serial server.

    The setting of the server is the setting of its line, or else that of the first device behind it.
    """
    entry = line.entry
    if not table.has("serial") or not entry.url:  # an invalid url is reported elsewhere
        return
    if not entry.carries_bytes:
        table.complain(
            None,
            "serial",
            f"has no effect, because the bus line {entry.name} uses {entry.scheme}",
            "The TCP gateway itself sets the serial parameters of its bus; leave this setting out",
        )
    elif entry.scheme in {"tcp", "udp"} and device.serial:
        own = (entry.serial, f"line {entry.name}", line.table) if line.table.has("serial") else None
        first = own or shared.setdefault(entry.name, (device.serial, f"device {device.name}", table))
        if first[0] != device.serial:
            what = (
                f"the setting here is {p.show(device.serial)}, but {first[1]} has {p.show(first[0])}: "
                "all devices of a serial server need the same setting"
            )
            table.complain(None, "serial", what, "Connect devices with another serial setting to another serial port")
