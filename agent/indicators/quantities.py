"""The metered quantities that a formula may name, and their titles.

A name is ROLE.FLOW, where ROLE is the role of a meter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from agent.indicators.units import Dimension, parse_unit
from agent.intervals.flows import flows_of
from agent.roles import METERED_ROLES, ROLES
from drivers.toml import nearest

# The unit of each flow, which is the last word of a name. `demand` is a power: the highest one in a period.
FLOWS: Final[Mapping[str, str]] = {
    "import": "kWh",
    "export": "kWh",
    "energy": "kWh",
    "charge": "kWh",
    "discharge": "kWh",
    "volume": "m3",
    "normal": "Nm3",
    "mass": "t",
    "demand": "kW",
}
_ROLE = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*(?:\.\*)?")
_ENERGIES = frozenset({"generation", "consumption", "heat", "total", "import"})
_DEMANDS = frozenset({"import", "charge", "consumption"})


class Unknown(ValueError):
    """The name of a quantity is invalid. The text of the error suggests the nearest valid name."""


def near(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the most similar known name; "" if no name is similar."""
    found = nearest(name, known)
    return f" (did you mean {found}?)" if found else ""


def dimension_of(name: str, others: Iterable[str] = ()) -> Dimension:
    """Return the dimension of a metered quantity. Raises Unknown if there is no metered quantity ``name``.

    Args:
        others: other names that the author may have meant, such as terms and inputs; the hint may suggest one of them.
    """
    role, _, flow = name.rpartition(".")
    if not _ROLE.fullmatch(role) or role.partition(".")[0] in ("declared", "factor", "period"):
        hint = near(name, [*others, *_all()])
        raise Unknown(f"{name} is unknown{hint}; a metered quantity is ROLE.FLOW with FLOW of {', '.join(FLOWS)}")
    front = role.removesuffix(".*")
    if not front.startswith("x.") and front not in METERED_ROLES:
        hint = near(name, [*others, *_all()]) or near(front, METERED_ROLES)
        raise Unknown(f"{name}: unknown role {role}{hint}; site-specific roles begin with `x.`")
    allowed = _flows(front)
    if flow not in allowed:
        raise Unknown(f"{name} is unknown{near(flow, allowed)}; {role} has {', '.join(allowed)}")
    return parse_unit(FLOWS[flow]).dimension


def _flows(role: str) -> list[str]:
    """Return the flows that a role can have."""
    if role.startswith("x."):
        return list(FLOWS)
    has = {flow for flow, _ in flows_of(role)}
    if has & _ENERGIES:
        has.add("energy")
    if has & _DEMANDS:
        has.add("demand")
    if "volume" in has and role == "gas":
        has.add("normal")
    return [flow for flow in FLOWS if flow in has]


def _all() -> list[str]:
    return [f"{role}.{flow}" for role in METERED_ROLES for flow in _flows(role)]


# --- titles, in English and Chinese

Titles = Mapping[str, tuple[str, str]]

FLOW_TITLES: Titles = {
    "import": ("imported", "正向"),
    "export": ("exported", "反向"),
    "generation": ("generated", "发电量"),
    "consumption": ("consumed", "用量"),
    "feed": ("fed back", "反送"),
    "energy": ("energy", "能量"),
    "heat": ("heat", "热量"),
    "charge": ("charged", "充电"),
    "discharge": ("discharged", "放电"),
    "volume": ("volume", "体积"),
    "normal": ("volume (standard)", "体积（标况）"),
    "mass": ("mass", "质量"),
    "demand": ("demand", "需量"),
    "total": ("total", "合计"),
}

# quantities whose usual title is not just the title of the role followed by the title of the flow
QUANTITY_TITLES: Titles = {
    "grid.import": ("Grid, imported", "网购电量"),
    "grid.export": ("Grid, exported", "上网电量"),
    "direct.import": ("Direct line, imported", "绿电直连电量"),
    "generation.energy": ("Generation, energy", "总发电量"),
    "generation.pv.energy": ("Photovoltaics, energy", "光伏发电量"),
    "generation.wind.energy": ("Wind, energy", "风力发电量"),
    "generation.hydro.energy": ("Hydro, energy", "水力发电量"),
}


def title_of(name: str) -> dict[str, str]:
    """Return the title of ROLE.FLOW in both languages.

    For a site's own role, the title contains the name of the role.
    """
    role, _, flow = name.replace(".*.", ".").rpartition(".")
    if (known := QUANTITY_TITLES.get(f"{role}.{flow}")) is not None:
        return {"en": known[0], "zh": known[1]}
    found = ROLES.get(role, (role, role))
    way = FLOW_TITLES.get(flow, (flow, flow))
    return {"en": f"{found[0]}, {way[0]}", "zh": f"{found[1]}{way[1]}"}
