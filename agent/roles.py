"""The roles of meters in the park, with their titles. A site may define more roles, whose names start with "x."."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

# role -> its title in English and in Chinese
ROLES: Final[Mapping[str, tuple[str, str]]] = {
    "generation.pv": ("Photovoltaics", "光伏"),
    "generation.wind": ("Wind", "风电"),
    "generation.hydro": ("Hydro", "水电"),
    "generation.chp": ("Combined heat and power", "热电联产"),
    "generation": ("Generation", "发电"),
    "grid": ("Grid", "电网"),
    "direct": ("Direct line", "绿电直连"),
    "storage": ("Storage", "储能"),
    "load": ("Load", "负荷"),
    "load.charging": ("Vehicle charging", "充电桩"),
    "transformer": ("Transformer", "变压器"),  # a submeter at a transformer, a feeder or a board
    "check": ("Check meter", "校核表"),  # a second meter that measures what its parent measures
    "heat.available": ("Residual heat available", "可利用余热"),
    "heat.recovered": ("Residual heat used", "已利用余热"),
    "heat.supplied": ("Heat bought", "外购热力"),
    "heat.sold": ("Heat sold", "外供热力"),
    "heat.load": ("Heat load", "热负荷"),
    "cold.available": ("Residual cold available", "可利用余冷"),
    "cold.recovered": ("Residual cold used", "已利用余冷"),
    "cold.load": ("Cold load", "冷负荷"),
    "pressure.available": ("Residual pressure available", "可利用余压"),
    "pressure.recovered": ("Residual pressure used", "已利用余压"),
    "water.fresh": ("Fresh water", "新鲜水"),
    "water.reused": ("Reused water", "回用水"),
    "water.waste": ("Waste water", "废水"),
    "gas": ("Gas", "燃气"),
    "steam": ("Steam", "蒸汽"),
    "weather": ("Weather", "气象"),
}
# the roles whose meters measure an amount, such as energy or water
METERED_ROLES: Final = tuple(role for role in ROLES if role != "weather")

# what a meter can measure -> segments of point names that say so
_SEGMENTS: Final[Mapping[str, frozenset[str]]] = {
    "electricity": frozenset({"ac", "dc", "battery", "load", "grid", "backup", "pv"}),
    "heat or cold": frozenset({"heat", "heatpump", "boiler", "cool", "cold", "chiller"}),
    "steam": frozenset({"steam"}),
    "water": frozenset({"water"}),
    "gas": frozenset({"gas"}),
    "compressed air": frozenset({"air"}),
}
# First word of a role -> what its meter can measure. Steam is often measured by a heat meter, and what is recovered
# from heat, cold or pressure often as the electricity that it generates. Roles that are missing here fit every meter.
_MEASURED: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("generation", "grid", "direct", "storage", "load", "transformer"), frozenset({"electricity"})),
    "heat": frozenset({"heat or cold", "steam"}),
    "cold": frozenset({"heat or cold"}),
    "steam": frozenset({"steam", "heat or cold"}),
    "water": frozenset({"water"}),
    "gas": frozenset({"gas"}),
    "weather": frozenset(),
}
_RECOVERED: Final = ("available", "recovered")


def measured_by(points: Iterable[str]) -> frozenset[str]:
    """Return what a meter with these points measures; empty if the names of its points do not say this."""
    first = (next((segment for segment in name.split(".") if segment in _ALL), None) for name in points)
    return frozenset(_ALL[segment] for segment in first if segment is not None)


def fits(role: str, measured: frozenset[str]) -> bool:
    """Return True if a meter that measures this can have the role. A role of the site's own fits every meter."""
    head, _, tail = role.partition(".")
    if not measured or head not in _MEASURED or (tail in _RECOVERED and "electricity" in measured):
        return True
    return not measured.isdisjoint(_MEASURED[head])


_ALL: Final = {segment: what for what, segments in _SEGMENTS.items() for segment in segments}
