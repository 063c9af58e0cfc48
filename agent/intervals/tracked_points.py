"""Decides from the table of a birth which points of a stream are tracked, and how. A verifier gets the same result.

The tracked points are:
- all counters
- the power of each part with a role: its lowest, highest and mean value, its demand, and, if the part has no counter,
  its integral
- flow and temperatures of a thermal part without a heat counter
- the state of charge of a storage
- the points from which a derived heat is computed
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from agent.intervals.flows import amount_unit, main_power, of_part, part_of, point_roles, power_flows
from agent.intervals.page_format import Column, PageSchema
from drivers.model import FLOATS
from drivers.registry import find_protocol

COUNTER_PLACES, GAUGE_PLACES = 3, 6  # number of decimals that are kept of a float
# value of one count of a point that is read by a key, if the point has no scale and the protocol no resolution
KEY_RESOLUTION = Decimal("0.001")
DEMAND_ROLES = frozenset({"grid", "direct", "load", "transformer", "check", "storage"})
DEMAND_FLOWS = frozenset({"import", "export", "consumption", "charge", "discharge"})
HEAT_PLACES = 6
HEAT_POWER = "power.derived"  # the name of each heat flow that the agent computes ends with this text


@dataclass(frozen=True, slots=True)
class Rule:
    """The settings of ``[interval]``."""

    max_gap_ms: int = 300_000
    period_ms: int = 900_000  # length of the windows for demands
    slip_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class TrackedPoint:
    """A slot of the kernel.

    It holds a point, or a value that is computed from three other slots (``point`` is None).
    """

    column: Column
    point: int | None  # number of the point in the table
    period_ms: int
    phase_ms: int
    resolution: int = 1
    modulus: int = 0
    demand: bool = False
    heat: tuple[int, int, int] | None = None  # the slots of flow, supply and return from which the heat is computed


@dataclass(frozen=True, slots=True)
class TrackedPoints:
    """All slots of a table; they are in the order of the columns."""

    shape: PageSchema
    slots: tuple[TrackedPoint, ...]

    @property
    def slowest_ms(self) -> int:
        """The longest period of a counter in ms; 0: there is no counter."""
        return max((w.period_ms for w in self.slots if w.column.kind == "counter"), default=0)


def track(table: Mapping[str, Any], rule: Rule) -> TrackedPoints:
    """Return the tracked points of a birth's ``table``."""
    device, points = table.get("device") or {}, table.get("points") or []
    roles, parents = dict(device.get("roles") or {}), dict(device.get("parent") or {})
    epoch, ratio = str(table.get("epoch", "")), _ratio(device)
    classes = dict(device.get("class") or {})
    numeric = {p["n"]: n for n, p in enumerate(points) if p["kind"] in ("counter", "gauge")}
    counters = [p["n"] for p in points if p["kind"] == "counter"]
    stand = point_roles(counters, roles, parents)
    configured = [one for one in device.get("derived") or () if "heat" in one]
    heat_flows = {one["heat"]["flow"] for one in configured}
    slots: list[TrackedPoint] = []
    for name in counters:
        place = stand[name]
        resolution = _resolution(points[numeric[name]], ratio, device.get("protocol"))
        exponent = _exponent(points[numeric[name]], resolution, COUNTER_PLACES)
        count = max(1, int(resolution.scaleb(-exponent)))
        column = Column(
            name,
            "counter",
            _unit(points[numeric[name]]),
            exponent,
            place.part,
            place.role,
            place.parent,
            place.flow,
            epoch,
            count,
            of_part(name, classes),
        )
        demand = place.role.partition(".")[0] in DEMAND_ROLES and place.flow in DEMAND_FLOWS
        demand = demand and amount_unit(name, column.unit)[0] == "kWh"
        period, phase = _grid(points[numeric[name]])
        modulus = _modulus(points[numeric[name]], count)
        slots.append(TrackedPoint(column, numeric[name], period, phase, count, modulus, demand))
    beside: dict[str, list[str]] = {}  # by part: the points that are not counters
    for name in numeric:
        if name not in stand and (part_here := part_of(name, roles)) is not None:
            beside.setdefault(part_here, []).append(name)
    for part, role in roles.items():
        members = beside.get(part, [])
        flows = {w.column.flow for w in slots if w.column.part == part and w.column.flow}
        slots += _gauges(points, numeric, members, _Part(part, role, parents, epoch, flows), len(slots), heat_flows)
    for one in configured:
        _configured(one, points, numeric, slots, epoch)
    period = rule.period_ms if any(w.demand for w in slots) else 0
    return TrackedPoints(
        PageSchema(tuple(w.column for w in slots), period, rule.slip_ms if period else 0), tuple(slots)
    )


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    role: str
    parents: Mapping[str, str]
    epoch: str
    flows: set[str]  # flows of the part that its counters measure


def _gauge(
    points: Sequence[Mapping[str, Any]],
    number: int,
    epoch: str,
    front: tuple[str, str, str, str] = ("", "", "", ""),
    demand: bool = False,
) -> TrackedPoint:
    """Return the slot of a gauge. ``front``: its part, role, parent and flow."""
    point = points[number]
    exponent = _exponent(point, _resolution(point, Decimal(1), None), GAUGE_PLACES)
    return TrackedPoint(
        Column(point["n"], "gauge", _unit(point), exponent, *front, epoch), number, *_grid(point), demand=demand
    )


def _gauges(
    points: Sequence[Mapping[str, Any]],
    numeric: Mapping[str, int],
    members: list[str],
    part: _Part,
    base: int,
    heat_flows: Collection[str],
) -> list[TrackedPoint]:
    """Return the slots of a part's gauges.

    ``heat_flows``: the flows from which the configuration derives heat. The agent then computes no other heat from
    them.
    """
    found: list[TrackedPoint] = []

    def add(name: str, flow: str = "", demand: bool = False) -> int:
        front = part.name, part.role, of_part(name, part.parents), flow
        found.append(_gauge(points, numeric[name], part.epoch, front, demand))
        return base + len(found) - 1

    power = main_power(members, part.name)
    if power is not None and _unit(points[numeric[power]]) in ("W", "kW", "MW"):
        wanted = [flow for flow in power_flows(part.role) if flow not in part.flows]
        has_energy = bool(part.flows - {"volume", "mass"})
        flow = "" if has_energy else ",".join(wanted)
        add(power, flow, not has_energy and part.role.partition(".")[0] in DEMAND_ROLES)
        part.flows.update(wanted if not has_energy else ())
    elif part.role.partition(".")[0] in ("heat", "cold") and "heat" not in part.flows:
        found += _heat([name for name in members if name not in heat_flows], part, add, base, found)
    for name in members:
        if part.role == "storage" and name.endswith("battery.soc"):
            add(name)
    return found


def _heat(members: list[str], part: _Part, add: Any, base: int, found: list[TrackedPoint]) -> list[TrackedPoint]:
    """Return the slots for flow and temperatures of a part without a heat counter, and for the computed heat flow."""
    for name in sorted(members, key=len):
        front, _, last = name.rpartition(".")
        supply, back = f"{front}.temperature.supply", f"{front}.temperature.return"
        if last != "flow" or supply not in members or back not in members:
            continue
        three = (add(name), add(supply), add(back))
        unit = found[three[0] - base].column.unit
        if unit not in FLOW_SECONDS:
            return []
        derived = f"{front}.{HEAT_POWER}"
        column = Column(derived, "gauge", "kW", -HEAT_PLACES, part.name, part.role, "", "heat", part.epoch)
        period = max(found[n - base].period_ms for n in three)
        return [TrackedPoint(column, None, period, 0, heat=three)]
    return []


def heat_point(name: str) -> str:
    """Return the column name of a heat that is derived by configuration. No device has a point with this name."""
    return f"heat.derived.{name}"


def _configured(
    one: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    numeric: Mapping[str, int],
    slots: list[TrackedPoint],
    epoch: str,
) -> None:
    """Add the slots of a ``[[derived]]`` heat.

    Adds no slot for the heat if the device lacks one of the points, or if the unit of the flow is unknown.
    """
    three = []
    for key in ("flow", "supply", "return"):
        name = one["heat"][key]
        if name not in numeric:
            return
        found = next((n for n, w in enumerate(slots) if w.column.point == name and w.column.kind == "gauge"), None)
        if found is None:
            slots.append(_gauge(points, numeric[name], epoch))
            found = len(slots) - 1
        three.append(found)
    if slots[three[0]].column.unit not in FLOW_SECONDS:
        return
    name, role = heat_point(one["n"]), one.get("role", "")
    column = Column(name, "gauge", "kW", -HEAT_PLACES, role=role, flow="heat", epoch=epoch)
    period = max(slots[n].period_ms for n in three)
    slots.append(TrackedPoint(column, None, period, 0, heat=(three[0], three[1], three[2])))


# what one unit of flow is in m3/s, as a fraction (numerator, denominator)
FLOW_SECONDS: Mapping[str, tuple[int, int]] = {
    "m3/h": (1, 3600), "l/h": (1, 3_600_000), "m3/s": (1, 1), "l/s": (1, 1000), "l/min": (1, 60_000), "m3/min": (1, 60),
}  # fmt: skip


def _unit(point: Mapping[str, Any]) -> str:
    return str(point.get("u") or point.get("du") or "")


def _grid(point: Mapping[str, Any]) -> tuple[int, int]:
    """Return (period, phase) in ms. The period is 0 if the point has none."""
    period, phase = (Decimal(str(point.get(name) or 0)) * 1000 for name in ("period", "phase"))
    return round(period), round(phase)


def _ratio(device: Mapping[str, Any]) -> Decimal:
    ratio = device.get("ratio") or {}
    return _decimal(ratio.get("ct"), Decimal(1)) * _decimal(ratio.get("pt"), Decimal(1))


def _decimal(text: Any, default: Decimal) -> Decimal:
    try:
        found = Decimal(str(text)) if text is not None else default
    except InvalidOperation:
        return default
    return found if found.is_finite() and found > 0 else default


def _resolution(point: Mapping[str, Any], ratio: Decimal, protocol: str | None) -> Decimal:
    """Return the value of one count, in the point's unit.

    For a point without a scale, it is 0.001 if the value is a float. If the point is read by a key, it is the
    resolution of the protocol. Otherwise it is 1.
    """
    source = point.get("source") or {}
    scales = [_decimal(part.get("scale"), Decimal(1)) for part in source.get("parts") or ()]
    if scales:
        found = min(scales)
    elif "key" in source:
        found = _decimal(source.get("scale"), _key_resolution(protocol or ""))
    elif source.get("type") in FLOATS:
        found = Decimal("0.001")
    else:
        found = _decimal(source.get("scale"), Decimal(1))
    return found * ratio if point.get("ratio") == "apply" else found


def _key_resolution(protocol: str) -> Decimal:
    found = find_protocol(protocol)
    return KEY_RESOLUTION if found is None or found.resolution is None else found.resolution


def _exponent(point: Mapping[str, Any], resolution: Decimal, places: int) -> int:
    """Return the exponent of ten with which values are stored. It is fine enough for the counts of the device."""
    if (point.get("source") or {}).get("type") in FLOATS:
        return -places
    return max(-9, min(0, int(resolution.normalize().as_tuple().exponent)))


def _modulus(point: Mapping[str, Any], count: int) -> int:
    """Return the stored value at which a counter rolls over to 0; 0 if it is unknown."""
    if point.get("bits"):
        found = (1 << int(point["bits"])) * count
    elif point.get("digits"):
        found = 10 ** int(point["digits"]) * count
    else:
        return 0
    return found if found < 1 << 53 else 0
