"""The devices of the demo park, before they exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Slot:
    """One device of a park before it exists: where it hangs, what it is, which part of the park it shows."""

    name: str
    label: str
    line: str
    unit: int
    profile: str
    role: str
    roles: Mapping[str, str]  # for agent.toml
    params: Mapping[str, int | str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    address: str = ""  # of a meter that is no Modbus; its ``unit`` says nothing
    baud: int | None = None  # its own speed on a line of several
    every: Mapping[str, str] = field(default_factory=dict)  # for agent.toml: pace -> period
    points: Sequence[str] = ()  # for agent.toml: () means all


CABINETS: tuple[Slot, ...] = (
    Slot(
        "inv1",
        "1#车间屋顶 / roof of hall 1",
        "roof1",
        1,
        "huawei/sun2000",
        "pv1",
        {"ac": "generation.pv", "meter.ac": "check"},
        {"strings": 20, "mppts": 10, "battery": 0},
        {"device.model": "SUN2000-100KTL-M1", "device.firmware": "V500R001C00SPC142"},
    ),
    Slot(
        "inv2",
        "2#车间屋顶 / roof of hall 2",
        "roof2",
        247,
        "goodwe/dt",
        "pv2",
        {"ac": "generation.pv"},
        texts={"device.model": "GW20K-DT"},
    ),
    Slot("grid", "并网点 / grid connection", "cabinet", 1, "eastron/sdm630", "grid", {"ac": "grid"}),
    Slot("workshop", "机加工车间 / workshop", "cabinet", 2, "acrel/adl400", "workshop", {"ac": "load"}),
    Slot(
        "storage",
        "储能柜 / storage cabinet",
        "storage",
        1,
        "pylontech/force-h",
        "storage",
        {"battery": "storage"},
        texts={"device.vendor": "PYLON", "device.model": "Force-H2"},
    ),
    Slot(
        "heat",
        "空压机余热 / compressor heat",
        "heat",
        1,
        "generic/heat-recovery-plc",
        "heat",
        {"heat": "heat.recovered", "ac": "load"},
    ),
)
# One RS-485 line of four protocols, SunSpec and two speeds. What is read at 2400 baud takes its time (a visit of the
# main meter more than a second), so the paces of this line are longer than those of the others, and not all is asked.
HEAT = ("heat.energy", "heat.power", "heat.flow", "heat.volume", "heat.temperature.supply", "heat.temperature.return")
SLOW_LINE = {"normal": "10 s", "slow": "60 s"}
METERS: tuple[Slot, ...] = (
    Slot(
        "tower",
        "总表 / main meter",
        "meters",
        0,
        "dlt645/2007",
        "grid",
        {"ac": "check"},
        address="000000000161",
        baud=2400,
        every=SLOW_LINE,
        points=("ac.power.active*", "ac.energy.import", "ac.energy.export", "ac.voltage.*", "device.serial"),
    ),
    Slot(
        "heat-hall",
        "供热表 / heat meter",
        "meters",
        0,
        "mbus/heat",
        "heat",
        {"heat": "check"},
        address="5",
        baud=2400,
        every={"slow": "10 s"},
        points=HEAT,
    ),
    Slot(
        "heat-office",
        "热表 / heat meter",
        "meters",
        0,
        "cjt188/heat",
        "heat",
        {"heat": "check"},
        address="22223333444455",
        baud=2400,
        every={"slow": "10 s"},
        points=HEAT,
    ),
    Slot(
        "inv3",
        "门卫屋顶 / gatehouse roof",
        "meters",
        3,
        "sunspec/inverter",
        "pv3",
        {"ac": "generation.pv"},
        texts={"device.vendor": "Acme", "device.model": "Sun 12", "device.firmware": "1.4"},
        every={"fast": "10 s", "normal": "10 s"},
        points=("ac.*", "dc.power", "dc.mppt.1.*", "dc.mppt.2.*", "device.state", "device.model", "device.firmware"),
    ),
    Slot("lathe", "车床 / lathe", "meters", 9, "eastron/sdm630", "workshop", {"ac": "check"},
         every={"fast": "10 s", "normal": "10 s"}),
)  # fmt: skip
DEMO: tuple[Slot, ...] = (*CABINETS, *METERS)
