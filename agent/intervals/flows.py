"""Assigns a role to each point in the park: its part, the role of the part, and the flow (direction) of its amount.

A part is a prefix of point names that the configuration gives a role:
``roles = { "ac" = "generation.pv", "meter.ac" = "grid" }``. Only the main counters of a part count for the role,
because the counters of phases, tariffs and totals contain the same energy. The table lists roles, their flows, and the
counters of each flow. If a flow has several counters, the first one that exists counts:

    generation.*          generation   energy.generation, else energy.export
                          consumption  energy.import (what it takes at night)
    grid, direct          import, export
    storage               charge       energy.charge, else energy.import
                          discharge    energy.discharge, else energy.export
    load.*                consumption  energy.consumption, energy.import, energy.total, energy; feed: energy.export
    transformer, check    import, export
    heat.* cold.* steam   heat         energy, in GJ;  mass, volume beside it
    water.* gas           volume       volume.norm, else volume;  mass, heat
    all others            total, import, export, volume, mass as the point says
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

# unit of the device -> (unit of amounts, factor); heat is in ``_HEAT``
_THOUSANDTH, _ONE, _THOUSAND = Decimal("0.001"), Decimal(1), Decimal(1000)
_AMOUNTS: dict[str, tuple[str, Decimal]] = {
    "Wh": ("kWh", _THOUSANDTH), "kWh": ("kWh", _ONE), "MWh": ("kWh", _THOUSAND), "GWh": ("kWh", Decimal(10**6)),
    "varh": ("kvarh", _THOUSANDTH), "kvarh": ("kvarh", _ONE), "Mvarh": ("kvarh", _THOUSAND),
    "VAh": ("kVAh", _THOUSANDTH), "kVAh": ("kVAh", _ONE), "MVAh": ("kVAh", _THOUSAND),
    "J": ("GJ", Decimal("1e-9")), "kJ": ("GJ", Decimal("1e-6")), "MJ": ("GJ", _THOUSANDTH), "GJ": ("GJ", _ONE),
    "m3": ("m3", _ONE), "l": ("m3", _THOUSANDTH), "Nm3": ("Nm3", _ONE),
    "g": ("t", Decimal("1e-6")), "kg": ("t", _THOUSANDTH), "t": ("t", _ONE),
    "mAh": ("Ah", _THOUSANDTH), "Ah": ("Ah", _ONE), "kAh": ("Ah", _THOUSAND),
}  # fmt: skip
# Heat is kept in GJ, because kWh can be converted to GJ exactly, but GJ cannot be converted to kWh exactly.
_HEAT: dict[str, Decimal] = {
    "Wh": Decimal("3.6e-6"), "kWh": Decimal("0.0036"), "MWh": Decimal("3.6"), "GWh": Decimal(3600),
}  # fmt: skip
_POWER = {"W": Decimal("0.001"), "kW": Decimal(1), "MW": Decimal(1000), "GW": Decimal(10**6)}
_THERMAL = frozenset({"heat", "cool", "cold", "steam", "gas"})

_ROLE_FLOWS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "generation": (("generation", ("energy.generation", "energy.export")), ("consumption", ("energy.import",))),
    "grid": (("import", ("energy.import",)), ("export", ("energy.export",))),
    "direct": (("import", ("energy.import",)), ("export", ("energy.export",))),
    "storage": (
        ("charge", ("energy.charge", "energy.import")),
        ("discharge", ("energy.discharge", "energy.export")),
    ),
    "load": (
        ("consumption", ("energy.consumption", "energy.import", "energy.total", "energy")),
        ("feed", ("energy.export",)),
    ),
    "transformer": (("import", ("energy.import",)), ("export", ("energy.export",))),
    "check": (("import", ("energy.import",)), ("export", ("energy.export",))),
    "water": (("volume", ("volume",)), ("mass", ("mass",))),
    "gas": (("volume", ("volume.norm", "volume")), ("heat", ("energy",))),
    "steam": (("mass", ("mass",)), ("heat", ("energy",)), ("volume", ("volume",))),
}
_OTHER_FLOWS = (
    ("heat", ("energy", "energy.heat")), ("total", ("energy.total",)), ("import", ("energy.import",)),
    ("export", ("energy.export",)), ("volume", ("volume.norm", "volume")), ("mass", ("mass",)),
)  # fmt: skip
# If a part has no counter, its power gives the amounts: (flow of the power above zero, flow of the power below zero).
_POWER_FLOWS: Mapping[str, tuple[str, str]] = {
    "generation": ("generation", "consumption"),
    "storage": ("charge", "discharge"),
    "load": ("consumption", "feed"),
}
# the first of these that a part has is its main power
_POWERS = ("power.active", "power.generation", "power.consumption", "power")


@dataclass(frozen=True, slots=True)
class PointRole:
    """The role of one point: its part, role, parent in the tree, and the flow of its amount.

    ``flow`` is "" if the point is not a main counter of its part.
    """

    part: str
    role: str
    parent: str
    flow: str


def part_of(point: str, parts: Iterable[str]) -> str | None:
    """Return the longest of ``parts`` that is a prefix of ``point``; None if no part is.

    "" is a prefix of every point.
    """
    found = [part for part in parts if not part or point == part or point.startswith(part + ".")]
    return max(found, key=len, default=None)


def of_part(point: str, values: Mapping[str, str]) -> str:
    """Return the value that ``values`` has for the part of a point; "" if it has none."""
    part = part_of(point, values)
    return "" if part is None else values[part]


def _rest(point: str, part: str) -> str:
    """Return a point without its part and a domain such as ``ac``: ``energy.import`` of ``meter.ac.energy.import``."""
    rest = point[len(part) + 1 :] if part else point
    while rest and rest.split(".")[0] not in {"energy", "volume", "mass", "power", "charge", "discharge"}:
        rest = rest.partition(".")[2]
    return rest


def point_roles(points: Sequence[str], roles: Mapping[str, str], parents: Mapping[str, str]) -> dict[str, PointRole]:
    """Return the role of each counter among ``points``."""
    out: dict[str, PointRole] = {}
    by_part: dict[str, list[str]] = {}
    for point in points:
        part = part_of(point, roles)
        by_part.setdefault("" if part is None else part, []).append(point)
        if part is None:
            out[point] = PointRole("", "", of_part(point, parents), "")
    for part, members in by_part.items():
        role = roles.get(part)
        if role is None:
            continue
        taken: dict[str, str] = {}
        for flow, wanted in flows_of(role):
            for name in wanted:
                # If several domains of a part (ac and dc) have this counter, the one with the shortest name belongs to
                # the part itself.
                mine = sorted((p for p in members if _rest(p, part) == name and p not in taken), key=len)
                if mine:
                    taken[mine[0]] = flow
                    break
        for point in members:
            out[point] = PointRole(part, role, of_part(point, parents), taken.get(point, ""))
    return out


def flows_of(role: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the flows of a role: (flow, names of the counters that can give it, the best one first)."""
    return _ROLE_FLOWS.get(role) or _ROLE_FLOWS.get(role.partition(".")[0]) or _OTHER_FLOWS


def power_flows(role: str) -> tuple[str, str]:
    """Return two flows of a power in a part without counters: the flow above zero, and the flow below zero."""
    return _POWER_FLOWS.get(role.partition(".")[0], ("import", "export"))


def main_power(members: Sequence[str], part: str) -> str | None:
    """Return the power point of a part; None if it has none. It gives the demand, and replaces a missing counter."""
    for name in _POWERS:
        mine = sorted((p for p in members if _rest(p, part) == name), key=len)
        if mine:
            return mine[0]
    return None


def is_thermal(point: str) -> bool:
    """Return True if the energy of this point is heat or cold, which is kept in GJ."""
    return not _THERMAL.isdisjoint(point.split("."))


def amount_unit(point: str, unit: str) -> tuple[str, Decimal]:
    """Return the unit of amounts (kWh, GJ for heat, m3, t and so on) and the factor from the device's unit.

    A unit that is not in the tables stays as it is.
    """
    if unit in _HEAT and is_thermal(point):
        return "GJ", _HEAT[unit]
    return _AMOUNTS.get(unit, (unit, Decimal(1)))


def gauge_unit(unit: str) -> tuple[str, Decimal]:
    """Return the unit of a gauge and the factor from the device's unit.

    Powers are in kW; other units stay as they are.
    """
    return ("kW", _POWER[unit]) if unit in _POWER else (unit, Decimal(1))


def power_amount(point: str, unit: str, area: Decimal) -> tuple[str, Decimal]:
    """Return the unit and amount of an integrated power. ``area`` is in ``unit`` times ms.

    The amount is rounded: kWh to 6 decimal places, GJ to 9.
    """
    kilowatts = area * _POWER[unit]
    if is_thermal(point):
        return "GJ", (kilowatts / 10**9).quantize(Decimal("1e-9"))
    return "kWh", (kilowatts / 3_600_000).quantize(Decimal("1e-6"))
