"""SunSpec over Modbus: finds the models of a device and decodes them by the Alliance's own definitions."""

from drivers.sunspec.models import (
    END_MODEL,
    GroupDef,
    Model,
    PointDef,
    PointValue,
    decode_model,
    definition,
    whole_registers,
)
from drivers.sunspec.names import name_of, readings_of
from drivers.sunspec.walk import BASES, MARKER, Device, decode_image, discover

__all__ = [
    "BASES",
    "END_MODEL",
    "MARKER",
    "Device",
    "GroupDef",
    "Model",
    "PointDef",
    "PointValue",
    "decode_image",
    "decode_model",
    "definition",
    "discover",
    "name_of",
    "readings_of",
    "whole_registers",
]
