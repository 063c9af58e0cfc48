"""The descriptions of the devices in the demo park."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ParkSlot:
    """The description of one device in a park: its line, its profile, and the part of the park that it shows."""

    name: str
    label: str
    line: str
    unit: int
    profile: str
    role: str
    roles: Mapping[str, str]  # for agent.toml: part of the device -> role of this part
    parent: Mapping[str, str] = field(default_factory=dict)  # for agent.toml: part of the device -> its parent
    params: Mapping[str, int | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    # the address of a meter, which has no unit number; its ``unit`` then only gives its place in the order of meters
    address: str = ""
    baud: int | None = None  # the device's own speed in baud, if the line has several speeds
    every: Mapping[str, str] = field(default_factory=dict)  # for agent.toml: pace -> period of reading
    points: Sequence[str] = ()  # for agent.toml: the points to read; empty: all points


# Counters are read every ten seconds, because the figures of an interval become final only after twice the slowest
# period of a counter. The SUN2000 has a longer period for fast points, because its first visit takes three seconds: it
# answers slowly and needs a pause after connecting.
BRISK = {"fast": "2 s", "normal": "10 s", "slow": "10 s"}
CABINETS: tuple[ParkSlot, ...] = (
    ParkSlot(
        "inv1",
        "1#车间屋顶 / roof of hall 1",
        "roof1",
        1,
        "huawei/sun2000",
        "pv1",
        {"ac": "generation.pv", "meter.ac": "check"},
        {"meter.ac": "grid"},
        params={"strings": 20, "mppts": 10, "battery": 0},
        texts={"device.model": "SUN2000-100KTL-M1", "device.firmware": "V500R001C00SPC142"},
        every={"fast": "5 s", "normal": "10 s", "slow": "10 s"},
    ),
    ParkSlot(
        "inv2",
        "2#车间屋顶 / roof of hall 2",
        "roof2",
        247,
        "goodwe/dt",
        "pv2",
        {"ac": "generation.pv"},
        texts={"device.model": "GW20K-DT"},
        every={"fast": "2 s", "normal": "5 s", "slow": "10 s"},
    ),
    ParkSlot("grid", "并网点 / grid connection", "cabinet", 1, "eastron/sdm630", "grid", {"ac": "grid"}, every=BRISK),
    ParkSlot(
        "workshop",
        "机加工车间 / workshop",
        "cabinet",
        2,
        "acrel/adl400",
        "workshop",
        {"ac": "x.workshop"},  # the prefix is not "load", because the meter of the halls already counts this load
        every=BRISK,
    ),
    ParkSlot(
        "storage",
        "储能柜 / storage cabinet",
        "storage",
        1,
        "pylontech/force-h",
        "storage",
        {"battery": "storage"},
        texts={"device.vendor": "PYLON", "device.model": "Force-H2"},
        every={"fast": "2 s", "normal": "5 s", "slow": "10 s", "cells": "60 s"},
    ),
    ParkSlot(
        "heat",
        "空压机余热 / compressor heat",
        "heat",
        1,
        "generic/heat-recovery-plc",
        "heat",
        {"heat": "heat.recovered", "ac": "heat.available"},  # nearly all electric power of a compressor becomes heat
        every={"fast": "5 s", "normal": "5 s", "slow": "10 s"},
    ),
)
# "meters" is one RS-485 line with devices of all protocols, at two speeds. (The folder of each protocol has the slot of
# its device.) Reading at 2400 baud is slow: a visit of the main meter takes more than a second. So this line has longer
# periods than the other lines, and only some points are read.
HEAT = ("heat.energy", "heat.power", "heat.flow", "heat.volume", "heat.temperature.supply", "heat.temperature.return")
SLOW_LINE = {"normal": "10 s", "slow": "10 s"}
HALLS = ParkSlot("halls", "厂房总用电 / all halls", "meters", 9, "eastron/sdm630", "load", {"ac": "load"},
                 every={"fast": "10 s", **SLOW_LINE})  # fmt: skip
# The plan of the park's figures. The figures of the national set are yearly. The plan also has some of them for every
# interval, so that the demo soon shows values.
PLAN = """\
schema = 1
sets = ["plain", "national-2025"]

[absent]
"direct" = "no direct line / 无绿电直连"
"gas" = "nothing burns gas here / 不用燃气"
"heat.supplied" = "no heat is bought / 无外购热力"
"steam" = "no steam is bought / 无外购蒸汽"
"cold.available" = "no residual cold / 无余冷"
"cold.recovered" = "no residual cold / 无余冷"
"pressure.available" = "no residual pressure / 无余压"
"pressure.recovered" = "no residual pressure / 无余压"

[exclude]
"national-2025/product_energy" = "nothing that is made here has an energy limit / 无适用能耗限额标准的产品"
"national-2025/solid_waste" = "no solid waste / 无工业固体废物"
"national-2025/water_reuse" = "no water meters / 无水表"

[[indicator]]
id = "clean_share"
title = { en = "Clean-energy share", zh = "清洁能源消费占比" }
numerator = "clean_energy"
denominator = "energy"
unit = "%"
periods = ["interval"]

[[indicator]]
id = "co2_per_energy"
title = { en = "CO2 per unit of energy", zh = "单位能耗碳排放" }
numerator = "co2"
denominator = "energy"
unit = "tCO2/tce"
better = "lower"
periods = ["interval"]

[[indicator]]
id = "residual_heat"
title = { en = "Residual heat that is used", zh = "余热利用率" }
numerator = "heat.recovered.energy"
denominator = "heat.available.energy"
unit = "%"
periods = ["interval"]
"""
