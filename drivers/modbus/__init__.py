"""Modbus over TCP and RTU: reads only, planned by wire time, decoded straight into the ring."""

from drivers.modbus.device import ModbusDevice
from drivers.modbus.requests import identification_request, read_identification, read_request

__all__ = ["ModbusDevice", "identification_request", "read_identification", "read_request"]
