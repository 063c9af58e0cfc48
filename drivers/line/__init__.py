"""The only access to the field: one owner per line, one request at a time, a deadline on every wait."""

from drivers.line.bytelink import wake
from drivers.line.config import LineConfig, RequestOptions, request_options, target
from drivers.line.modbus_frames import READ_FUNCTIONS, Answer, ModbusRequest, Request, crc16, crc_ok
from drivers.line.owner import Line, LineFactory, open_line
from drivers.line.steps import StepRequest
from drivers.line.trace import FrameTrace, frames_each
from drivers.serial_setting import SerialSetting

__all__ = [
    "READ_FUNCTIONS",
    "Answer",
    "FrameTrace",
    "Line",
    "LineConfig",
    "LineFactory",
    "ModbusRequest",
    "Request",
    "RequestOptions",
    "SerialSetting",
    "StepRequest",
    "crc16",
    "crc_ok",
    "frames_each",
    "open_line",
    "request_options",
    "target",
    "wake",
]
