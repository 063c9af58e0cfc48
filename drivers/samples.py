"""Recorded answers of devices that are not Modbus, read as their driver reads them: for samples of profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from drivers.addresses import ANYBODY
from drivers.framing import FrameScanner
from drivers.line import LineConfig, open_line
from drivers.meter_device import MeterDevice
from drivers.model import DeviceSpec, Point, Reading
from drivers.profile import Profile
from drivers.registry import driver_class
from ext.ring import Ring


def has_frames(protocol: str) -> bool:
    """Are samples of this protocol frames?."""
    return protocol in ANYBODY


def read_frames(profile: Profile, points: tuple[Point, ...], frames: Mapping[str, str]) -> dict[str, Reading]:
    """Point name -> reading. ``frames``: question -> hex of its answer, several frames in a row where there are.

    Raises ValueError where there is no hex or no sound frame, LineError where the answer is a refusal.
    """
    spec = DeviceSpec("sample", "", ANYBODY[profile.protocol], profile.protocol, profile.id, points, (0, 0, 0, 0, 0))
    line = open_line(LineConfig("sample", "serial:/dev/null"))  # never opened: nothing is asked
    device = cast(MeterDevice, driver_class(profile.protocol)(spec, line, cast(Ring, None), 0))
    found: dict[str, list[bytes]] = {}
    for what, text in frames.items():
        found[what] = [frame.raw for frame in _parser(profile.protocol).feed(bytes.fromhex(text))]
        if not found[what]:
            raise ValueError(f"the frame of {what} is not sound")
    return device.read_frames(found)


def _parser(protocol: str) -> FrameScanner[Any]:
    from drivers import cjt188, dlt645, mbus

    parsers: dict[str, type[FrameScanner[Any]]] = {
        "dlt645": dlt645.Parser,
        "cjt188": cjt188.Parser,
        "mbus": mbus.Parser,
    }
    return parsers[protocol]()


def read_sunspec(profile: Profile, points: tuple[Point, ...], words: Mapping[int, int]) -> dict[str, Reading]:
    """Point name -> reading, out of holding registers; points without registers are left out.

    Raises FrameError without a marker.
    """
    from drivers.sunspec.device import SunSpecDevice

    spec = DeviceSpec("sample", "", "1", profile.protocol, profile.id, points, (0, 0, 0, 0, 0))
    line = open_line(LineConfig("sample", "serial:/dev/null"))
    return SunSpecDevice(spec, line, cast(Ring, None), 0).read_image(words)
