"""SunSpec: finds and reads the models of inverters, meters and storage systems over Modbus."""

from pathlib import Path

from drivers.modbus import FRAMES, SCHEMES, check_unit
from drivers.protocol import Protocol, without_zeros

PROTOCOL = Protocol(
    name="sunspec",
    title="SunSpec",
    device="drivers.sunspec.device:SunSpecDevice",
    frames={"function 3": FRAMES["function 3"]},
    check_address=check_unit,
    normal_address=without_zeros,
    schemes=SCHEMES,
    has_registers=True,
    register_request="drivers.modbus.requests:read_request",
    any_address="1",
    tells_its_model=True,
    wire="modbus",
    libraries=("pysunspec2",),
    explainers="drivers.sunspec.explain:EXPLAINERS",
    chinese=Path(__file__).parent / "chinese.txt",
    simulate="drivers.sunspec.simulate:simulate",
    demo="drivers.sunspec.simulate:DEMO",
)
