"""The only access to the field: one owner per line, one request at a time, a deadline on every wait."""

from drivers.line.config import LineConfig, RequestOptions, request_options, target, warnings
from drivers.line.frames import READ_FUNCTIONS, Answer, ModbusRequest, Request, crc16
from drivers.line.owner import Line, LineFactory, LineLease, open_line
from drivers.line.stats import LineStats
from drivers.line.trace import FrameTrace, TracedFrame, frames_each, read_trace
from drivers.serial_setting import SerialSetting

__all__ = [
    "READ_FUNCTIONS",
    "Answer",
    "FrameTrace",
    "Line",
    "LineConfig",
    "LineFactory",
    "LineLease",
    "LineStats",
    "ModbusRequest",
    "Request",
    "RequestOptions",
    "SerialSetting",
    "TracedFrame",
    "crc16",
    "frames_each",
    "open_line",
    "read_trace",
    "request_options",
    "target",
    "warnings",
]
