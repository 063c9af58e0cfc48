"""The only access to devices in the field. Each line has one owner, sends one request at a time, and limits every
wait.
"""

from drivers.line.config import LineConfig, RequestOptions, request_options, target
from drivers.line.owner import Line, LineFactory, open_line
from drivers.line.request import Answer, Request
from drivers.line.steps import StepRequest
from drivers.line.trace import FrameTrace, frames_each
from drivers.serial_setting import SerialSetting

__all__ = [
    "Answer",
    "FrameTrace",
    "Line",
    "LineConfig",
    "LineFactory",
    "Request",
    "RequestOptions",
    "SerialSetting",
    "StepRequest",
    "frames_each",
    "open_line",
    "request_options",
    "target",
]
