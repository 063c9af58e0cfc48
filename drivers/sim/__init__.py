"""The device side: simulated devices and lines, with faults, for tests, demos and users without hardware."""

from drivers.sim.bus import Bus, SimLine
from drivers.sim.device import SimDevice
from drivers.sim.encode import EncodeError
from drivers.sim.faults import InjectedFault, parse_fault
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine

__all__ = [
    "Bus",
    "EncodeError",
    "Image",
    "InjectedFault",
    "SerialLine",
    "SimDevice",
    "SimLine",
    "TcpLine",
    "parse_fault",
]
