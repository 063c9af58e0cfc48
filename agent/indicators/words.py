"""What roles and flows are called, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

Words = Mapping[str, tuple[str, str]]

ROLES: Words = {
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
    "transformer": ("Transformer", "变压器"),
    "check": ("Check meter", "校核表"),
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
}
FLOWS: Words = {
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
NAMES: Words = {
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
    if (known := NAMES.get(f"{role}.{flow}")) is not None:
        return {"en": known[0], "zh": known[1]}
    found = ROLES.get(role, (role, role))
    way = FLOWS.get(flow, (flow, flow))
    return {"en": f"{found[0]}, {way[0]}", "zh": f"{found[1]}{way[1]}"}
