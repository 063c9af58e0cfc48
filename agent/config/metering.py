"""Reads the metering tree, the accuracy classes and the derived points from the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from agent.config import parsers as v
from agent.config.lines import is_first, place_of
from agent.config.tree import ConfigWarning, DerivedConfig, DeviceConfig
from agent.intervals.balance import ACCURACY_EXAMPLES, accuracy_limit
from agent.roles import ROLES
from drivers.model import ProfileError
from drivers.toml import TomlTable
from drivers.toml import parsers as p

if TYPE_CHECKING:
    from agent.config.devices import DeviceRead
    from agent.config.profiles import ProfileSource

NODE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}(/[a-z0-9][a-z0-9._-]{0,99})?\Z")
_TERM = re.compile(r"([+-]?)([a-z0-9][a-z0-9-]{0,62})/([a-z0-9][a-z0-9._-]{0,199})\Z")
HEAT_ROLES = tuple(role for role in ROLES if role.partition(".")[0] in ("heat", "cold"))
MAX_TERMS = 256

node = p.matching(
    NODE, "a place in the metering tree", 'Write for example "main-meter", "board-2/circuit.3" or "transformer-1"'
)


def accuracy(value: object) -> str:
    """Parse an accuracy class as printed on the meter."""
    out = p.text(value)
    if accuracy_limit(out) is None:
        raise p.InvalidValue(f"{p.show(value)} is not an accuracy class", f"Write for example {ACCURACY_EXAMPLES}")
    return out


def read_classes(table: TomlTable, prefix: Callable[[object], str]) -> dict[str, str]:
    """Return the accuracy class of each part; the part "" is the whole device.

    ``class = "0.5S"`` sets the class of the whole device; a table sets classes of parts.
    """
    found = table.find("class")
    if found is None:
        return {}
    if isinstance(found[1], dict):
        return table.pairs("class", prefix, accuracy)
    class_name = table.take("class", accuracy, "")
    return {"": class_name} if class_name else {}


# --- the metering tree


def check_tree(devices: Sequence[DeviceRead], notes: list[ConfigWarning]) -> None:
    """Complain about unknown or ambiguous parents and about cycles. Add a note if figures would count a load twice."""
    entries = {device.entry.name: device for device in devices}
    up: dict[str, tuple[str, DeviceRead, str]] = {}
    for device in devices:
        for part, parent in device.entry.parent.items():
            name, _, inner = parent.partition("/")
            key = f"parent.{part}" if part else "parent"
            other = entries.get(name)
            if other is not None and not inner and len(other.entry.roles) > 1:
                choices = ", ".join(f'"{name}/{one}"' for one in other.entry.roles if one)
                what = (
                    f"the device {name} has roles for several parts, so its name alone does not say which part is meant"
                )
                device.table.complain(None, key, what, f"Write one of these parts: {choices}")
            elif inner and (other is None or inner not in other.entry.roles):
                what = (
                    f"device {name} has no role for its part {p.show(inner)}"
                    if other
                    else f"there is no device {p.show(name)}"
                )
                device.table.complain(
                    None, key, what, "Write a meter of the tree as DEVICE, or as DEVICE/PART if this part has a role"
                )
            up[_place(device.entry, part)] = (_resolved(parent, entries), device, key)
    for place, (_, device, key) in up.items():
        seen, at = [place], place
        while at in up and up[at][0] not in seen:
            at = up[at][0]
            seen.append(at)
        if at in up and up[at][0] == place:
            device.table.complain(
                None,
                key,
                f"this parent forms a cycle: {' > '.join([*seen, place])}",
                "In the metering tree, a meter cannot be below itself",
            )
        elif _is_load(place, entries) and (above := next((one for one in seen[1:] if _is_load(one, entries)), "")):
            what = (
                f"in the metering tree, the load {place} is below the load {above}, so the park's figures count the "
                f"energy of {place} twice"
            )
            hint = f'Give {place} a custom role, such as "x.{place.partition("/")[0]}", or remove the role of {above}'
            notes.append(ConfigWarning(place_of(device.table, key), what, hint))


def _place(entry: DeviceConfig, part: str) -> str:
    return f"{entry.name}/{part}" if part and (len(entry.roles) != 1 or part not in entry.roles) else entry.name


def _resolved(parent: str, entries: Mapping[str, DeviceRead]) -> str:
    name, _, part = parent.partition("/")
    return _place(entries[name].entry, part) if name in entries else parent


def _is_load(place: str, entries: Mapping[str, DeviceRead]) -> bool:
    name, _, part = place.partition("/")
    roles = entries[name].entry.roles if name in entries else {}
    role = roles.get(part) if part else next(iter(roles.values()), "")
    return (role or "").partition(".")[0] == "load"


# --- derived points


def read_derived(
    tables: Sequence[TomlTable], devices: Sequence[DeviceConfig], profiles: ProfileSource, notes: list[ConfigWarning]
) -> tuple[DerivedConfig, ...]:
    """Read all ``[[derived]]`` tables.

    Each defines a sum of counters, or a heat computed from flow and temperatures. ``notes`` receives warnings about
    points that the agent does not read.
    """
    known = {device.name: device for device in devices}
    names: dict[str, TomlTable] = {}
    out = []
    for table in tables:
        name = table.need("name", v.name, "", 'Add this key, for example name = "hall-2"')
        points = _Points(table, known, profiles)
        sums, heats = table.has("sum"), table.has("heat")
        if sums == heats:
            neither, both = 'has neither the key "sum" nor the key "heat"', 'has both the key "sum" and the key "heat"'
            table.complain(None, "", both if sums else neither, _HOW)
        terms = _terms(table, points) if sums else ()
        heat = _heat(table, points) if heats else ("", "", "", "")
        for device, point in dict.fromkeys(points.unread):
            what = f"the point {point} of {device} is not read, so this derived point gets no values"
            hint = f'Add {point} to the key "points" of the device {device}'
            notes.append(ConfigWarning(place_of(table, "sum" if sums else "heat"), what, hint))
        role = table.take("role", _heat_role, "")
        if role and not heats:
            table.complain(
                None,
                "role",
                "has no effect on a sum",
                "To use this sum in the park's figures, write a formula in the park's plan",
            )
        table.done({"formula": _HOW, "points": _HOW})
        if is_first(names, table, name):
            out.append(DerivedConfig(name, terms, *heat, role))
    return tuple(out)


_HOW = (
    'Write sum = ["meter-1/ac.energy.import", "-meter-2/ac.energy.import"] with counters, or '
    'heat = { device = "plc1", flow = POINT, supply = POINT, return = POINT } with gauges'
)


def _heat_role(value: object) -> str:
    out = p.text(value)
    if out not in HEAT_ROLES:
        raise p.InvalidValue(
            f"{p.show(value)} is not a valid role for heating or cooling energy", p.did_you_mean(out, HEAT_ROLES)
        )
    return out


def _terms(table: TomlTable, points: _Points) -> tuple[tuple[int, str, str], ...]:
    def term(value: object) -> tuple[int, str, str]:
        found = _TERM.match(p.text(value))
        if not found:
            raise p.InvalidValue(
                f"{p.show(value)} is not a term of a sum",
                'Write for example "meter-1/ac.energy.import", or "-meter-1/ac.energy.import" to subtract',
            )
        points.need(found[2], found[3], "counter")
        return (-1 if found[1] == "-" else 1), found[2], found[3]

    terms = table.items("sum", term) or ()
    if not 1 <= len(terms) <= MAX_TERMS and not table.complaints.items:
        table.complain(None, "sum", f"has {len(terms)} terms", f"Write at least 1 and at most {MAX_TERMS} terms")
    units = {points.unit(device, point) for _, device, point in terms}
    if len(units) > 1:
        table.complain(None, "sum", f"adds {' to '.join(sorted(units))}", "All terms of a sum must have the same unit")
    return terms


def _heat(table: TomlTable, points: _Points) -> tuple[str, str, str, str]:
    inner = table.table("heat")
    if inner is None:
        return "", "", "", ""
    hint = "Write the name of the device that measures the volume flow and the supply and return temperatures"
    device = inner.need("device", v.name, "", hint)

    def point(value: object) -> str:
        out = p.text(value)
        points.need(device, out, "gauge")
        return out

    hint = 'Write a point of the device for each of the keys "flow" (volume flow), "supply" and "return" (temperatures)'
    three = [inner.need(key, point, "", hint) for key in _THREE]
    inner.done()
    return device, three[0], three[1], three[2]


_THREE = ("flow", "supply", "return")


class _Points:
    """Looks up points of devices, to check one ``[[derived]]`` table."""

    def __init__(self, table: TomlTable, devices: Mapping[str, DeviceConfig], profiles: ProfileSource) -> None:
        self._table, self._devices, self._profiles = table, devices, profiles
        self.unread: list[tuple[str, str]] = []  # (device, point) that the key ``points`` of the device leaves out

    def _of(self, device: str) -> Mapping[str, tuple[str, str]]:
        """Return point name -> (kind, unit), for the points of a device."""
        entry = self._devices[device]
        try:
            resolved = self._profiles(entry.profile).resolve(entry.params)
        except ProfileError:  # another check reports this error
            return {}
        return {point.name: (point.kind.value, point.unit) for point in resolved.points}

    def need(self, device: str, point: str, kind: str) -> None:
        """Raise InvalidValue if the device or the point is unknown, or if the point has another kind."""
        if device not in self._devices:
            raise p.InvalidValue(f"there is no device {p.show(device)}", p.did_you_mean(device, self._devices))
        found = self._of(device)
        if found and point not in found:
            fitting = [name for name, (mine, _) in found.items() if mine == kind]
            raise p.InvalidValue(
                f"{device} has no point {p.show(point)}", p.did_you_mean(point, fitting, f"Its {kind}s")
            )
        if found and found[point][0] != kind:
            raise p.InvalidValue(f"the point {point} is a {found[point][0]}, not a {kind}", _HOW)
        if found and not self._is_read(self._devices[device], point):
            self.unread.append((device, point))

    def _is_read(self, device: DeviceConfig, point: str) -> bool:
        profile = self._profiles(device.profile)
        # these points are read in any case
        always = [profile.fresh.point] if profile.fresh is not None else []
        always += [glob for rule in profile.impossible for glob in rule.zeros_together]
        return any(fnmatchcase(point, glob) for glob in (*device.points, *always))

    def unit(self, device: str, point: str) -> str:
        """Return the unit of amounts that are computed from a point. For example, a power in kW gives kWh."""
        from agent.intervals.flows import amount_unit

        return amount_unit(point, self._of(device).get(point, ("", ""))[1])[0]
