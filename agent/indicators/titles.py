"""Titles of metered quantities, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

from agent.roles import ROLES

Titles = Mapping[str, tuple[str, str]]

FLOW_TITLES: Titles = {
    "import": ("imported", "受入"),
    "export": ("exported", "送出"),
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

# what the trade calls otherwise than role and flow put together
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
    """A quantity ROLE.FLOW in both languages; a site's own roles keep their name."""
    role, _, flow = name.replace(".*.", ".").rpartition(".")
    if (known := QUANTITY_TITLES.get(f"{role}.{flow}")) is not None:
        return {"en": known[0], "zh": known[1]}
    found = ROLES.get(role, (role, role))
    way = FLOW_TITLES.get(flow, (flow, flow))
    return {"en": f"{found[0]}, {way[0]}", "zh": f"{found[1]}{way[1]}"}
